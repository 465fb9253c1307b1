"""What every scorer of one signal fulfils, whatever it is: a model, a rule, somebody else's classifier.

Invariant: a score that is not known is NaN and has a fault that says why. It is never 0 and never left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from learner.records import Message


class ScorerFault(StrEnum):
    """Why a conversation has no score."""

    RAISED = "raised"
    WRONG_LENGTH = "wrong_length"
    NOT_A_NUMBER = "not_a_number"
    """Another type than a number: None, a text, a bool, or no list at all."""
    NOT_FINITE = "not_finite"
    """NaN, infinite, or beyond the range of float32."""
    TOO_SLOW = "too_slow"
    UNREADABLE = "unreadable"
    """The policy's tokens give no text: a prompt that was cut, or a token that its tokenizer does not have."""
    REFUSED = "refused"
    """The scorer's tokenizer does not take the text: too long, or a special token in it."""


@dataclass(frozen=True)
class Conversation:
    """One prompt and the response to it, as text and as the policy's tokens."""

    request_id: str
    messages: tuple[Message, ...]
    """The prompt's turns; the last is the user's."""
    response: str
    """Without the end token. Any other special token that the policy drew is still there, as text."""
    finished: bool
    """The policy drew its end token; false: the response was cut at its longest length."""
    token_ids: np.ndarray
    """Prompt and response by the policy's tokenizer, int32 ``[T]``, with the end token of a finished response."""
    prompt_length: int
    """Tokens of the prompt."""

    def turns(self) -> list[dict[str, str]]:
        """The prompt's turns and then the response as the assistant's; a new list of new dictionaries."""
        return [*(dict(message) for message in self.messages), {"role": "assistant", "content": self.response}]


@dataclass(frozen=True)
class Scored:
    """What a scorer says of a batch."""

    values: np.ndarray
    """float32 ``[B]``, rows in the batch's order; NaN where the score is not known."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Request id of every NaN row to the reason, one line."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Request id of every NaN row to its `ScorerFault`."""


class SignalScorer(Protocol):
    """Gives each conversation one number: a reward (more is better) or a cost (above 0 is unsafe)."""

    def score(self, batch: Sequence[Conversation]) -> Scored:
        """Score a batch of any size, 0 included; request ids are different within it.

        A conversation's score must not depend on the others in its batch: batches form by which samples finish first. What
        is wrong with a conversation is a fault of it, never an exception.
        """
        ...
