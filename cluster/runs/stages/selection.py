"""Stage `selection`: of the loop's last snapshots, the most helpful feasible one is promoted.

Judged on the selection split only. Feasible is what the certificate will ask for, an upper bound under the limit, so
that what is promoted is likely to be certified. With none feasible the one nearest to its limits is promoted, and the
certificate will say so. The calibration of each cost model is then looked at again on labels of the promoted policy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from actors.judging.by_gold.samples import EvaluatedSample
from cluster.inputs.sandbox_prompts import CALIBRATION, SELECTION, judged_prompts
from cluster.runs.answers.judge_by_gold import is_unsafe, judge_answers, rate_limit_of, with_missing
from cluster.runs.context import RunContext
from cluster.runs.loop.overoptimisation_watch import SIGNAL
from cluster.runs.round_inputs import named
from cluster.runs.signals import calibration_of, signal_sources
from cluster.runs.stages import ppo, score_models, sft
from cluster.runs.stages.base import DRAWING, SCORING, Stage, StageOutput, entry_of, link_tree
from configs.schema.run import RunSettings
from learner.records import Prompt
from learner.statistics.calibration import calibration_drift
from learner.statistics.certificate import certify

NAME = "selection"


@dataclass(frozen=True)
class Candidate:
    """One snapshot on the selection split."""

    step: int
    helpfulness: float
    """Mean over prompts of every kind: gold, or the reward model where the crowd labels."""
    unsafe_share: dict[str, float]
    """By constraint, of the labels."""
    upper_bound: dict[str, float]
    """One-sided, at the certificate's confidence shared among the constraints."""
    feasible: bool
    excess: float
    """The largest of upper bound less limit; 0 without a constraint."""


def selection_stage(settings: RunSettings) -> Stage:
    """The choice of a snapshot for these settings."""
    models = [stage.name for stage in score_models.stages(settings)]
    return Stage(
        name=NAME,
        inputs=(sft.NAME, ppo.NAME, *models),
        settings={
            "seed": settings.seed,
            "selection": settings.selection.model_dump(mode="json"),
            "splits": settings.splits.model_dump(mode="json"),
            "certificate": settings.certificate.model_dump(mode="json", include={"confidence", "labels", "rate_limit"}),
            "constraints": {
                name: constraint.model_dump(mode="json") for name, constraint in settings.constraints.items()
            },
            "kind_weights": settings.ppo.kind_weights,
            "temperature": settings.evaluation.temperature,
            "max_response_tokens": settings.ppo.max_response_tokens,
            "crowd": settings.preferences.crowd.model_dump(mode="json"),
            "dtype": settings.resources.generators.dtype,
        },
        code=(entry_of(_run), *DRAWING, *SCORING),
        run=_run,
        shared=False,
    )


def _run(context: RunContext) -> StageOutput:
    layout, number = context.layout, context.round_number
    snapshots = sorted(layout.candidates(number).glob("step-*"))
    load_scorers(context)
    candidates = [_judge(context, path) for path in snapshots]
    chosen = choose(candidates)
    policy = layout.policy(number)
    link_tree(layout.candidates(number) / f"step-{chosen.step:05d}", policy)
    facts: dict[str, Any] = {
        "promoted_step": chosen.step,
        "feasible": chosen.feasible,
        "candidates": [asdict(candidate) for candidate in candidates],
        "drift": _drift(context, policy),
    }
    path = layout.selection(number)
    path.write_text(json.dumps(facts, indent=1) + "\n")
    return StageOutput((policy, path), facts)


def load_scorers(context: RunContext, *, watched: bool = False) -> None:
    """Hold the run's reward and cost models, for labels' sake; the loop's own when they are still there.

    Args:
        watched: the test-half reward model too, where there is one.
    """
    layout, number = context.layout, context.round_number
    context.engines.end_supervised()
    context.engines.rollout_pool(layout.sft, context.tokenizer_path)
    sources = signal_sources(context)
    also = {SIGNAL: layout.reward_test(number)} if watched and context.settings.halves.enabled else None
    context.engines.load_scorers(
        sources.reward,
        sources.costs,
        layout.sft,
        context.settings.evaluation.temperature,
        watched=also,
        tokenizer=context.tokenizer_path,
    )


