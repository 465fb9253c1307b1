"""The red team's work on samples that runs as a Ray task: tokens stay in the object store, text comes back."""

from __future__ import annotations

import ray
from tokenizers import Tokenizer

from learner.records import RolloutChunk


@ray.remote(num_cpus=0)
def read_answers(tokenizer_file: str, *chunks: RolloutChunk) -> dict[str, tuple[str, bool]]:
    """Request id → (response without its end token, whether it ended by itself); of a repeated sample the first."""
    tokenizer = Tokenizer.from_file(tokenizer_file)
    answers: dict[str, tuple[str, bool]] = {}
    for chunk in chunks:
        for meta, token_ids in zip(chunk.meta, chunk.token_ids, strict=True):
            finished = meta.finish_reason == "stop"
            response = [int(token) for token in token_ids][meta.prompt_length :]
            text = tokenizer.decode(response[:-1] if finished else response, skip_special_tokens=False)
            answers.setdefault(meta.request_id, (text, finished))
    return answers
