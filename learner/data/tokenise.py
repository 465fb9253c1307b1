"""Token ids of a prompt and a response. What is prompt and what is response is told by lengths, never by token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from configs.exits import ConfigError, DataError
from learner.data.records import Message
from learner.data.tokenizer import fit_prompt


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
    ids = [*tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]
    room = limits.max_length - len(prompt_ids)
    return TokenisedResponse((*prompt_ids, *ids[:room]), len(prompt_ids), cut=len(ids) > room)


def _check_text(tokenizer: PreTrainedTokenizerBase, text: str, where: str) -> None:
    """A special token inside a text would forge a turn, or be mistaken for padding."""
    for token in tokenizer.all_special_tokens:
        if token in text:
            raise UnusableRow("special_token", f"{where} holds the special token {token}: remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableRow(
            "bad_encoding", f"{where} holds half a surrogate pair at character {error.start + 1}: remove it"
        ) from error
