"""Answers with everything that is known of them: labels by gold or crowd, and the score models' own scores.

What decides (which snapshot is promoted, whether its limit is met) goes through here; the cells of the evaluation only
report and take the shorter way of `cluster.runs.answers.draw`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from actors.judging.by_gold.samples import EvaluatedSample, read_samples, write_samples
from actors.judging.by_gold.task import judge_samples
from cluster.run_folder.digests import stable_seed
from cluster.run_folder.round_names import id_prefix
from cluster.runs.answers.draw import draw_answers
from cluster.runs.context import RunContext
from configs.schema.run import RunSettings
from configs.schema.signals import ConstraintSettings
from learner.deadlines import fetch_result
from learner.records import Prompt, SamplingSettings, ScoredSample


def judge_answers(
    context: RunContext,
    model: str,
    model_path: Path,
    prompts: Sequence[Prompt],
    path: Path,
    *,
    stage: str,
    scored: bool = False,
    crowd: bool = False,
) -> list[EvaluatedSample]:
    """One model answers every prompt once; the samples are judged, written to `path`, and returned in prompt order.

    Args:
        scored: also by the reward and cost models that the scorers hold (`reward`, `costs` of each sample).
        crowd: also by the crowd's safety check (`crowd_unsafe`).
    """
    settings = context.settings
    scores: Mapping[str, ScoredSample] = {}
    keep = None
    if scored:
        context.engines.rollout_pool(model_path, context.tokenizer_path)
        sampler = context.sampler(f"{stage}-{model}")
        sampling = SamplingSettings(settings.evaluation.temperature, settings.ppo.max_response_tokens)
        id_stem = f"{id_prefix(context.round_number)}{model}"
        requests = [sampler.request(prompt, f"{id_stem}/{prompt.prompt_id}", sampling) for prompt in prompts]
        collected = context.engines.scoring_pool().collect(requests)
        chunks = list(dict.fromkeys(row.chunk for row in collected.rows))
        scores = {row.rollout.prompt_id: row.sample for row in collected.scored}
        keep = frozenset(row.rollout.request_id for row in collected.scored)
    else:
        answers = draw_answers(context, model, model_path, prompts, stage=stage)
        chunks, keep = answers.chunks, answers.keep
    path.parent.mkdir(parents=True, exist_ok=True)
    crowd_and_seed = (
        (settings.preferences.crowd.model_dump(mode="json"), stable_seed(settings.seed, stage)) if crowd else None
    )
    call = judge_samples.remote(
        context.world_path,
        model,
        list(prompts),
        str(context.tokenizer_path / "tokenizer.json"),
        str(path),
        keep,
        *chunks,
        crowd=crowd_and_seed,
    )
    judged = fetch_result(
        call, deadline_seconds=settings.resources.deadlines.score_seconds, operation=f"judge_samples({model})"
    )
    if judged != len(prompts):
        context.warn(
            f"{stage}: {len(prompts) - judged} of {len(prompts)} answers of {model} could not be drawn or scored; "
            "what they would have shown is not known"
        )
    samples = read_samples(path)
    if scores:
        samples = [_with_scores(sample, scores) for sample in samples]
        write_samples(samples, path)  # who reads the file sees the models' word next to gold
    return samples


def is_unsafe(sample: EvaluatedSample, constraint: ConstraintSettings, labels: str) -> bool:
    """Whether the answer violates the constraint, by the label source that decides."""
    if labels == "crowd":
        assert sample.crowd_unsafe is not None
        return sample.crowd_unsafe
    return sample.gold_unsafe and (not constraint.categories or sample.gold_category in constraint.categories)


def with_missing(labels: Sequence[bool], expected: int, judged: int) -> list[bool]:
    """Labels with every answer that could not be drawn or scored as an unsafe one, first: what is not known counts against the policy.

    Args:
        labels: of those `judged` answers that have one.
        expected: answers that were asked for.
    """
    return [True] * (expected - judged) + list(labels)


def rate_limit_of(settings: RunSettings, constraint: ConstraintSettings) -> float:
    """The share of unsafe answers that is allowed: a `rate` limit, else `certificate.rate_limit` (a cost has no gold unit)."""
    return constraint.limit if constraint.measure == "rate" else settings.certificate.rate_limit


def _with_scores(sample: EvaluatedSample, scores: Mapping[str, ScoredSample]) -> EvaluatedSample:
    scored = scores[sample.prompt_id]
    return replace(sample, reward=scored.reward, costs=dict(scored.costs))
