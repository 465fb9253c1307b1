"""Rows of finished cells with the further figures that the studies read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from actors.crowd.world import load_world
from cluster.results.cells import Cell, config_digest, settings_of_result
from cluster.results.rows import Origin, Row, now_text, row_of_run
from cluster.studies.figures import manifest_facts, model_figures, policy_figures, unusual_prompts
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
    settings = cell.settings()
    found: dict[str, Any] = json.loads(layout.status.read_text(encoding="utf-8"))
    return Row(
        preset=cell.preset,
        arm=cell.arm,
        seed=cell.seed,
        algorithm=settings.algorithm,
        setting="a reward model alone",
        overrides=cell.overrides(),
        command=cell.command(),
        commit=origin.commit,
        code_digest=origin.code_digest,
        config_digest=config_digest(settings),
        settings=settings_of_result(settings),
        world=load_world(settings.sandbox.world).digest(),
        date=now_text(),
        verdict="only the reward model was trained",
        certificate=None,
        promoted_step=None,
        seconds={name: float(stage["seconds"]) for name, stage in found["stages"].items()},
        overall={},
        sqrt_kl=None,
        evaluation={},
        curve=[],
        figures=model_figures(manifest_facts(layout.manifest)),
    )
