"""`steelyard results`: fill docs/results.md over as many sittings as it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import AsJson

if TYPE_CHECKING:
    from cluster.experiments.results.plan import Scope

app = typer.Typer(
    no_args_is_help=True,
    help="Run the arms of docs/results.md, and write the page from their rows.",
    rich_markup_mode=None,
)
TableOnly = Annotated[bool, typer.Option("--table", help="The table of arms (the default).")]
Sweep = Annotated[bool, typer.Option("--sweep", help="The limit sweep.")]
Full = Annotated[bool, typer.Option("--full", help="Both, with every fixed weight and every limit on three seeds.")]
Docs = Annotated[
    Path,
    typer.Option(
        "--docs", exists=True, file_okay=False, help="Folder of results.md; rows are in results/rows below it."
    ),
]
DOCS = Path("docs")


@app.command()
def run(
    table: TableOnly = False,
    sweep: Sweep = False,
    full: Full = False,
    minutes: Annotated[float | None, typer.Option(min=0, help="Start no new run after this long.")] = None,
    arms: Annotated[str, typer.Option(help="These arms alone, with commas between them.")] = "",
    seeds: Annotated[str, typer.Option(help="These seeds alone, with commas between them.")] = "",
    docs: Docs = DOCS,
) -> None:
    """Run what is missing or stale, one run after another; the same command goes on where it stopped."""
    from cluster.commands.run import progress_lines
    from cluster.experiments.results.cells import logic_digest
    from cluster.experiments.results.plan import next_cell
    from cluster.experiments.results.status import standing
    from cluster.resources.connection import join_own_head

    scope = scope_of(table=table, sweep=sweep, full=full, arms=arms, seeds=seeds)
    rows = docs / "results" / "rows"
    present = standing(rows, scope, logic_digest())
    typer.echo(present.sentence())
    if next_cell(present.plan, present.fresh) is None:
        return
    storage = Path.cwd() / "runs"
    join_own_head(storage)
    from cluster.experiments.results.sitting import sit

    written = sit(scope, storage, rows, minutes, typer.echo, progress_lines())
    typer.echo(f"{written} rows written; {standing(rows, scope, logic_digest()).sentence()}")


@app.command()
def probe(docs: Docs = DOCS, as_json: AsJson = False) -> None:
    """Run every arm at the smallest size, and say whether changed code has changed the figures: if not, rows stay fresh."""
    import tempfile

    from cluster.experiments.results.cells import logic_digest
    from cluster.experiments.results.probe import (
        comparable,
        moved,
        probe_settings,
        processor_kind,
        read_probes,
        record,
        run_probe,
    )
    from cluster.resources.connection import join_own_head

    code, folder = logic_digest(), docs / "results"
    with tempfile.TemporaryDirectory() as storage:
        join_own_head(Path(storage))
        from cluster.resources.connection import warm_engines
        from configs.layout import RunLayout

        with warm_engines(probe_settings(), RunLayout(Path(storage) / "probe")) as (engines, _dashboard):
            figures = run_probe(engines, Path(storage), lambda text: typer.echo(text, err=True))
    processor = processor_kind()
    earlier = comparable(read_probes(folder), processor)
    changes = moved(figures, earlier[-1].figures) if earlier else []
    codes = record(folder, code, figures, processor).codes
    if as_json:
        document = {"code": code, "same": list(codes), "moved": changes, "processor": processor}
        typer.echo(json.dumps(document, indent=1))
        return
    if changes and not any(probe.processor == processor for probe in earlier):
        typer.echo(
            f"no earlier code was probed on this kind of processor ({processor}), and another kind rounds differently: "
            "run `steelyard results probe` at an earlier commit here to tell the two apart"
        )
    for line in changes[:20]:
        typer.echo(line)
    known_as = f"gives what {len(codes) - 1} earlier versions gave" if len(codes) > 1 else "gives figures of its own"
    typer.echo(f"this code {known_as}; {len(figures)} figures compared")


@app.command()
def write(docs: Docs = DOCS) -> None:
    """Write docs/results.md, its pictures and the results on the algorithms' pages from the rows; runs nothing."""
    from cluster.experiments.results.cells import logic_digest
    from cluster.experiments.results.page import write_pages
    from cluster.experiments.results.plan import Scope
    from cluster.experiments.results.status import standing
    from cluster.experiments.studies.standing import standings

    rows, code = docs / "results" / "rows", logic_digest()
    for path in write_pages(standing(rows, Scope(sweep=True), code), docs, standings(rows, code)):
        typer.echo(path)


@app.command()
def status(
    table: TableOnly = False, sweep: Sweep = False, full: Full = False, docs: Docs = DOCS, as_json: AsJson = False
) -> None:
    """Say which rows are there, stale or missing, and about how long the rest takes; both table and sweep unless asked."""
    from cluster.experiments.results.cells import logic_digest
    from cluster.experiments.results.plan import Scope
    from cluster.experiments.results.status import standing

    scope = scope_of(table=table, sweep=sweep, full=full) if table or sweep or full else Scope(sweep=True)
    present = standing(docs / "results" / "rows", scope, logic_digest())
    if as_json:
        typer.echo(json.dumps(present.as_json(), indent=1))
        return
    for cell in present.plan.cells:
        typer.echo(f"{cell.name:<40} {present.state(cell)}")
    if present.plan.undecided:
        typer.echo(f"and the best of the seven fixed weights on {present.plan.undecided} more seeds, once it is known")
    typer.echo(present.sentence())


def scope_of(*, table: bool, sweep: bool, full: bool, arms: str = "", seeds: str = "") -> Scope:
    """What the options ask for; with none of the three, the table.

    Raises:
        ConfigError: an unknown arm, or a seed that is no number.
    """
    from cluster.experiments.results.plan import Scope, check_scope
    from configs.exits import ConfigError

    numbers = _words(seeds)
    if wrong := [number for number in numbers if not number.isdecimal()]:
        raise ConfigError(f"--seeds: '{wrong[0]}' is no seed; give numbers with commas between them, such as 0,1,2")
    scope = Scope(
        table=table or not sweep,
        sweep=sweep,
        full=full,
        arms=tuple(_words(arms)),
        seeds=tuple(int(number) for number in numbers),
    )
    check_scope(scope)
    return scope


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
