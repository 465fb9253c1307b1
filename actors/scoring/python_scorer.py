"""A Python function as a scorer: conversations in, floats out.

Invariant: every conversation gets a finite float that the function returned for it, or NaN and a fault that is counted.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

import numpy as np

from actors.scoring.function_thread import FunctionRaised, FunctionThread, FunctionTooSlow, describe
from actors.scoring.protocol import Conversation, Scored
from configs.exits import ConfigError
from learner.deadlines import Deadline

Turns = list[dict[str, str]]
ScoreFunction = Callable[..., Any]
"""Called with a list of conversations (each a list of ``{"role": …, "content": …}`` whose last turn is the assistant's
response) and the options' arguments by name; returns as many floats in the same order, or an awaitable of them."""


class ScorerFault(StrEnum):
    """Why a conversation has no score."""

    RAISED = "raised"
    WRONG_LENGTH = "wrong_length"
    NOT_A_NUMBER = "not_a_number"
    """Another type than a number: None, a text, a bool, or no list at all."""
    NOT_FINITE = "not_finite"
    """NaN, infinite, or beyond the range of float32."""
    TOO_SLOW = "too_slow"


@dataclass(frozen=True)
class PythonOptions:
    """How a function is called."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Handed to the function by name with every call."""
    batch_size: int = 32
    """Conversations of one call at most."""
    deadline_seconds: float = 60.0
    """For one call; and once more for all calls together in which a batch that failed is tried one by one."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}: give a whole number from 1")
        if not (math.isfinite(self.deadline_seconds) and self.deadline_seconds > 0):
            raise ConfigError(f"deadline_seconds is {self.deadline_seconds}: give a number of seconds above 0")


@dataclass(frozen=True)
class _Fault:
    kind: ScorerFault
    detail: str


class _Unusable(Exception):
    """A call's answer says nothing of any of its conversations."""

    def __init__(self, kind: ScorerFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = _Fault(kind, detail)


class PythonScorer:
    """Fulfils `SignalScorer` with a function. Not thread-safe: one caller at a time.

    Args:
        function: see `ScoreFunction`. It runs in one thread, never twice at a time (`function_thread`).
        name: for errors.
    """

    def __init__(self, function: ScoreFunction, options: PythonOptions | None = None, *, name: str = "function") -> None:
        self._function, self._options, self._name = function, options or PythonOptions(), name
        self._thread = FunctionThread()
        self._faults: Counter[ScorerFault] = Counter()
        self._calls = self._retried = self._scored = 0
        _check_call(function, self._options.arguments, name)

    @classmethod
    def from_spec(cls, spec: str, options: PythonOptions | None = None) -> PythonScorer:
        """The function ``package.module:function`` of a module that can be imported here; importing runs its code.

        Raises:
            ConfigError: the module or function is not there, importing raised, it is no function, or it does not take the
                options' arguments.
        """
        return cls(load_function(spec), options, name=spec)

    def score(self, batch: Sequence[Conversation]) -> Scored:
        """Score in calls of `batch_size`.

        A call that raised or whose answer fits nothing is repeated conversation by conversation, so that only the guilty
        ones are set aside; one that was too slow is not. Takes at most twice the deadline per `batch_size` conversations.
        """
        values = np.full(len(batch), np.nan, dtype=np.float32)
        faults: dict[str, str] = {}
        for start in range(0, len(batch), self._options.batch_size):
            part = batch[start : start + self._options.batch_size]
            for row, outcome in enumerate(self._outcomes(part), start):
                if isinstance(outcome, _Fault):
                    faults[batch[row].request_id] = f"{self._name}: {outcome.kind}: {outcome.detail}"
                    self._faults[outcome.kind] += 1
                else:
                    values[row] = outcome
                    self._scored += 1
        return Scored(values, faults)

    @property
    def counts(self) -> dict[str, int]:
        """Since the start: ``scored`` conversations, ``calls`` of the function, ``retried`` calls (repeated one by one),
        and conversations set aside as ``faults/<kind>``, every kind of `ScorerFault` included.
        """
        return {
            "scored": self._scored, "calls": self._calls, "retried": self._retried,
            **{f"faults/{kind}": self._faults[kind] for kind in ScorerFault},
        }  # fmt: skip

    def close(self) -> None:
        """Let the function's thread end."""
        self._thread.close()

    def _outcomes(self, part: Sequence[Conversation]) -> list[float | _Fault]:
        """One per conversation of a call."""
        try:
            return self._called(part, self._options.deadline_seconds)
        except _Unusable as error:
            if len(part) == 1:
                return [error.fault]
        except FunctionTooSlow as error:
            # Not tried one by one: where one hangs, that would take the deadline for each of the others.
            return [_Fault(ScorerFault.TOO_SLOW, str(error))] * len(part)
        self._retried += 1
        deadline = Deadline(self._options.deadline_seconds)
        return [self._alone(one, deadline) for one in part]

    def _alone(self, one: Conversation, deadline: Deadline) -> float | _Fault:
        try:
            return self._called([one], deadline.remaining())[0]
        except _Unusable as error:
            return error.fault
        except FunctionTooSlow as error:
            return _Fault(ScorerFault.TOO_SLOW, f"{error} (tried one by one after its batch had failed)")

    def _called(self, part: Sequence[Conversation], seconds: float) -> list[float | _Fault]:
        """One call. Raises _Unusable, FunctionTooSlow."""
        # New lists each time: a function that changes what it was given must not change a second try.
        conversations = [one.turns() for one in part]
        self._calls += 1
        try:
            returned = self._thread.call(lambda: self._function(conversations, **self._options.arguments), seconds)
            # Also in that thread: a foreign array may raise, or take its time.
            answers = self._thread.call(lambda: _as_list(returned), max(seconds, READ_SECONDS))
        except FunctionRaised as error:
            raise _Unusable(ScorerFault.RAISED, str(error)) from error
        if not isinstance(answers, list):
            raise _Unusable(ScorerFault.NOT_A_NUMBER, f"returned {_kind_of(returned)}, not a list of floats")
        if len(answers) != len(part):
            raise _Unusable(ScorerFault.WRONG_LENGTH, f"returned {len(answers)} numbers for {len(part)} conversations")
        return [_judge(answer) for answer in answers]


READ_SECONDS = 1.0
