"""`steelyard study`: try the papers' claims, each with its arms, three seeds and one verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import AsJson
from cluster.commands.results import DOCS, Docs

if TYPE_CHECKING:
    from cluster.studies.standing import StudyStanding


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
    from cluster.results.cells import logic_digest
    from cluster.studies.catalogue import STUDIES, find_study
    from cluster.studies.standing import standings
    from configs.exits import ConfigError

    rows = docs / "results" / "rows"
    if show_list:
        _show_list(standings(rows, logic_digest()), as_json=as_json)
        return
    if name is None:
        raise ConfigError("give the name of a study, `all`, or --list")
    studies = list(STUDIES) if name == "all" else [find_study(name)]
    if any(each.missing for each in standings(rows, logic_digest(), studies)):
        from cluster.commands.run import join_own_head, progress_lines

        storage = Path.cwd() / "runs"
        join_own_head(storage)
        from cluster.studies.sitting import sit

        sit(studies, storage, rows, minutes, lambda text: typer.echo(text, err=True), progress_lines())
    found = standings(rows, logic_digest(), studies)
    if as_json:
        typer.echo(json.dumps([each.document() for each in found], indent=1))
        return
    for each in found:
        typer.echo(each.line)


def _show_list(found: list[StudyStanding], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([each.document() for each in found], indent=1))
        return
    for each in found:
        runs = len(each.study.cells())
        left = "–" if each.minutes_left is None else f"about {each.minutes_left:.0f} min left"
        cost = "all there" if not each.missing else f"{left}"
        typer.echo(
            f"({each.study.letter}) {each.study.name:<20} {runs - len(each.missing):>2} of {runs:>2} runs, {cost}"
        )
        typer.echo(f"    {each.study.claim}")
        typer.echo(f"    {each.line}")
