"""`steelyard study`: try the papers' claims, each with its arms, three seeds and one verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import AsJson
from cluster.commands.results import DOCS, Docs

if TYPE_CHECKING:
    from cluster.experiments.studies.standing import StudyStanding


def study(
    name: Annotated[str | None, typer.Argument(help="Of a study, or its letter; `all` takes them in turn.")] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="Every study: what it claims, costs, and says so far.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(min=0, help="Start no new run after this long.")] = None,
    docs: Docs = DOCS,
    as_json: AsJson = False,
) -> None:
    """Run what a study lacks and say its verdict; the same command goes on where it stopped.

    Arms that another study or the results table has run are not run again. `steelyard results write` puts the verdicts on
    the page of results.
    """
    from cluster.experiments.results.cells import logic_digest
    from cluster.experiments.studies.catalogue import STUDIES, find_study
    from cluster.experiments.studies.standing import standings
    from configs.exits import ConfigError

    rows = docs / "results" / "rows"
    if show_list:
        listed = standings(rows, logic_digest())
        _show(listed, [line for standing in listed for line in _entry(standing)], as_json=as_json)
        return
    if name is None:
        raise ConfigError("give the name of a study, `all`, or --list")
    studies = list(STUDIES) if name == "all" else [find_study(name)]
    if any(standing.missing for standing in standings(rows, logic_digest(), studies)):
        from cluster.commands.run import progress_lines
        from cluster.resources.connection import join_own_head

        storage = Path.cwd() / "runs"
        join_own_head(storage)
        from cluster.experiments.studies.sitting import sit

        sit(studies, storage, rows, minutes, lambda text: typer.echo(text, err=True), progress_lines())
    finished = standings(rows, logic_digest(), studies)
    _show(finished, [standing.line for standing in finished], as_json=as_json)


def _show(listed: list[StudyStanding], lines: list[str], *, as_json: bool) -> None:
    typer.echo(json.dumps([standing.document() for standing in listed], indent=1) if as_json else "\n".join(lines))


def _entry(standing: StudyStanding) -> list[str]:
    """What the list says of one study."""
    study, runs, missing = standing.study, len(standing.study.cells()), len(standing.missing)
    remaining = "" if standing.minutes_left is None else f", about {standing.minutes_left:.0f} min left"
    stale = f"; {len(standing.stale)} stale: `steelyard results probe` says whether they hold" if standing.stale else ""
    state = f"{remaining}{stale}" if missing else f", all there; they took {standing.minutes:.0f} min"
    return [
        f"({study.letter}) {study.name:<20} {runs - missing:>2} of {runs:>2} runs{state}",
        f"    {study.claim}",
        f"    {standing.line}",
    ]
