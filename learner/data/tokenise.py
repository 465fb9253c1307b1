"""Token ids of a prompt and a response. What is prompt and what is response is told by lengths, never by token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from configs.exits import ConfigError, DataError
from learner.data.records import Message
from learner.data.tokenizer import fit_prompt
from learner.model_files.pad_token import is_control_form


class UnusableRow(DataError):
    """A row that cannot become tokens; ``kind`` says why in one word, for counting."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class TokenisedResponse:
    """A conversation as tokens."""

    ids: tuple[int, ...]
    """Prompt and response."""
    prompt_length: int
    cut: bool
    """The response had no room and lost its end, the end token included."""

    @property
    def response_length(self) -> int:
        """Tokens of the response, its end token included."""
        return len(self.ids) - self.prompt_length


@dataclass(frozen=True)
class TokenLimits:
    """Room for a conversation, in tokens.

    Raises:
        ConfigError: no room for a prompt or for a response.
    """

    max_length: int
    """Prompt and response together: positions of the model."""
    max_prompt: int

    def __post_init__(self) -> None:
        if not 1 <= self.max_prompt < self.max_length:
            raise ConfigError(
                f"a prompt of up to {self.max_prompt} tokens leaves no room for a response within {self.max_length}: "
                "lower the prompt's limit or raise model.max_length"
            )


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    response: str,
    *,
    max_length: int,
    max_prompt: int,
    prompt_id: str,
) -> TokenisedResponse:
    """Token ids of a prompt and its response by the tokenizer's chat template, at most `max_length` of them.

    A prompt of more than `max_prompt` tokens loses whole turns at its start (`learner.data.tokenizer.fit_prompt`). The response
    ends with the end token; where it has no room it is cut at its end and marked.

    Args:
        prompt: ends with a user's turn.
        prompt_id: how messages call the prompt.

    Raises:
        ConfigError: the limits leave no room.
        UnusableRow: a `DataError` that names the prompt: its last turn alone is too long, the chat template
            refuses it, the response has no text, or a text holds a special token or what UTF-8 cannot hold.
    """
    limits = TokenLimits(max_length, max_prompt)
    prompt_ids = prompt_tokens(tokenizer, prompt, limits, prompt_id)
    return with_response(tokenizer, prompt_ids, response, limits, prompt_id)


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], limits: TokenLimits, prompt_id: str
) -> list[int]:
    """The prompt's part of `tokenise`; errors as there."""
    for message in prompt:
        _check_text(tokenizer, message["content"], f"prompt {prompt_id}: a {message['role']} turn")
    if not prompt or prompt[-1]["role"] != "user":
        raise UnusableRow("broken_order", f"prompt {prompt_id} does not end with a user's turn")
    try:
        return fit_prompt(tokenizer, prompt, limits.max_prompt, prompt_id=prompt_id)
    except DataError as error:
        raise UnusableRow("too_long_prompt", str(error)) from error
    except TemplateError as error:  # such as Gemma's, which has no place for a system turn
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnusableRow("template_refused", f"prompt {prompt_id}: the chat template refuses it ({why})") from error


def with_response(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], response: str, limits: TokenLimits, prompt_id: str
) -> TokenisedResponse:
    """The response's part of `tokenise`, after the token ids of a prompt; errors as there."""
    if not response.strip():
        raise UnusableRow("empty_response", f"prompt {prompt_id}: the response has no text: leave the row out")
    _check_text(tokenizer, response, f"prompt {prompt_id}: the response")
    ids = [*response_ids(tokenizer, response), tokenizer.eos_token_id]
    room = limits.max_length - len(prompt_ids)
    return TokenisedResponse((*prompt_ids, *ids[:room]), len(prompt_ids), cut=len(ids) > room)


def response_ids(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """The response's ids as they are in the joint text of prompt and response, which is how a past turn has them.

    A SentencePiece tokenizer begins every text with a space of its own: alone, a response would begin with another token than
    after its prompt.
    """
    alone: list[int] = tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
    if not _begins_texts_with_a_space(tokenizer):
        return alone
    before: list[int] = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    joint: list[int] = tokenizer(_BEFORE + response, add_special_tokens=False, verbose=False)["input_ids"]
    return joint[len(before) :] if joint[: len(before)] == before and len(joint) > len(before) else alone


_BEFORE = "::"
"""Stands for a prompt's end, in a form that no vocabulary joins with what follows."""


@lru_cache(maxsize=8)
def _begins_texts_with_a_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    joint = tokenizer(f"{_BEFORE}a", add_special_tokens=False)["input_ids"]
    return joint[: len(before)] == before and len(joint) > len(before) and joint[len(before) :] != alone


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Tokens that a text must not hold: the special ones, also those without a role, such as the header tokens of Llama 3."""
    return _control_tokens(tokenizer, len(tokenizer), tuple(tokenizer.all_special_tokens))


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, _size: int, special: tuple[str, ...]) -> tuple[str, ...]:
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(dict.fromkeys((*special, *(token for token in added if is_control_form(token)))))


def _check_text(tokenizer: PreTrainedTokenizerBase, text: str, where: str) -> None:
    """A special token inside a text would forge a turn, or be mistaken for padding."""
    for token in control_tokens(tokenizer):
        if token in text:
            raise UnusableRow("special_token", f"{where} holds the special token {token}: remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableRow(
            "bad_encoding", f"{where} holds half a surrogate pair at character {error.start + 1}: remove it"
        ) from error
