"""Answers that are judged by the run's own score models: what decides and what is reported in a run on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.judging.by_models.answers import KEPT, ScoredAnswer, Scores, read_answers
from actors.judging.by_models.limits import Limit
from actors.judging.by_models.task import write_scored
from cluster.inputs.file_prompts import PromptBook
from cluster.runs.answers.judge_by_gold import rate_limit_of
from cluster.runs.context import RunContext
from cluster.runs.signals import calibration_of, signal_sources
from configs.checks import certificate_samples_needed
from configs.exits import DataError
from learner.data.quality.repeats import opening_key
from learner.data.splits import CERTIFICATE, SELECTION
from learner.deadlines import fetch_result
from learner.records import Prompt, SamplingSettings


def score_answers(
    context: RunContext, model: str, model_path: Path, sets: Mapping[str, Sequence[Prompt]], path: Path, *, stage: str
) -> list[ScoredAnswer]:
    """One model answers every prompt once; the answers are scored, written to `path`, and returned in prompt order.

    An answer that could not be drawn or scored is left out, and a warning counts them. The scorers must hold the run's
    models (`cluster.runs.stages.selection.load_scorers`).

    Args:
        sets: prompts by the name of their set; ids are unique over all of them.

    Raises:
        DataError: no answer of a set could be scored.
    """
    settings = context.settings
    prompts = [prompt for set_prompts in sets.values() for prompt in set_prompts]
    context.engines.rollout_pool(model_path, context.tokenizer_path)
    sampler = context.sampler(f"{stage}-{model}")
    sampling = SamplingSettings(settings.evaluation.temperature, settings.ppo.max_response_tokens)
    requests = [sampler.request(prompt, f"{model}/{prompt.prompt_id}", sampling) for prompt in prompts]
    collected = context.engines.scoring_pool().collect(requests)
    has_reward = rewarded(context)
    scores = {
        row.rollout.request_id: Scores(
            row.sample.reward if has_reward else None, dict(row.sample.costs), dict(row.sample.watched)
        )
        for row in collected.scored
    }
    chunks = list(dict.fromkeys(row.chunk for row in collected.scored))
    path.parent.mkdir(parents=True, exist_ok=True)
    call = write_scored.remote(model, dict(sets), scores, str(context.tokenizer_path), str(path), *chunks)
    written = fetch_result(
        call, deadline_seconds=settings.resources.deadlines.score_seconds, operation=f"write_scored({model})"
    )
    if written != len(prompts):
        reasons = sorted({failed.reason for failed in collected.quarantined})
        context.warn(
            f"{stage}: {len(prompts) - written} of {len(prompts)} answers of {model} could not be drawn or scored"
            f"{f' ({reasons[0]})' if reasons else ''}; what they would have shown is not known"
        )
    answers = read_answers(path)
    for name in sets:
        if not any(answer.set == name for answer in answers):
            raise DataError(
                f"{stage}: none of the {len(sets[name])} answers of {model} to the prompts of {name} could be scored; "
                "see the warnings for the scorers' reasons"
            )
    return answers


def rewarded(context: RunContext) -> bool:
    """Whether answers have a reward: of a model of this run, or of a scorer."""
    return signal_sources(context).reward is not None


def limits_of(context: RunContext) -> list[Limit]:
    """The constraints as answers are judged by them, each with the calibration of its cost model."""
    limits = []
    for name, constraint in context.settings.constraints.items():
        calibration = calibration_of(context, name)
        limits.append(Limit.of(name, constraint, None if calibration is None else calibration.platt))
    return limits


def book_of(context: RunContext) -> PromptBook:
    """The prompts of a run on data, which is what these stages are of."""
    assert context.book is not None
    return context.book


def refuse_too_few_kept(context: RunContext) -> None:
    """Refuse, before anything is trained, data that leave too few prompts to judge the run on.

    Raises:
        DataError: fewer than two prompts are kept for selection or the last judgement, or none that a constraint covers;
            the message names purpose and share.
    """
    book = book_of(context)
    subsets = {
        "": (),
        **{name: constraint.subset for name, constraint in context.settings.constraints.items() if constraint.subset},
    }
    for purpose in (SELECTION, CERTIFICATE):
        for name, subset in subsets.items():
            prompts = book.judged(purpose, n=2, seed=0, prefix=purpose, subset=subset)
            if len(prompts) < 2:
                of = f" of those that constraint {name} covers" if name else ""
                raise DataError(
                    f"data: only one prompt{of} is kept for {purpose}, and an interval needs two: give more prompts, or a "
                    f"larger splits.{purpose}"
                )


def certificate_prompts(context: RunContext, limit: Limit) -> list[Prompt]:
    """The prompts whose answers certify a constraint: of those drawn for the last judgement that it covers, one a conversation.

    Cuts of one conversation share their first user turn, and answers to them may be alike; a bound for independent answers does
    not hold for them. The first that was drawn stands for its conversation, whatever was answered.
    """
    drawn = book_of(context).judged(
        CERTIFICATE, n=context.settings.certificate.samples, seed=context.settings.seed + 4, prefix=KEPT
    )
    by_conversation: dict[int, Prompt] = {}
    for prompt in drawn:
        if limit.covers(prompt.tags):
            by_conversation.setdefault(opening_key(tuple(prompt.messages)), prompt)
    return list(by_conversation.values())


def refuse_too_few_for_certificate(context: RunContext) -> None:
    """Refuse, before anything is trained, a certificate split that could not certify a limit even without a violation.

    Raises:
        DataError: constraint, how many conversations it covers there, how many are needed, and what gives more.
    """
    settings = context.settings
    if settings.certificate.judge is None:
        return
    for name, constraint in settings.constraints.items():
        rate = rate_limit_of(settings, constraint)
        needed = certificate_samples_needed(rate, settings.certificate.confidence, len(settings.constraints))
        covered = len(certificate_prompts(context, Limit.of(name, constraint, None)))
        if covered < needed:
            raise DataError(
                f"data: {covered} conversations that constraint {name} covers are kept for the certificate, and {name} <= "
                f"{100 * rate:g} % needs {needed} even without a violation: give more prompts, or a larger splits.certificate "
                "or certificate.samples, or leave certificate.judge out to certify nothing"
            )
