"""Stage `ppo`: Lagrangian PPO from the SFT policy (later rounds: as `rounds.start` says) against the round's reward and cost models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scipy.special import expit

from actors.scoring.sources import SignalSource
from actors.training_sets.on_data import unsafe_share
from cluster.run_folder.digests import model_digest
from cluster.runs.context import RunContext
from cluster.runs.loop.overoptimisation_watch import SIGNAL
from cluster.runs.loop.ppo_loop import PpoLoop
from cluster.runs.signals import calibration_of, signal_sources
from cluster.runs.stages import preferences, score_models, sft
from cluster.runs.stages.base import DRAWING, LEARNING, SCORING, Stage, StageOutput, entry_of
from cluster.runs.stages.chosen_limits import chosen_limit_problem
from cluster.runs.stages.on_data import score_scales as scales
from configs.exits import ConfigError
from configs.schema.run import RunSettings
from learner.algorithms.experience import REWARD, cost_signal
from learner.models.score_models.folders import load_pair_scores
from learner.signals.measure import Measure
from learner.statistics.sqrt_kl import fit_sqrt_kl

NAME = "ppo"


def ppo_stage(settings: RunSettings) -> Stage:
    """The loop for these settings."""
    models = [stage.name for stage in score_models.stages(settings)]
    return Stage(
        name=NAME,
        inputs=(sft.NAME, score_models.labels_stage_name(settings), *models),
        settings={
            "seed": settings.seed,
            "objective": settings.objective.model_dump(mode="json"),
            "constraints": {
                name: constraint.model_dump(mode="json") for name, constraint in settings.constraints.items()
            },
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
        code=(entry_of(_run), *DRAWING, *SCORING, *LEARNING),
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
    metrics = context.layout.metrics_of(context.round_number)
    return StageOutput((candidates, metrics), facts | over_optimisation(context))


def refuse_foreign_limits(context: RunContext) -> None:
    """A limit in a cost model's units means nothing for another cost model. (Of a scorer from outside no limit is chosen.)

    Raises:
        ConfigError: a constraint's limit was chosen for another cost model than this run's.
    """
    for name, constraint in context.settings.constraints.items():
        if constraint.scorer is not None:
            continue
        problem = chosen_limit_problem(constraint, model_digest(context.layout.cost(context.round_number, name)))
        if problem is not None:
            raise ConfigError(f"constraints.{name}.chosen_for: {problem}")


def over_optimisation(context: RunContext) -> dict[str, Any]:
    """Reward against the distance from the reference over the loop (paper A, section 4.3)."""
    lines = [json.loads(line) for line in context.layout.metrics_of(context.round_number).read_text().splitlines()]
    facts: dict[str, Any] = {}
    try:
        fit = fit_sqrt_kl([line["kl"] for line in lines], [line["reward"] for line in lines])
        facts["sqrt_kl"] = asdict(fit)
    except ValueError as error:
        facts["sqrt_kl_refused"] = str(error)
    return facts


def inputs_of(context: RunContext) -> dict[str, Any]:
    """Sources of scores, model folders and scales that the loop starts from, by the names `PpoLoop` takes them."""
    settings, sources = context.settings, signal_sources(context)
    calibrations = {
        name: calibration.platt
        for name in settings.constraints
        if (calibration := calibration_of(context, name)) is not None
    }
    normaliser = _reward_normaliser(context, sources.reward)
    watched = {SIGNAL: context.layout.reward_test(context.round_number)} if settings.halves.enabled else {}
    normalised = settings.objective.normalise == "preference_set"
    return {
        "sources": sources,
        "watched_paths": watched,
        "test_normaliser": _normaliser(watched[SIGNAL]) if watched else normaliser,
        "normaliser": normaliser,
        # A reward model's critic starts as that model; another scorer's at the mean, which a normaliser makes 0.
        "reward_start": 0.0 if normalised or settings.objective.scorer is None else normaliser[0],
        "calibrations": calibrations,
        "relative": relative_costs(context),
        "cost_means": {name: _mean_cost(context, name) for name in settings.constraints},
    }


def relative_costs(context: RunContext) -> frozenset[str]:
    """Constraints whose cost model learned from rankings alone; none on the sandbox."""
    if context.settings.data is None:
        return frozenset()
    labels = score_models.labels_facts(context)["harm-labels"]
    return frozenset(name for name, counts in labels.items() if not counts["signed"])


def _reward_normaliser(context: RunContext, source: SignalSource | None) -> tuple[float, float]:
    """Mean and spread: of a reward model on the preference set, of a scorer from outside on SFT's answers."""
    if source is None:  # nothing is maximised, and there is no reward
        return 0.0, 1.0
    if isinstance(source, Path):
        return _normaliser(source)
    scale = scales.scale_of(context, REWARD)
    return float(scale["score_mean"]), float(scale["score_std"])


def _mean_cost(context: RunContext, constraint: str) -> float:
    """Where a fresh cost critic starts: the mean of g over the preference set, or over SFT's answers, divided by the scale."""
    settings = context.settings.constraints[constraint]
    if settings.scorer is not None:
        return float(scales.scale_of(context, cost_signal(constraint))["start"]) / settings.effective_scale
    if settings.measure == "rate":
        return _unsafe_share(context, constraint) / settings.effective_scale
    if settings.measure == "mean":
        return _score_mean(context, constraint) / settings.effective_scale
    costs = load_pair_scores(context.layout.cost(context.round_number, constraint))
    measure = Measure(settings.measure, alpha=settings.alpha, scale=settings.effective_scale)
    return float(measure.g(costs, measure.freeze(costs)).mean())


def _unsafe_share(context: RunContext, constraint: str) -> float:
    """Of the labelled responses; on data that no label is of, what the cost model's mean score says."""
    if context.settings.data is None:
        return float(context.facts(preferences.NAME)["unsafe_share"])
    share = unsafe_share(score_models.labels_facts(context)["harm-labels"][constraint])
    return share if share is not None else float(expit(_score_mean(context, constraint)))


def _score_mean(context: RunContext, constraint: str) -> float:
    return float(context.facts(score_models.cost_stage_name(constraint))["score_mean"])


def _normaliser(folder: Path) -> tuple[float, float]:
    """Of a trained reward model: mean and spread."""
    normaliser = json.loads((folder / "normaliser.json").read_text())
    return float(normaliser["mean"]), float(normaliser["std"])
