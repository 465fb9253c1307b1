"""Stage `ppo`: Lagrangian PPO from the SFT policy against the round's reward and cost models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.context import RunContext
from cluster.loop import PpoLoop
from cluster.stages import preferences, score_models, sft
from cluster.stages.base import Stage, StageOutput
from configs.schema.run import RunSettings

NAME = "ppo"


def ppo_stage(settings: RunSettings) -> Stage:
    """The loop for these settings."""
    costs = tuple(score_models.cost_stage_name(name) for name in settings.constraints)
    return Stage(
        name=NAME,
        inputs=(sft.NAME, preferences.NAME, score_models.REWARD, *costs),
        settings={
            "seed": settings.seed,
            "objective": settings.objective.model_dump(mode="json"),
            "constraints": {name: one.model_dump(mode="json") for name, one in settings.constraints.items()},
            "ppo": settings.ppo.model_dump(mode="json"),
            "learner": settings.resources.learner.model_dump(mode="json", include={"ranks", "dtype", "zero_stage"}),
            "deterministic": settings.deterministic,
            "dtype": settings.resources.generators.dtype,
        },
        code=(
            "cluster/loop.py",
            "cluster/constraints.py",
            "cluster/promptsets.py",
            "cluster/requests.py",
            "learner",
            "actors",
        ),
        run=_run,
        shared=False,
    )


def _run(context: RunContext) -> StageOutput:
    context.engines.end_supervised()
    loop = PpoLoop(context, inputs_of(context))
    facts = loop.run()
    policy = context.layout.policy(context.round_number)
    loop.learner.save_policy(policy)
    return StageOutput((policy, context.layout.metrics), facts)


def inputs_of(context: RunContext) -> dict[str, Any]:
    """Model folders and scales that the loop starts from, by the names `PpoLoop` takes them."""
    layout, number = context.layout, context.round_number
    reward = layout.reward(number)
    costs = {name: layout.cost(number, name) for name in context.settings.constraints}
    normaliser = _document(reward, "normaliser.json")
    calibrations = {
        name: _document(path, "calibration.json")
        for name, path in costs.items()
        if (path / "calibration.json").exists()
    }
    return {
        "reward_path": reward,
        "cost_paths": costs,
        "normaliser": (float(normaliser["mean"]), float(normaliser["std"])),
        "calibrations": calibrations,
        "cost_means": {name: _mean_cost(context, name) for name in costs},
    }


def _mean_cost(context: RunContext, constraint: str) -> float:
    """Where a fresh cost critic starts: the mean of g over the preference set, divided by the scale."""
    one = context.settings.constraints[constraint]
    if one.measure == "rate":
        return float(context.facts(preferences.NAME)["unsafe_share"]) / one.effective_scale
    mean_cost = float(context.facts(score_models.cost_stage_name(constraint))["score_mean"])
    return (mean_cost if one.measure == "mean" else max(0.0, mean_cost)) / one.effective_scale


def _document(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found
