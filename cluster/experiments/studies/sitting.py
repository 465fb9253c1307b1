"""One sitting of the studies: run what is missing on warm engines, and keep a row of each run as soon as it is done.

Invariant: whatever ends a sitting, the rows written so far stay, and the next one goes on with the first that is missing. A
run that was cut off goes on from its own checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.experiments.arms import run_arm
from cluster.experiments.results.cells import Cell, preset_settings
from cluster.experiments.results.rows import Origin, Row, present_origin, write_row
from cluster.experiments.results.sitting import Say, declare, donors
from cluster.experiments.studies.catalogue import MODELS_ONLY, Study
from cluster.experiments.studies.rows import row_of_models, row_with_figures
from cluster.experiments.studies.standing import standings
from cluster.inputs.sources import check_inputs
from cluster.resources.connection import warm_engines
from cluster.resources.engines import Engines
from cluster.run_folder.status import OnStatus
from cluster.runs.pipeline import run_until
from cluster.runs.stages import score_models
from configs.layout import RunLayout


def sit(
    studies: Sequence[Study],
    storage: Path,
    rows: Path,
    minutes: float | None,
    say: Say,
    on_status: OnStatus | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run every missing cell of these studies; returns how many were done.

    Args:
        storage: folder of run folders; each preset has its own below.
        rows: folder of the row files.
        minutes: no new run starts after this long; None means until nothing is missing.
    """
    origin, began, finished = present_origin(), clock(), 0
    while cells := missing_cells(studies, rows, origin):
        shape = preset_settings(cells[0].preset)
        alike = [cell for cell in cells if preset_settings(cell.preset).model == shape.model]
        with warm_engines(shape, RunLayout(storage / shape.name)) as (engines, _dashboard):  # of one size of model
            for cell in alike:
                if minutes is not None and clock() - began >= 60 * minutes:
                    say(f"{minutes:g} minutes are over; the same command goes on with {cell.name}")
                    return finished
                say(f"{cell.name} …")
                row = run_cell(cell, storage, engines, origin, on_status)
                write_row(row, rows)
                finished += 1
                say(f"{cell.name}: {row.verdict}")
    return finished


def missing_cells(studies: Sequence[Study], rows: Path, origin: Origin) -> list[Cell]:
    """Runs that no fresh row is there of, seed by seed so that neighbours share the earlier stages."""
    missing = [cell for standing in standings(rows, origin.code_digest, studies) for cell in standing.missing]
    return sorted(dict.fromkeys(missing), key=lambda cell: cell.seed)


def run_cell(cell: Cell, storage: Path, engines: Engines, origin: Origin, on_status: OnStatus | None = None) -> Row:
    """Bring one cell to its end and read its row."""
    comparison = preset_settings(cell.preset)
    layout = RunLayout(storage / comparison.name)
    declare(layout, cell.preset)
    arm_layout = layout.arm(cell.arm, cell.seed)
    arm_donors = donors(storage, cell)
    if cell.preset in MODELS_ONLY:
        settings = cell.settings()
        run_until(
            score_models.REWARD,
            settings,
            arm_layout,
            check_inputs(settings),
            engines,
            donors=arm_donors,
            on_status=on_status,
        )
        return row_of_models(cell, arm_layout, origin)
    run_arm(comparison, layout, engines, cell.arm, cell.seed, donors=arm_donors, on_status=on_status)
    return row_with_figures(cell, arm_layout, origin)
