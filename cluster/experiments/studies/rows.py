"""Rows of finished cells with the further figures that the studies read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from actors.crowd.world_reader import load_world
from cluster.experiments.results.cells import Cell
from cluster.experiments.results.rows import Origin, Row, bare_row, row_of_run
from cluster.experiments.studies.figures import manifest_facts, model_figures, policy_figures, unusual_prompts
from configs.layout import RunLayout


def row_with_figures(cell: Cell, layout: RunLayout, origin: Origin) -> Row:
    """The row of a finished run with all that the studies read."""
    settings = cell.settings()
    world = load_world(settings.sandbox.world)
    figures = (
        model_figures(manifest_facts(layout.manifest))
        | policy_figures(layout)
        | unusual_prompts(layout, world, settings.seed)
    )
    return replace(row_of_run(cell, layout, origin), figures=figures)


def row_of_models(cell: Cell, layout: RunLayout, origin: Origin) -> Row:
    """The row of a run that went no further than its reward model."""
    status: dict[str, Any] = json.loads(layout.status.read_text(encoding="utf-8"))
    return replace(
        bare_row(cell, origin),
        setting="a reward model alone",
        verdict="only the reward model was trained",
        seconds={name: float(stage["seconds"]) for name, stage in status["stages"].items()},
        figures=model_figures(manifest_facts(layout.manifest)),
    )