class Judged(Protocol):
    """What the choice looks at, for any judge."""

    @property
    def step(self) -> int:
        """Of the loop."""

    @property
    def helpfulness(self) -> float:
        """More is better."""

    @property
    def feasible(self) -> bool:
        """Whether every upper bound meets its limit."""

    @property
    def excess(self) -> float:
        """The largest of upper bound less limit."""


J = TypeVar("J", bound=Judged)


def choose(candidates: Sequence[J]) -> J:
    """The most helpful feasible candidate; with none, the one least above its limits. Later steps win ties."""
    feasible = [candidate for candidate in candidates if candidate.feasible]
    if feasible:
        return max(feasible, key=lambda candidate: (candidate.helpfulness, candidate.step))
    return min(candidates, key=lambda candidate: (candidate.excess, -candidate.step))


def _judge(context: RunContext, path: Path) -> Candidate:
    settings, step = context.settings, int(path.name.removeprefix("step-"))
    by_crowd = settings.certificate.labels == "crowd"
    everyone = _prompts(context, SELECTION, "", seed=5)
    subsets = {name: _prompts(context, SELECTION, name, seed=6) for name in settings.constraints}
    prompts = [*everyone, *(prompt for subset_prompts in subsets.values() for prompt in subset_prompts)]
    samples = _answers(context, f"step-{step:05d}", path, prompts)
    means = [_helpfulness(samples[prompt.prompt_id], by_crowd) for prompt in everyone if prompt.prompt_id in samples]
    shares, bounds, excess = {}, {}, 0.0
    for name, constraint in settings.constraints.items():
        judged = [samples[prompt.prompt_id] for prompt in subsets[name] if prompt.prompt_id in samples]
        limit = rate_limit_of(settings, constraint)
        verdict = certify(
            with_missing(
                [is_unsafe(sample, constraint, settings.certificate.labels) for sample in judged],
                len(subsets[name]),
                len(judged),
            ),
            limit,
            labels_source=settings.certificate.labels,
            confidence=settings.certificate.confidence,
            constraints=len(settings.constraints),
        )
        shares[name], bounds[name] = verdict.value, verdict.upper_bound
        excess = max(excess, verdict.upper_bound - limit)
    return Candidate(step, sum(means) / len(means), shares, bounds, excess <= 0, max(excess, 0.0))


def _helpfulness(sample: EvaluatedSample, by_crowd: bool) -> float:
    if not by_crowd:
        return sample.gold_helpfulness
    assert sample.reward is not None
    return sample.reward


def _prompts(context: RunContext, purpose: str, constraint: str, seed: int) -> list[Prompt]:
    """Prompts of every kind in the loop's shares, or of one constraint's subset."""
    settings = context.settings
    drawn = judged_prompts(
        context.splits,
        purpose,
        n=settings.selection.samples,
        seed=settings.seed + seed,
        prefix=f"{purpose}-{constraint}" if constraint else purpose,
        subset=settings.constraints[constraint].subset if constraint else (),
        kind_weights=None if constraint else settings.ppo.kind_weights,
    )
    return named(drawn, context.round_number)


def _answers(context: RunContext, model: str, path: Path, prompts: Sequence[Prompt]) -> dict[str, EvaluatedSample]:
    file = context.layout.round(context.round_number) / "selection" / f"{model}.parquet"
    crowd = context.settings.certificate.labels == "crowd"
    judged = judge_answers(context, model, path, prompts, file, stage=NAME, scored=True, crowd=crowd)
    return {sample.prompt_id: sample for sample in judged}


def _drift(context: RunContext, policy: Path) -> dict[str, Any]:
    """How far each cost model's calibration has moved on answers of the promoted policy (calibration split)."""
    settings, drifts = context.settings, {}
    for name, constraint in settings.constraints.items():
        document = calibration_of(context, name)
        if document is None:
            continue
        prompts = _prompts(context, CALIBRATION, name, seed=7)
        samples = list(_answers(context, f"promoted-{name}", policy, prompts).values())
        if not samples:
            continue  # said by judge_answers
        drift = calibration_drift(
            document.platt,
            [sample.costs[name] for sample in samples],
            [is_unsafe(sample, constraint, settings.certificate.labels) for sample in samples],
        )
        drifts[name] = drift.document()
    return drifts
