"""The turns of a prompt, read back from its token ids.

A chat template puts markers around turns. They are learned from the template itself, by rendering turns with known
contents; the prompt's text is split at them. Invariant: the turns found give, rendered again, exactly the ids they were
read from, else they are refused: a scorer never judges a prompt that the policy was not given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from configs.exits import ConfigError, DataError
from learner.records import Message

_PROBES = ("steelyardsystem", "steelyardfirst", "steelyardanswer", "steelyardlast")
"""Contents that no template has of its own."""


@dataclass(frozen=True)
class _Markers:
    """What a template writes around turns, as the tokenizer decodes it."""

    system: bool
    """Of prompts that begin with a system turn."""
    head: str
    """Before the first turn."""
    after_system: str
    """Between a system turn and the first user turn; empty without one."""
    after_user: str
    after_assistant: str
    tail: str
    """After the last user turn."""

    def stripped(self) -> _Markers:
        texts = (self.head, self.after_system, self.after_user, self.after_assistant, self.tail)
        return _Markers(self.system, *(text.strip() for text in texts))


class PromptReader:
    """Reads prompts of one tokenizer and its chat template.

    Raises:
        ConfigError: no markers can be told from its template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._markers = [
            markers for markers in (self._learn(system=False), self._learn(system=True)) if markers is not None
        ]
        if not self._markers:
            raise ConfigError(
                "prompts cannot be read back from tokens with this tokenizer's chat template, which does not show every turn: "
                "give the prompts' messages"
            )
        self._forging = forging_tokens(tokenizer)

    def read(self, token_ids: Sequence[int]) -> tuple[Message, ...]:
        """The turns of a prompt that waits for the assistant's answer.

        Raises:
            DataError: no turns give these ids, as of a prompt that was cut at its end.
        """
        ids = [int(token_id) for token_id in token_ids]
        text = decode(self._tokenizer, ids)
        for markers in self._markers:
            # Stripped first: a word-level tokenizer decodes with other spaces than the template wrote.
            for contents in (_split(text.strip(), markers.stripped(), strip=True), _split(text, markers, strip=False)):
                if contents is None or any(token in content for token in self._forging for content in contents):
                    continue
                messages = tuple(_messages(contents, markers.system))
                if self._render(messages) == ids:
                    return messages
        raise DataError(
            f"the prompt {text[:60]!r} cannot be read back into turns by the chat template: give the prompts' messages"
        )

    def _render(self, messages: Sequence[Message]) -> list[int]:
        text = render(self._tokenizer, messages)
        ids: list[int] = [] if text is None else self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _learn(self, *, system: bool) -> _Markers | None:
        """From a conversation of known contents; None where the template refuses or hides one of them."""
        contents = _PROBES if system else _PROBES[1:]
        text = render(self._tokenizer, list(_messages(contents, system)))
        if text is None or any(text.count(content) != 1 for content in contents):
            return None
        around: list[str] = []
        for content in contents:
            before, separator, text = text.partition(content)
            if not separator:  # the template changes their order
                return None
            around.append(before)
        head, *between = (self._as_decoded(marker) for marker in [*around, text])
        return _Markers(system, head, *(between if system else ["", *between]))

    def _as_decoded(self, text: str) -> str:
        return decode(self._tokenizer, self._tokenizer(text, add_special_tokens=False)["input_ids"])


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str | None:
    """The text of a prompt by the chat template; None where the template refuses it, such as a system turn."""
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except TemplateError:
        return None
    return text


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of tokens as it is: special tokens stay, spaces are not tidied."""
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def forging_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The special tokens that would forge a turn or an end inside a text; an unknown word's token forges nothing."""
    structural = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    harmless = {tokenizer.unk_token} - structural
    return tuple(token for token in tokenizer.all_special_tokens if token not in harmless)


def _split(text: str, markers: _Markers, *, strip: bool) -> list[str] | None:
    """The contents between the markers, ending with a user's; None where the text is not made like that."""
    if len(text) < len(markers.head) + len(markers.tail) or not markers.after_user or not markers.after_assistant:
        return None
    if not (text.startswith(markers.head) and text.endswith(markers.tail)):
        return None
    remaining = text[len(markers.head) : len(text) - len(markers.tail)]
    contents: list[str] = []
    if markers.system:
        content, separator, remaining = (
            remaining.partition(markers.after_system) if markers.after_system else ("", "", "")
        )
        if not separator:
            return None
        contents.append(content)
    turn = 0
    while True:
        content, separator, remaining = remaining.partition(markers.after_assistant if turn % 2 else markers.after_user)
        contents.append(content)
        if not separator:
            break
        turn += 1
    if turn % 2:  # the last turn is the assistant's
        return None
    return [content.strip() for content in contents] if strip else contents


def _messages(contents: Sequence[str], system: bool) -> Iterator[Message]:
    for turn, content in enumerate(contents, start=-1 if system else 0):
        yield {"role": "system" if turn < 0 else "assistant" if turn % 2 else "user", "content": content}
