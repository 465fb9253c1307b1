"""The texts of samples, read where the data is, as a Ray task: the caller sees no tokens."""

from __future__ import annotations

import ray

from actors.judging.by_judge.transformers_answers import Drawn
from actors.judging.responses import STOP
from actors.scoring.prompt_reader import decode
from learner.data.tokenizer import load_tokenizer
from learner.records import RolloutChunk


@ray.remote(num_cpus=0)
def read_chunks(tokenizer_folder: str, *chunks: RolloutChunk) -> list[Drawn]:
    """The text of every sample; one drawn twice, after a generator was lost, comes once."""
    tokenizer = load_tokenizer(tokenizer_folder)
    by_request: dict[str, Drawn] = {}
    for chunk in chunks:
        for meta, token_ids in zip(chunk.meta, chunk.token_ids, strict=True):
            response = token_ids[meta.prompt_length : len(token_ids) - (meta.finish_reason == STOP)]
            text = decode(tokenizer, response.tolist())
            by_request.setdefault(
                meta.request_id, Drawn(meta.request_id, text, meta.finish_reason, meta.response_length)
            )
    return list(by_request.values())
