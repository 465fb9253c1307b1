"""Generation requests: prompts as token ids, and a seed per sample that depends on what the sample is, not on when it is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from learner.records import GenerationRequest, Prompt, SamplingSettings
from learner.tokens import load_tokenizer, prompt_token_ids


def stable_seed(*parts: object) -> int:
    """A seed in [0, 2^31) from the parts, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33


class Sampler:
    """Makes the requests of one stage; each distinct conversation is tokenised once."""

    def __init__(self, tokenizer_path: Path, seed: int, stage: str) -> None:
        self._tokenizer = load_tokenizer(tokenizer_path)
        self._seed, self._stage = seed, stage
        self._known: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}

    def request(self, prompt: Prompt, request_id: str, sampling: SamplingSettings) -> GenerationRequest:
        """One sample of a prompt; its seed is the hash of run seed, stage and request id."""
        seed = stable_seed(self._seed, self._stage, request_id)
        return GenerationRequest(request_id, prompt.prompt_id, self.token_ids(prompt), seed, sampling)

    def token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's tokens by the chat template."""
        turns = tuple((message["role"], message["content"]) for message in prompt.messages)
        if turns not in self._known:
            self._known[turns] = tuple(prompt_token_ids(self._tokenizer, prompt.messages))
        return self._known[turns]


def by_id(prompts: list[Prompt]) -> Mapping[str, Prompt]:
    """Prompts by prompt_id."""
    return {prompt.prompt_id: prompt for prompt in prompts}
