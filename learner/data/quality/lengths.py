"""Lengths of texts and conversations, kept as counts per length: memory does not grow with the rows."""

from __future__ import annotations

from collections import Counter

import numpy as np

from learner.data.records import LabelledResponse, Message, PreferencePair, Record

_EXACT_BITS = 10
"""Lengths under 2**10 are exact; longer ones are rounded down by less than 1 in 2**9."""
_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
_MANY_TURNS = 20


class Lengths:
    """A distribution of lengths."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total, self._least, self._most, self._n = 0, 0, 0, 0

    def add(self, length: int) -> None:
        """Count one length, at least 0."""
        shift = max(0, length.bit_length() - _EXACT_BITS)
        self._counts[(length >> shift) << shift] += 1
        self._least = length if not self._n else min(self._least, length)
        self._most = max(self._most, length)
        self._total += length
        self._n += 1

    def document(self) -> dict[str, float | int] | None:
        """Count, mean, extremes and quantiles, in the unit that was added; None: no length was added."""
        if not self._n:
            return None
        values = np.array(sorted(self._counts))
        upto = np.cumsum([self._counts[int(value)] for value in values])
        at = np.searchsorted(upto, np.array(list(_QUANTILES.values())) * self._n)
        quantiles = {name: int(values[index]) for name, index in zip(_QUANTILES, at, strict=True)}
        return {"n": self._n, "mean": self._total / self._n, "min": self._least, **quantiles, "max": self._most}


class Shapes:
    """Lengths of prompts and responses in characters and words, and how many turns the conversations have."""

    def __init__(self) -> None:
        self._lengths = {(part, unit): Lengths() for part in ("prompt", "response") for unit in ("characters", "words")}
        self._turns: Counter[int] = Counter()
        self._system = 0

    def add(self, record: Record) -> None:
        """Measure one good record."""
        self._text("prompt", [turn["content"] for turn in record.prompt])
        for response in responses_of(record):
            self._text("response", [response])
        self._turns[user_turns(record.prompt)] += 1
        self._system += any(turn["role"] == "system" for turn in record.prompt)

    def lengths(self) -> dict[str, dict[str, dict[str, float | int] | None]]:
        """Part -> unit -> distribution."""
        return {
            part: {unit: self._lengths[part, unit].document() for unit in ("characters", "words")}
            for part in ("prompt", "response")
        }

    def turns(self) -> dict[str, object]:
        """How many conversations have how many user turns, and how many have a system message."""
        by_turns = {str(count): self._turns[count] for count in sorted(self._turns) if count <= _MANY_TURNS}
        over_limit = sum(times for count, times in self._turns.items() if count > _MANY_TURNS)
        return {
            "user_turns": by_turns | ({f"over {_MANY_TURNS}": over_limit} if over_limit else {}),
            "with_system": self._system,
        }

    def _text(self, part: str, texts: list[str]) -> None:
        self._lengths[part, "characters"].add(sum(map(len, texts)))
        self._lengths[part, "words"].add(sum(len(text.split()) for text in texts))


def responses_of(record: Record) -> tuple[str, ...]:
    """Two, one or no responses."""
    if isinstance(record, PreferencePair):
        return record.responses
    return (record.response,) if isinstance(record, LabelledResponse) else ()


def user_turns(prompt: tuple[Message, ...]) -> int:
    """User turns of a conversation."""
    return sum(turn["role"] == "user" for turn in prompt)
