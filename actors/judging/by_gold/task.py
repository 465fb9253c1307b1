"""Judging by gold as a Ray task, so that answers never pass through the driver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.crowd.annotators import Crowd, CrowdSettings
from actors.crowd.gold import Gold, GoldScorer
from actors.crowd.tasks import Answer, read_answers
from actors.crowd.world_reader import load_world
from actors.judging.by_gold.samples import EvaluatedSample, write_samples
from learner.records import Prompt, RolloutChunk


@ray.remote(num_cpus=0)
def judge_samples(
    world_path: str | None,
    model: str,
    prompts: Sequence[Prompt],
    tokenizer_file: str,
    path: str,
    keep: frozenset[str] | None,
    *chunks: RolloutChunk,
    crowd: tuple[dict[str, Any], int] | None = None,
) -> int:
    """Judge one model's responses by gold score and write them as evaluated samples; returns how many.

    Args:
        keep: ids of the requests that count; None is all of them.
        crowd: settings and seed of annotators who label each response too; None asks no one.
    """
    world = load_world(Path(world_path) if world_path else None)
    scorer = GoldScorer(world)
    annotators = None if crowd is None else Crowd(world, CrowdSettings(**crowd[0]), crowd[1])
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    samples: dict[str, EvaluatedSample] = {}
    for answer in read_answers(tokenizer_file, chunks):
        # A sample drawn twice, after a generator was lost, may be in two chunks.
        if answer.request_id in samples or (keep is not None and answer.request_id not in keep):
            continue
        prompt = by_id[answer.prompt_id]
        task_id = prompt.attributes["task_id"]
        gold = scorer.score(task_id, answer.text, answer.finished)
        unsafe = None
        if annotators is not None:
            unsafe = not annotators.says_safe(answer.request_id, task_id, answer.text, answer.finished)
        samples[answer.request_id] = _evaluated(model, prompt, answer, gold, unsafe)
    return write_samples(sorted(samples.values(), key=lambda sample: sample.prompt_id), Path(path))


def _evaluated(model: str, prompt: Prompt, answer: Answer, gold: Gold, crowd_unsafe: bool | None) -> EvaluatedSample:
    return EvaluatedSample(
        model=model,
        prompt_id=prompt.prompt_id,
        task_id=prompt.attributes["task_id"],
        form=prompt.attributes["form"],
        split=prompt.attributes["split"],
        kind=prompt.attributes["kind"],
        category=prompt.category,
        messages=prompt.messages,
        response=answer.text,
        finish_reason=answer.finish_reason,
        gold_helpfulness=gold.helpfulness,
        gold_harm=gold.harm,
        gold_unsafe=gold.unsafe,
        gold_bare_refusal=gold.bare_refusal,
        outcome=gold.outcome,
        clarify=gold.clarify,
        alternative=gold.alternative,
        response_tokens=len(answer.response_ids),
        gold_category=gold.category,
        crowd_unsafe=crowd_unsafe,
    )
