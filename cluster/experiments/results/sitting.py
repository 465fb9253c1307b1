"""One sitting: run missing cells one after another on warm engines, and keep a row of each as soon as it is done.

Invariant: whatever ends a sitting, the rows written so far stay, and the next sitting goes on with the first that is not
there. A cell that was cut off goes on from its own checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.experiments.results.cells import TABLE, Cell, preset_settings
from cluster.experiments.results.plan import Scope, make_plan, next_cell
from cluster.experiments.results.probe import same_code
from cluster.experiments.results.rows import Row, present_origin, read_rows, write_row
from cluster.run_folder.status import OnStatus
from configs.layout import RunLayout
from configs.load import dump_settings

Say = Callable[[str], None]


def fresh_rows(folder: Path, code_digest: str) -> dict[Cell, Row]:
    """The rows that the present tree would give again."""
    codes = same_code(folder.parent, code_digest)
    return {cell: row for cell, row in read_rows(folder).items() if not row.stale(codes)}


def sit(
    scope: Scope, storage: Path, rows: Path, minutes: float | None, say: Say, on_status: OnStatus | None = None
) -> int:
    """Run what is missing or stale, in the plan's order, on engines that stay warm; returns how many cells were done.

    Args:
        storage: folder of run folders; each preset has its own below.
        rows: folder of the row files.
        minutes: no new cell starts after this long; None means until nothing is missing.
        on_status: is shown every change of the running cell's status.
    """
    from cluster.experiments.arms import run_arm
    from cluster.experiments.studies.rows import row_with_figures
    from cluster.resources.connection import warm_engines

    origin = present_origin()  # before anything runs: what is edited meanwhile made none of these rows
    settings = preset_settings(TABLE)
    with warm_engines(settings, RunLayout(storage / settings.name)) as (engines, _dashboard):

        def run(cell: Cell) -> Row:
            comparison = preset_settings(cell.preset)
            layout = RunLayout(storage / comparison.name)
            declare(layout, cell.preset)
            run_arm(
                comparison,
                layout,
                engines,
                cell.arm,
                cell.seed,
                donors=donors(storage, cell),
                on_status=on_status,
            )
            row = row_with_figures(cell, layout.arm(cell.arm, cell.seed), origin)
            write_row(row, rows)
            return row

        return fill(scope, fresh_rows(rows, origin.code_digest), run, minutes, say)


def fill(
    scope: Scope,
    fresh: Mapping[Cell, Row],
    run: Callable[[Cell], Row],
    minutes: float | None,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run the plan's next cell until nothing is missing or the time is over; returns how many were done.

    The plan is made again after every cell: the best fixed weight is known only when all have run.
    """
    rows, began, finished = dict(fresh), clock(), 0
    while (cell := next_cell(make_plan(scope, rows), rows)) is not None:
        if minutes is not None and clock() - began >= 60 * minutes:
            say(f"{minutes:g} minutes are over; the same command goes on with {cell.name}")
            break
        say(f"{cell.name} …")
        rows[cell] = run(cell)
        finished += 1
        say(f"{cell.name}: {rows[cell].verdict}")
    return finished


def declare(layout: RunLayout, preset: str) -> None:
    """Leave the comparison's configuration where `steelyard report` looks for it."""
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.config.write_text(dump_settings(preset_settings(preset)), encoding="utf-8")


def donors(storage: Path, cell: Cell) -> list[RunLayout]:
    """Every arm's run with the same seed, of any comparison in the storage: its earlier stages may be taken over."""
    cell_folder = RunLayout(storage / preset_settings(cell.preset).name).arm(cell.arm, cell.seed).root
    return [RunLayout(path) for path in sorted(storage.glob(f"*/arms/*-seed{cell.seed}")) if path != cell_folder]
