"""`steelyard data check`: read a source once, set bad rows aside, and say how good the rest is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.common import AsJson
from configs.exits import DataError, Exit

if TYPE_CHECKING:
    from rich.console import Console

    from learner.data.layout import Ranking
    from learner.data.quality.check import Quality, QualityCheck
    from learner.data.quality.repeats import Prompts
    from learner.data.quarantine import Quarantine
    from learner.data.records import Parsed


class RankingChoice(StrEnum):
    """Which of a pair's two rankings."""

    BETTER = "better"
    SAFER = "safer"


WINNER_FIRST = frozenset({"hh_rlhf"})
"""Formats that write the preferred response first, so that its place says nothing about the data."""
_REFRESH = 500
"""Rows between two moves of the progress line."""


def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file, folder, glob, or hub:owner/name@revision.")],
    format: Annotated[str | None, typer.Option("--format", help="Its format; else it is looked for.")] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="FILE", help="Data whose prompts must not be in FILE.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Which split, of a folder or the hub.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Of the hub: a commit, tag or branch.")] = None,
    against_split: Annotated[str | None, typer.Option("--against-split", help="Likewise, of --against.")] = None,
    ranking: Annotated[
        RankingChoice | None,
        typer.Option("--ranking", help="What HH-RLHF's order means; else the file's name says it."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Look at so many rows only.")] = None,
    quarantine: Annotated[
        Path | None, typer.Option("--quarantine", help="Where bad rows go; else quarantine.parquet where you are.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count, measure and question preference data; bad rows go to a file of their own. Exits with 4 if there are any."""
    from rich.console import Console

    from cluster.commands.text.data_check import show_quality
    from learner.data.formats import read_source
    from learner.data.quality.check import QualityCheck
    from learner.data.quarantine import QUARANTINE, Quarantine

    console = Console(stderr=True)
    bad_rows = Quarantine(Path(QUARANTINE) if quarantine is None else quarantine)
    try:
        name = format or _format_of(file, revision, split)
        order: Ranking | None = None if ranking is None else ranking.value
        rows = read_source(file, format=name, revision=revision, split=split, limit=limit, ranking=order)
        against_prompts = None if against is None else _prompts(against, against_split, console)
        quality = QualityCheck(fixed_order=name in WINNER_FIRST, against=against_prompts)
        result = _pass(_counted(rows, console, "rows"), quality, bad_rows)
    except DataError:
        if as_json:
            # A script asked for one object, whatever happens; the message follows on stderr.
            typer.echo(json.dumps({"file": file, "format": format, **nothing_read()}))
        raise
    show_quality(console, file, name, result, against=against, quarantine=bad_rows)
    if as_json:
        typer.echo(json.dumps({"file": file, "format": name, **result.document()}, allow_nan=False))
    if any(tally.severity == "error" for tally in result.findings):
        raise typer.Exit(int(Exit.DATA))


def nothing_read() -> dict[str, Any]:
    """The object's other keys when the source could not be read at all."""
    finding = {"kind": "unreadable", "severity": "error", "count": 1, "rows": []}
    return {"rows": 0, "ok_rows": 0, "quarantined": 0, "findings": [finding], "balance": {}, "agreement": {}}


def _pass(rows: Iterator[Parsed], quality: QualityCheck, quarantine: Quarantine) -> Quality:
    with quarantine:
        for parsed in rows:
            findings = quality.add(parsed)
            if any(row_finding.severity == "error" for row_finding in findings):
                quarantine.add(parsed, findings)
    return quality.finish()


def _format_of(source: str, revision: str | None, split: str | None) -> str | None:
    """The source's format; None where it cannot be told, and reading the rows is to say why."""
    from learner.data.formats import detect_format

    try:
        return detect_format(source, revision=revision, split=split)
    except DataError:
        return None


def _counted(rows: Iterator[Parsed], console: Console, noun: str) -> Iterator[Parsed]:
    """The rows, with a line on stderr that counts them."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(noun, total=None)
        for count, parsed in enumerate(rows, start=1):
            if count % _REFRESH == 0:
                progress.update(task, completed=count)
            yield parsed


def _prompts(source: str, split: str | None, console: Console) -> Prompts:
    from learner.data.formats import read_source
    from learner.data.quality.check import prompts_of

    prompts = prompts_of(_counted(read_source(source, split=split), console, "rows of --against"))
    if not len(prompts.keys):
        raise DataError(f"--against {source}: no row of it has a prompt to compare with")
    return prompts
