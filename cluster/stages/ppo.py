"""Stage `ppo`: Lagrangian PPO from the SFT policy against the round's reward and cost models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.context import RunContext
from cluster.digests import model_digest
from cluster.halves import SIGNAL
from cluster.limits import chosen_limit_problem
from cluster.loop import PpoLoop
from cluster.stages import preferences, score_models, sft
from cluster.stages.base import Stage, StageOutput
from configs.exits import ConfigError
from configs.schema.run import RunSettings
from learner.statistics.calibration import load_calibration
from learner.statistics.sqrt_kl import fit_sqrt_kl

NAME = "ppo"


def ppo_stage(settings: RunSettings) -> Stage:
    """The loop for these settings."""
    models = [stage.name for stage in score_models.stages(settings)]
    return Stage(
        name=NAME,
        inputs=(sft.NAME, preferences.NAME, *models),
        settings={
            "seed": settings.seed,
            "objective": settings.objective.model_dump(mode="json"),
            "constraints": {name: one.model_dump(mode="json") for name, one in settings.constraints.items()},
            "algorithm": settings.algorithm,
            "ppo": settings.ppo.model_dump(mode="json"),
            "splits": settings.splits.model_dump(mode="json"),
            "selection": settings.selection.model_dump(mode="json", include={"candidates", "every"}),
            "reference": settings.reference.model_dump(mode="json"),
            "halves": settings.halves.model_dump(mode="json"),
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
    inputs = inputs_of(context)
    refuse_foreign_limits(context)
    loop = PpoLoop(context, inputs)
    facts = loop.run()
    candidates = context.layout.candidates(context.round_number)
    return StageOutput((candidates, context.layout.metrics), facts | over_optimisation(context))


def refuse_foreign_limits(context: RunContext) -> None:
    """A limit in a cost model's units means nothing for another cost model.

    Raises:
        ConfigError: a constraint's limit was chosen for another cost model than this run's.
    """
    for name, constraint in context.settings.constraints.items():
        problem = chosen_limit_problem(constraint, model_digest(context.layout.cost(context.round_number, name)))
        if problem is not None:
            raise ConfigError(f"constraints.{name}.chosen_for: {problem}")


def over_optimisation(context: RunContext) -> dict[str, Any]:
    """Reward against the distance from the reference over the loop (paper A, section 4.3)."""
    lines = [json.loads(line) for line in context.layout.metrics.read_text().splitlines()]
    found: dict[str, Any] = {}
    try:
        fit = fit_sqrt_kl([line["kl"] for line in lines], [line["reward"] for line in lines])
        found["sqrt_kl"] = asdict(fit)
    except ValueError as error:
        found["sqrt_kl_refused"] = str(error)
    return found


def inputs_of(context: RunContext) -> dict[str, Any]:
    """Model folders and scales that the loop starts from, by the names `PpoLoop` takes them."""
    layout, number = context.layout, context.round_number
    reward = layout.reward(number)
    costs = {name: layout.cost(number, name) for name in context.settings.constraints}
    normaliser = _document(reward, "normaliser.json")
    calibrations = {name: found.platt for name, path in costs.items() if (found := load_calibration(path)) is not None}
    watched = {SIGNAL: layout.reward_test(number)} if context.settings.halves.enabled else {}
    test_normaliser = _document(watched[SIGNAL], "normaliser.json") if watched else normaliser
    return {
        "watched_paths": watched,
        "test_normaliser": (float(test_normaliser["mean"]), float(test_normaliser["std"])),
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
