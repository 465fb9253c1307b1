"""What the labels of good rows say together: balance, length bias, kinds of harm, and how "better" and "safer" part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from learner.data.quality.repeats import text_key
from learner.data.records import LabelledResponse, PreferencePair, PromptOnly, Record
from learner.statistics.agreement import phi_interval
from learner.statistics.intervals import wilson

Ranking = Literal["better", "safer"]
RANKINGS: tuple[Ranking, ...] = ("better", "safer")
_NAMES = 1000
"""Different category names that are counted apart; a broken file could have a new one in every row."""
_NAME = 200
"""Characters of one name."""
OTHERS = "(others)"


def share(successes: int, n: int) -> dict[str, float | int] | None:
    """A share with its Wilson interval; None of nothing."""
    return asdict(wilson(successes, n)) if n else None


class Names:
    """Counts of names, of which a broken file may have too many."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, names: Iterable[str]) -> None:
        """Count each of them once."""
        for name in {short(name) for name in names}:
            self.counts[name if name in self.counts or len(self.counts) < _NAMES else OTHERS] += 1

    def document(self) -> dict[str, int]:
        """The most frequent first."""
        return dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))


def short(name: str) -> str:
    """A name that can be kept in memory and shown; of a very long one the beginning, and a hash that tells it apart."""
    return name if len(name) <= _NAME else f"{name[:_NAME]}… ({text_key(name):016x})"


class LengthBias:
    """How often the longer response of a pair wins one ranking."""

    def __init__(self) -> None:
        self._longer, self._shorter, self._ties = 0, 0, 0

    def add(self, winner: int, loser: int) -> None:
        """Count one ranked pair, by the lengths of its responses."""
        self._longer += winner > loser
        self._shorter += winner < loser
        self._ties += winner == loser

    def document(self) -> dict[str, Any] | None:
        """Counts, and the share of the longer with its interval, equal lengths left out; None: nothing was ranked."""
        ranked = self._longer + self._shorter
        if not ranked + self._ties:
            return None
        counts = {"longer_wins": self._longer, "shorter_wins": self._shorter, "equal": self._ties}
        return counts | {"longer": share(self._longer, ranked)}


class Decoupling:
    """Where the more helpful response is not the safer one: what two rankings instead of one have changed."""

    _GROUPS = ("both", "one", "none", "unknown")

    def __init__(self) -> None:
        self._tables = {group: np.zeros((2, 2), dtype=np.int64) for group in self._GROUPS}

    def add(self, pair: PreferencePair) -> None:
        """Count a pair, if it has both rankings."""
        if pair.better is not None and pair.safer is not None:
            self._tables[safety_of(pair)][pair.better, pair.safer] += 1

    def document(self) -> dict[str, Any] | None:
        """Phi of the two indices, the share of pairs that differ, and both by how many responses are safe."""
        table = sum(self._tables.values(), np.zeros((2, 2), dtype=np.int64))
        if not (n := int(table.sum())):
            return None
        phi = phi_interval(table)
        groups = {
            group: share(int(part[0, 1] + part[1, 0]), int(part.sum()))
            for group, part in self._tables.items()
            if part.any()
        }
        return {
            "n": n,
            "phi": None if phi is None else asdict(phi),
            "differ": share(int(table[0, 1] + table[1, 0]), n),
            "differ_by_safe_responses": groups,
        }


class Labels:
    """Everything that is counted about labels."""

    def __init__(self) -> None:
        self.records: Counter[str] = Counter({"pairs": 0, "responses": 0, "prompts": 0})
        self._winners = {name: Counter({"0": 0, "1": 0, "unknown": 0}) for name in RANKINGS}
        self._safe = Counter({"safe": 0, "unsafe": 0, "unknown": 0})
        self._pairs_safe = Counter({"both": 0, "one": 0, "none": 0, "unknown": 0})
        self._bias = {(name, unit): LengthBias() for name in RANKINGS for unit in ("characters", "words")}
        self._decoupling = Decoupling()
        self.categories, self._severity, self._tags = Names(), Names(), Names()

    def add(self, record: Record) -> None:
        """Count one good record."""
        self._tags.add(record.tags)
        if isinstance(record, PreferencePair):
            self._add_pair(record)
        elif isinstance(record, LabelledResponse):
            self.records["responses"] += 1
            self._safe["safe" if record.safe else "unsafe"] += 1
            self.categories.add(record.categories)
        elif isinstance(record, PromptOnly):
            self.records["prompts"] += 1
            self.categories.add([record.category] if record.category is not None else [])

    def _add_pair(self, pair: PreferencePair) -> None:
        self.records["pairs"] += 1
        for safe, kinds, severity in zip(pair.safe, pair.categories, pair.severity, strict=True):
            self._safe["unknown" if safe is None else "safe" if safe else "unsafe"] += 1
            self.categories.add(kinds)
            self._severity.add([] if severity is None else [str(severity)])
        self._pairs_safe[safety_of(pair)] += 1
        self._decoupling.add(pair)
        lengths = None
        for name in RANKINGS:
            winner: int | None = getattr(pair, name)
            self._winners[name]["unknown" if winner is None else str(winner)] += 1
            if winner is not None:
                lengths = lengths or {
                    "characters": [len(text) for text in pair.responses],
                    "words": [len(text.split()) for text in pair.responses],
                }
                for unit, (first, second) in lengths.items():
                    self._bias[name, unit].add(*((first, second) if winner == 0 else (second, first)))

    def document(self) -> dict[str, Any]:
        """Counts and shares; a key is None where no row has the label."""
        return {
            "records": dict(self.records),
            **{name: self._ranking(name) for name in RANKINGS},
            "safe": {**self._safe, "rate": share(self._safe["safe"], self._safe["safe"] + self._safe["unsafe"])},
            "pairs_safe": dict(self._pairs_safe),
            "length_bias": {
                name: {unit: self._bias[name, unit].document() for unit in ("characters", "words")} for name in RANKINGS
            },
            "decoupling": self._decoupling.document(),
            "categories": self.categories.document(),
            "severity": dict(sorted(self._severity.counts.items())),
            "tags": self._tags.document(),
        }

    def _ranking(self, name: Ranking) -> dict[str, Any]:
        counts = self._winners[name]
        return {**counts, "rate_0": share(counts["0"], counts["0"] + counts["1"])}


def safety_of(pair: PreferencePair) -> Literal["both", "one", "none", "unknown"]:
    """How many responses of a pair are labelled safe."""
    if None in pair.safe:
        return "unknown"
    return "both" if all(pair.safe) else "one" if any(pair.safe) else "none"
