"""Generation requests: prompts as token ids, and a seed per sample that depends on what the sample is, not on when it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cluster.run_folder.digests import stable_seed
from learner.data.tokenizer import fit_prompt, load_tokenizer, prompt_token_ids
from learner.records import GenerationRequest, Prompt, SamplingSettings


class Sampler:
    """Makes the requests of one stage; each distinct conversation is tokenised once.

    Args:
        max_prompt_tokens: what the models' positions leave for a response next to it; a longer prompt loses whole turns at its
            start. None: a prompt is taken whole, and refused when no room is left to answer.
        truncate_right: cut a prompt that is too long at its end instead (`reference.truncate_prompt_right`).
    """

    def __init__(
        self,
        tokenizer_path: Path,
        seed: int,
        stage: str,
        *,
        max_prompt_tokens: int | None = None,
        truncate_right: bool = False,
    ) -> None:
        self._tokenizer = load_tokenizer(tokenizer_path)
        self._seed, self._stage = seed, stage
        self._max_prompt_tokens, self._truncate_right = max_prompt_tokens, truncate_right
        self._known: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}

    def request(self, prompt: Prompt, request_id: str, sampling: SamplingSettings) -> GenerationRequest:
        """One sample of a prompt; its seed is the hash of run seed, stage and request id."""
        seed = stable_seed(self._seed, self._stage, request_id)
        return GenerationRequest(request_id, prompt.prompt_id, self.token_ids(prompt), seed, sampling)

    def token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's tokens by the chat template."""
        turns = tuple((message["role"], message["content"]) for message in prompt.messages)
        if turns not in self._known:
            self._known[turns] = tuple(self._tokenise(prompt))
        return self._known[turns]

    def _tokenise(self, prompt: Prompt) -> list[int]:
        if self._max_prompt_tokens is None:
            return prompt_token_ids(self._tokenizer, prompt.messages)
        return fit_prompt(
            self._tokenizer,
            prompt.messages,
            self._max_prompt_tokens,
            prompt_id=prompt.prompt_id,
            right=self._truncate_right,
        )


def by_id(prompts: list[Prompt]) -> Mapping[str, Prompt]:
    """Prompts by prompt_id."""
    return {prompt.prompt_id: prompt for prompt in prompts}
