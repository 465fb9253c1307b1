"""A Python function as a scorer: conversations in, floats out.

Invariant: every conversation gets a finite float that the function returned for it, or NaN and a fault that is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from actors.scoring.function_thread import FunctionRaised, FunctionThread, FunctionTooSlow
from actors.scoring.functions import ScoreFunction, check_call, kind_of, load_function
from actors.scoring.protocol import Conversation, Scored, ScorerFault
from configs.exits import ConfigError
from learner.deadlines import Deadline

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class PythonOptions:
    """How a function is called."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Handed to the function by name with every call."""
    batch_size: int = 32
    """Conversations of one call at most."""
    deadline_seconds: float = 60.0
    """For one call; and once more for all calls together in which a batch that failed is tried one by one."""
    total_seconds: float | None = None
    """For all calls of one `score` together: what is left after it is too slow. None: as long as its calls take."""

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

    def __init__(
        self, function: ScoreFunction, options: PythonOptions | None = None, *, name: str = "function"
    ) -> None:
        self._function, self._options, self._name = function, options or PythonOptions(), name
        self._thread = FunctionThread()
        self._faults: Counter[ScorerFault] = Counter()
        self._retried = self._scored = 0
        check_call(function, self._options.arguments, name)

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
        ones are set aside; one that was too slow is not. Takes at most twice the deadline per `batch_size` conversations,
        and `total_seconds` in all where that is given.
        """
        values = np.full(len(batch), np.nan, dtype=np.float32)
        faults: dict[str, str] = {}
        kinds: dict[str, str] = {}
        budget = Deadline(self._options.total_seconds or math.inf)
        for start in range(0, len(batch), self._options.batch_size):
            part = batch[start : start + self._options.batch_size]
            for row, outcome in enumerate(self._outcomes(part, budget), start):
                if isinstance(outcome, _Fault):
                    faults[batch[row].request_id] = f"{self._name}: {outcome.kind}: {outcome.detail}"
                    kinds[batch[row].request_id] = outcome.kind
                    self._faults[outcome.kind] += 1
                else:
                    values[row] = outcome
                    self._scored += 1
        return Scored(values, faults, kinds)

    @property
    def counts(self) -> dict[str, int]:
        """Since the start: ``scored`` conversations, ``retried`` calls (repeated one by one), and conversations set aside as
        ``faults/<kind>``, every kind of `ScorerFault` included.
        """
        return {
            "scored": self._scored,
            "retried": self._retried,
            **{f"faults/{kind}": self._faults[kind] for kind in ScorerFault},
        }

    def close(self) -> None:
        """Let the function's thread end."""
        self._thread.close()

    def _outcomes(self, part: Sequence[Conversation], budget: Deadline) -> list[float | _Fault]:
        """One per conversation of a call."""
        limit_seconds = self._options.deadline_seconds
        try:
            return self._called(part, min(limit_seconds, budget.remaining()))
        except _Unusable as error:
            if len(part) == 1:
                return [error.fault]
        except FunctionTooSlow as error:
            # Not tried one by one: where one hangs, that would take the deadline for each of the others.
            return [_Fault(ScorerFault.TOO_SLOW, str(error))] * len(part)
        self._retried += 1
        deadline = Deadline(min(limit_seconds, budget.remaining()))
        return [self._alone(conversation, deadline) for conversation in part]

    def _alone(self, conversation: Conversation, deadline: Deadline) -> float | _Fault:
        try:
            return self._called([conversation], deadline.remaining())[0]
        except _Unusable as error:
            return error.fault
        except FunctionTooSlow as error:
            return _Fault(ScorerFault.TOO_SLOW, f"{error} (tried one by one after its batch had failed)")

    def _called(self, part: Sequence[Conversation], seconds: float) -> list[float | _Fault]:
        """One call. Raises _Unusable, FunctionTooSlow."""
        # New lists each time: a function that changes what it was given must not change a second try.
        conversations = [conversation.turns() for conversation in part]
        call = partial(self._function, conversations, **self._options.arguments)
        try:
            answers = self._thread.call(call, _read_list, seconds)
        except FunctionRaised as error:
            raise _Unusable(ScorerFault.RAISED, str(error)) from error
        if isinstance(answers, str):
            raise _Unusable(ScorerFault.NOT_A_NUMBER, f"returned {answers}, not a list of floats")
        if len(answers) != len(part):
            raise _Unusable(ScorerFault.WRONG_LENGTH, f"returned {len(answers)} numbers for {len(part)} conversations")
        return [_judge(answer) for answer in answers]


def _read_list(returned: Any) -> list[Any] | str:
    """A list of plain Python objects of a list, tuple, array or tensor; of anything else what it is."""
    if not isinstance(returned, (list, tuple)):
        plain = _plain(returned)
        return plain if isinstance(plain, list) else kind_of(returned)
    return [_plain(item) for item in returned]


def _plain(value: Any) -> Any:
    """Arrays and tensors, 0-dimensional ones included, as Python's own lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def _judge(answer: Any) -> float | _Fault:
    """The answer as a float within float32's range, or what is wrong with it."""
    if type(answer) not in (int, float):  # exactly: a bool is no score, and a foreign subclass may compute as it likes
        return _Fault(ScorerFault.NOT_A_NUMBER, f"the score is {kind_of(answer)}")
    if not abs(answer) <= FLOAT32_MAX:  # also of NaN
        return _Fault(ScorerFault.NOT_FINITE, f"the score is {_shown(answer)}")
    return float(answer)


def _shown(number: float) -> str:
    # Python refuses to write out a whole number of thousands of digits.
    return f"{number:g}" if isinstance(number, float) else "beyond float32"
