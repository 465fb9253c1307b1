"""The same response labelled several times, as in BeaverTails: one record with what most labels say."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from learner.data.records import LabelledResponse


@dataclass(frozen=True)
class Aggregated:
    """A response with the majority of its labels, and how they were spread."""

    record: LabelledResponse
    labels: int
    """How often the response was labelled."""
    safe: int
    """How many of them say safe."""
    categories: dict[str, int]
    """How many of them name each kind of harm."""


class LabelCounts:
    """Counts labels per response without keeping the texts: some 300 bytes for each that is different."""

    def __init__(self) -> None:
        self._counts: dict[bytes, tuple[int, int, Counter[str]]] = {}
        self._given: set[bytes] = set()

    def add(self, record: LabelledResponse) -> None:
        """Count one more labelling."""
        key = _key(record)
        labels, safe, categories = self._counts.get(key, (0, 0, Counter()))
        categories.update(set(record.categories))
        self._counts[key] = (labels + 1, safe + record.safe, categories)

    def majority(self, record: LabelledResponse) -> Aggregated:
        """The response with the labels that more than half of its labellings have; an even split of safety is unsafe.

        A response that is safe by majority has no kinds of harm.

        Raises:
            KeyError: it was never added.
        """
        labels, safe, categories = self._counts[_key(record)]
        is_safe = 2 * safe > labels
        majority_categories = (
            () if is_safe else tuple(sorted(name for name, count in categories.items() if 2 * count > labels))
        )
        return Aggregated(replace(record, safe=is_safe, categories=majority_categories), labels, safe, dict(categories))

    def first(self, record: LabelledResponse) -> bool:
        """Whether this response is asked about for the first time."""
        key = _key(record)
        if key in self._given:
            return False
        self._given.add(key)
        return True


def aggregate(rows: Iterable[LabelledResponse]) -> list[Aggregated]:
    """One record per prompt and response, in the order of their first appearance; keeps every different text."""
    counts, first = LabelCounts(), []
    for row in rows:
        counts.add(row)
        if counts.first(row):
            first.append(row)
    return [counts.majority(row) for row in first]


def _key(record: LabelledResponse) -> bytes:
    texts = [*(text for turn in record.prompt for text in (turn["role"], turn["content"])), record.response]
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        raw = text.encode("utf-8")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()
