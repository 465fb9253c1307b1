"""Stage `selection` of a run on data: of the loop's last snapshots, the one with the highest reward among the feasible ones.

Judged by the run's own reward and cost models on the selection prompts, for these answers have no labels. Feasible is a
snapshot where an upper confidence bound of every constraint's measure is at or under its limit. With none feasible the one
nearest to its limits is promoted, and the verdict begins with that. How far a calibration has moved cannot be measured
without labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.judging.by_gold.figures import Cell, mean_cell
from actors.judging.by_models.answers import ScoredAnswer
from actors.judging.by_models.limits import Limit
from cluster.runs.answers.judge_by_models import book_of, limits_of, score_answers
from cluster.runs.context import RunContext
from cluster.runs.stages import ppo, score_models, sft
from cluster.runs.stages.base import DRAWING, SCORING, Stage, StageOutput, entry_of, link_tree
from cluster.runs.stages.on_data import data
from cluster.runs.stages.selection import NAME, choose, load_scorers
from configs.schema.run import RunSettings
from learner.data.splits import SELECTION
from learner.records import Prompt

EVERYONE = "selection"
"""The set of prompts of every kind."""


@dataclass(frozen=True)
class ScoredCandidate:
    """One snapshot on the selection prompts."""

    step: int
    helpfulness: float
    """Mean reward over the prompts of every kind; 0 of every snapshot where there is no reward."""
    measures: dict[str, Cell]
    """By constraint, over the prompts it covers."""
    upper_bound: dict[str, float]
    """One-sided, at the certificate's confidence shared among the constraints."""
    feasible: bool
    excess: float
    """The largest of upper bound less limit, 0 at least."""


def scored_selection_stage(settings: RunSettings) -> Stage:
    """The choice of a snapshot for these settings."""
    models = [stage.name for stage in score_models.stages(settings)]
    return Stage(
        name=NAME,
        inputs=(data.NAME, sft.NAME, ppo.NAME, *models),
        settings={
            "seed": settings.seed,
            "selection": settings.selection.model_dump(mode="json"),
            "confidence": settings.certificate.confidence,
            "objective": settings.objective.model_dump(mode="json"),
            "constraints": {
                name: constraint.model_dump(mode="json") for name, constraint in settings.constraints.items()
            },
            "temperature": settings.evaluation.temperature,
            "max_length": settings.model.max_length,
            "max_response_tokens": settings.ppo.max_response_tokens,
            "dtype": settings.resources.generators.dtype,
        },
        code=(entry_of(_run), *DRAWING, *SCORING),
        run=_run,
        shared=False,
    )


def _run(context: RunContext) -> StageOutput:
    layout, number = context.layout, context.round_number
    sets, limits = selection_sets(context), limits_of(context)
    load_scorers(context, watched=True)
    folder = layout.round(number) / "selection"
    candidates = []
    for path in sorted(layout.candidates(number).glob("step-*")):
        answers = score_answers(context, path.name, path, sets, folder / f"{path.name}.parquet", stage=NAME)
        step = int(path.name.removeprefix("step-"))
        candidates.append(judge_candidate(step, answers, limits, context.settings))
    chosen = choose(candidates)
    policy = layout.policy(number)
    link_tree(layout.candidates(number) / f"step-{chosen.step:05d}", policy)
    facts: dict[str, Any] = {
        "promoted_step": chosen.step,
        "feasible": chosen.feasible,
        "candidates": [asdict(candidate) for candidate in candidates],
        "drift": {},
    }
    path = layout.selection(number)
    path.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")
    return StageOutput((policy, path), facts)


def selection_sets(context: RunContext) -> dict[str, list[Prompt]]:
    """The prompts by set: all kinds, and those of each constraint that covers some only.

    Raises:
        DataError: none is kept for selection, or none that a constraint covers.
    """
    settings, book = context.settings, book_of(context)
    n = settings.selection.samples
    sets = {EVERYONE: book.judged(SELECTION, n=n, seed=settings.seed + 5, prefix=EVERYONE)}
    for name, constraint in settings.constraints.items():
        if constraint.subset:
            prefix = _covered(name)
            sets[prefix] = book.judged(SELECTION, n=n, seed=settings.seed + 6, prefix=prefix, subset=constraint.subset)
    return sets


def judge_candidate(
    step: int, answers: Sequence[ScoredAnswer], limits: Sequence[Limit], settings: RunSettings
) -> ScoredCandidate:
    """What the scores say of one snapshot.

    Raises:
        DataError: too few answers for a bound.
    """
    confidence = 1.0 - (1.0 - settings.certificate.confidence) / max(1, len(limits))
    rewards = [answer.reward for answer in answers if answer.set == EVERYONE and answer.reward is not None]
    measures: dict[str, Cell] = {}
    bounds: dict[str, float] = {}
    excess = 0.0
    for limit in limits:
        limit_set = _covered(limit.name) if limit.subset else EVERYONE
        costs = [answer.costs[limit.name] for answer in answers if answer.set == limit_set]
        measures[limit.name] = limit.cell(costs, settings.evaluation.confidence)
        bounds[limit.name] = limit.upper_bound(costs, confidence, where=f"selection, step {step}")
        excess = max(excess, bounds[limit.name] - limit.limit)
    mean = mean_cell(rewards, settings.evaluation.confidence)["value"]  # None without a reward
    return ScoredCandidate(step, mean or 0.0, measures, bounds, excess <= 0, max(excess, 0.0))


def promoted(facts: dict[str, Any]) -> dict[str, Any]:
    """Of the stage's facts what the verdict needs: step, feasible, and the upper bounds of the promoted snapshot."""
    chosen = next(candidate for candidate in facts["candidates"] if candidate["step"] == facts["promoted_step"])
    return {"step": chosen["step"], "feasible": chosen["feasible"], "upper_bound": dict(chosen["upper_bound"])}


def _covered(constraint: str) -> str:
    return f"{EVERYONE}-{constraint}"
