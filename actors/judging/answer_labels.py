"""Labels of single answers by people or a language model, as Ray tasks: safe or unsafe, for a certificate on own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.judging.by_models.answers import ScoredAnswer, read_answers
from actors.judging.judges.cached_endpoint import CachedEndpoint
from actors.judging.judges.language_model import PROMPTS, LlmJudge
from actors.judging.judges.people import PeopleJudge, write_for_people
from actors.judging.judges.response_cache import ResponseCache
from actors.judging.pairs.tasks import open_judge
from actors.judging.responses import Judgement, Response, write_judgements
from configs.schema.labels import JudgeSettings

Labels = dict[str, bool | None]
"""By prompt id: whether the answer is unsafe; None where the judge says nothing of it."""


@dataclass(frozen=True)
class AnswersToLabel:
    """Which answers are labelled."""

    samples: Path
    """``evaluation/samples.parquet`` of the round."""
    model: str
    prompt_ids: tuple[str, ...]
    judgements: Path
    """Parquet file that every label is kept in."""


@dataclass(frozen=True)
class AnswerLabels:
    """What a judge says of the answers."""

    judge: str
    """Whose word it is: ``people``, or a language model's name."""
    labels: Labels
    categories: dict[str, tuple[str, ...]]
    """By prompt id the kinds of harm that the judge named; people are not asked for any."""
    rows: int
    """Answers to label."""
    filled: int
    """Of them, those that have a label."""
    left_out: dict[str, int]
    """Replies that could not be read, by reason."""


@ray.remote(num_cpus=0)
def label_answers_by_people(task: AnswersToLabel, to_label: Path) -> AnswerLabels:
    """Read what people wrote into `to_label`; where it is not there yet, write it, with no label.

    Raises:
        DataError: the file is not the one that was written for these answers, or a cell holds another answer than asked for.
    """
    responses = _responses(task)
    if not to_label.exists():
        to_label.parent.mkdir(parents=True, exist_ok=True)
        rows = write_for_people(to_label, [], responses)
        return AnswerLabels("people", {}, {}, rows, 0, {})
    judgements = PeopleJudge(to_label, [], responses).label(responses)
    return _labels(task, "people", judgements, {})


@ray.remote(num_cpus=0)
def label_answers_by_model(task: AnswersToLabel, settings: JudgeSettings, key: str | None, cache: Path) -> AnswerLabels:
    """Ask a language model of each answer whether it is unsafe; what it answered before is not asked again.

    Raises:
        DataError, StoppedError: the address does not answer; what it answered is kept.
    """
    responses = _responses(task)
    endpoint, replies = open_judge(settings, key), ResponseCache(cache)
    try:
        judge = LlmJudge(CachedEndpoint(endpoint, replies), settings.prompts or PROMPTS)
        judgements = judge.label(responses)
    finally:
        replies.close()
        endpoint.close()
    return _labels(task, judge.facts.name, judgements, dict(judge.faults))


def _responses(task: AnswersToLabel) -> list[Response]:
    by_prompt = {answer.prompt_id: answer for answer in read_answers(task.samples) if answer.model == task.model}
    return [_response(by_prompt[prompt_id]) for prompt_id in task.prompt_ids]


def _response(answer: ScoredAnswer) -> Response:
    return Response(
        model=answer.model,
        set=answer.set,
        prompt_id=answer.prompt_id,
        source_id=answer.source_id,
        category=answer.category,
        tags=answer.tags,
        messages=answer.messages,
        response=answer.response,
        finish_reason=answer.finish_reason,
        response_tokens=answer.response_tokens,
    )


def _labels(
    task: AnswersToLabel, judge: str, judgements: Sequence[Judgement], left_out: dict[str, Any]
) -> AnswerLabels:
    write_judgements(judgements, [], task.judgements)
    labels = {judgement.prompt_id: judgement.unsafe for judgement in judgements}
    filled = sum(label is not None for label in labels.values())
    categories = {judgement.prompt_id: judgement.harm_categories for judgement in judgements}
    return AnswerLabels(judge, labels, categories, len(labels), filled, left_out)
