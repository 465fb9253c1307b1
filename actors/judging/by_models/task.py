"""The Ray task that writes the answers of `actors.judging.by_models.answers`: texts are decoded off the driver.

Apart from the records, which the report reads where no Ray may be loaded yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ray
from transformers import PreTrainedTokenizerBase

from actors.judging.by_models.answers import ScoredAnswer, Scores, write_answers
from actors.scoring.prompt_reader import decode
from actors.scoring.text import STOP
from learner.data.tokenizer import load_tokenizer
from learner.records import Prompt, RolloutChunk


@ray.remote(num_cpus=0)
def write_scored(
    model: str,
    sets: Mapping[str, Sequence[Prompt]],
    scores: Mapping[str, Scores],
    tokenizer_folder: str,
    path: str,
    *chunks: RolloutChunk,
) -> int:
    """Decode one model's answers and write them next to their scores, in the order of the prompts; returns how many.

    Args:
        sets: the prompts by the name of their set.
        scores: by request id; an answer without scores is left out.
        tokenizer_folder: of the policy.
    """
    answers = answers_of(chunks, sets, scores, load_tokenizer(tokenizer_folder), model)
    return write_answers(answers, Path(path))


def answers_of(
    chunks: Iterable[RolloutChunk],
    sets: Mapping[str, Sequence[Prompt]],
    scores: Mapping[str, Scores],
    tokenizer: PreTrainedTokenizerBase,
    model: str,
) -> list[ScoredAnswer]:
    """The answers of `chunks` that have scores, in the order of the prompts; arguments as `write_scored`."""
    by_id = {prompt.prompt_id: (name, prompt) for name, prompts in sets.items() for prompt in prompts}
    answers: dict[str, ScoredAnswer] = {}
    for chunk in chunks:
        for meta, token_ids in zip(chunk.meta, chunk.token_ids, strict=True):
            # A sample drawn twice, after a generator was lost, may be in two chunks.
            if meta.request_id not in scores or meta.prompt_id in answers:
                continue
            name, prompt = by_id[meta.prompt_id]
            finished = meta.finish_reason == STOP
            response = token_ids[meta.prompt_length : len(token_ids) - finished]
            score = scores[meta.request_id]
            answers[meta.prompt_id] = ScoredAnswer(
                model=model,
                set=name,
                prompt_id=prompt.prompt_id,
                source_id=prompt.attributes.get("source_id", prompt.prompt_id),
                category=prompt.category,
                tags=tuple(sorted(prompt.tags)),
                messages=tuple(dict(turn) for turn in prompt.messages),
                response=decode(tokenizer, response.tolist()),
                finish_reason=meta.finish_reason,
                response_tokens=meta.response_length,
                reward=score.reward,
                costs=dict(score.costs),
                watched=dict(score.watched),
            )
    return [answers[prompt_id] for prompt_id in by_id if prompt_id in answers]
