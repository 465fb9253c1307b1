"""From a policy's tokens to conversations, and from conversations to another tokenizer's tokens.

Invariant: a finished response keeps its end, a cut one gets none: the policy's end token is dropped from the text, and the
scorer's own is put at the end of its tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from actors.scoring.prompt_reader import PromptReader, decode
from actors.scoring.protocol import Conversation
from configs.exits import ConfigError, DataError, SteelyardError
from learner.data.tokenizer import fit_prompt
from learner.records import Message, RolloutChunk, RolloutMeta

STOP = "stop"
"""The finish reason of a response whose last token is the end token."""


class ConversationReader:
    """Reads the chunks of one policy.

    Args:
        tokenizer: the policy's.
        prompts: prompt id to its turns, used as they are, also where the policy saw only the last of them. The turns of
            any other prompt are read back from its tokens.

    Raises:
        ConfigError: prompts cannot be read back with this tokenizer, and none are given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Mapping[str, Sequence[Message]] | None = None
    ) -> None:
        self._tokenizer, self._prompts = tokenizer, prompts or {}
        # With prompts given a template that hides turns does no harm, until one prompt is missing.
        self._reader = PromptReader(tokenizer) if prompts is None else None

    def read(self, chunk: RolloutChunk) -> tuple[list[Conversation], dict[str, str]]:
        """The chunk's samples as conversations in its order; and of those left out request id to the reason.

        Left out are prompts that cannot be read back, and samples with a token that the tokenizer does not have (a model's
        vocabulary may be padded).

        Raises:
            SteelyardError: lengths contradict each other.
            ConfigError: as the constructor, at the first prompt that is not given.
        """
        conversations: list[Conversation] = []
        faults: dict[str, str] = {}
        read_before: dict[tuple[str, bytes], tuple[Message, ...]] = {}
        for meta, token_ids in zip(chunk.meta, chunk.token_ids, strict=True):
            _check_lengths(meta, len(token_ids))
            finished = meta.finish_reason == STOP
            prompt = token_ids[: meta.prompt_length]
            response = token_ids[meta.prompt_length : len(token_ids) - finished]
            if (unknown := _unknown_token(self._tokenizer, token_ids)) is not None:
                faults[meta.request_id] = unknown
                continue
            key = (meta.prompt_id, prompt.tobytes())
            try:
                # Samples of one prompt often share a chunk.
                messages = read_before.get(key) or self._messages(meta.prompt_id, prompt.tolist())
            except DataError as error:
                faults[meta.request_id] = str(error)
                continue
            read_before[key] = messages
            text = decode(self._tokenizer, response.tolist())
            conversations.append(Conversation(meta.request_id, messages, text, finished, token_ids, meta.prompt_length))
        return conversations, faults

    def _messages(self, prompt_id: str, token_ids: Sequence[int]) -> tuple[Message, ...]:
        messages = self._prompts.get(prompt_id)
        if messages is not None:
            return tuple(messages)
        if self._reader is None:
            self._reader = PromptReader(self._tokenizer)
        return self._reader.read(token_ids)


def retokenise(
    conversation: Conversation, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> list[int]:
    """The conversation for a scorer with another tokenizer: prompt, response, and the end token of a finished response.

    A prompt that is too long with the response loses whole turns at its start, as `learner.data.tokenizer.fit_prompt` says.

    Args:
        tokenizer: the scorer's.
        template: a Jinja chat template; None: the tokenizer's own.

    Raises:
        ConfigError: there is no template, or the tokenizer has no end token.
        DataError: it does not fit the tokenizer's `model_max_length`, the template refuses it, or a text holds one of the
            scorer's special tokens: it would forge a turn, and of an unknown word nothing is left to judge.
    """
    if template is not None:
        tokenizer = copy.copy(tokenizer)  # shallow: the vocabulary is shared
        tokenizer.chat_template = template
    if not tokenizer.chat_template:
        raise ConfigError("the scorer's tokenizer has no chat template: name one")
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the scorer's tokenizer has no end token, so a finished response cannot be told from a cut one"
        )
    special = [token for token in tokenizer.all_special_tokens if token in conversation.response]
    if special:
        raise DataError(f"the response {conversation.response[:60]!r} holds the scorer's special token {special[0]}")
    response = list(tokenizer(conversation.response, add_special_tokens=False, verbose=False)["input_ids"])
    if conversation.finished:
        response.append(tokenizer.eos_token_id)
    room = tokenizer.model_max_length - len(response)
    if room < 1:
        raise DataError(
            f"a response of {len(response)} tokens leaves no room in the scorer's {tokenizer.model_max_length}"
        )
    try:
        prompt = fit_prompt(tokenizer, conversation.messages, room, prompt_id=f"of request {conversation.request_id}")
    except TemplateError as error:
        raise DataError(f"the scorer's chat template refuses the prompt: {error}") from error
    return [*prompt, *response]


def token_conversations(
    chunk: RolloutChunk, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Conversation], dict[str, str]]:
    """As `ConversationReader.read`, for who reads the policy's tokens alone: without turns and without text."""
    conversations: list[Conversation] = []
    faults: dict[str, str] = {}
    for meta, token_ids in zip(chunk.meta, chunk.token_ids, strict=True):
        _check_lengths(meta, len(token_ids))
        if (unknown := _unknown_token(tokenizer, token_ids)) is not None:
            faults[meta.request_id] = unknown
            continue
        finished = meta.finish_reason == STOP
        conversations.append(Conversation(meta.request_id, (), "", finished, token_ids, meta.prompt_length))
    return conversations, faults


def _unknown_token(tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray) -> str | None:
    unknown = token_ids[(token_ids < 0) | (token_ids >= len(tokenizer))]
    return f"the tokenizer has no token {unknown[0]}" if len(unknown) else None


def _check_lengths(meta: RolloutMeta, tokens: int) -> None:
    if meta.response_length < 1 or meta.prompt_length + meta.response_length != tokens:
        raise SteelyardError(
            f"request {meta.request_id} says {meta.prompt_length} + {meta.response_length} tokens and brings {tokens}"
        )
