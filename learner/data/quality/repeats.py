"""Rows that repeat one another, found by hashes: 64 bits stand for a text, so that a row costs some ten bytes.

Two of n different texts share a hash with a chance of about n²/2⁶⁵: 1 in 4,000 for a hundred million.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.data.records import LabelledResponse, Message, PreferencePair, Record

Keys = NDArray[np.uint64]
Places = NDArray[np.int64]
"""Positions in the order in which rows were added."""
UNKNOWN = 2
"""Of a label that is 0 or 1."""
_KIND_BITS = 63
"""Different categories of labelled responses whose agreement can be told apart."""


def text_key(*texts: str) -> int:
    """64 bits of texts in this order."""
    digest = blake2b(digest_size=8)
    for text in texts:
        data = text.encode("utf-8", errors="surrogatepass")
        # With its length before it, no text can pass for two.
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")


def exact_key(prompt: tuple[Message, ...], *responses: str) -> int:
    """64 bits of a conversation as it is."""
    return text_key(*(part for turn in prompt for part in (turn["role"], turn["content"])), *responses)


def prompt_key(prompt: tuple[Message, ...]) -> int:
    """64 bits of a prompt whatever its capitals and white space."""
    return text_key(*(part for turn in prompt for part in (turn["role"], _plain(turn["content"]))))


def opening_key(prompt: tuple[Message, ...]) -> int:
    """64 bits of the first user turn, likewise: earlier and later cuts of one conversation share it."""
    return text_key(next((_plain(turn["content"]) for turn in prompt if turn["role"] == "user"), ""))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


@dataclass(frozen=True)
class Groups:
    """Rows in groups of one key; rows keep their order within a group."""

    order: Places
    """Row positions, group after group."""
    starts: Places
    """Where in ``order`` each group starts, ``[groups]``."""
    sizes: Places

    @classmethod
    def of(cls, keys: Keys) -> Groups:
        """Group rows by their keys, ``[rows]``."""
        order = np.argsort(keys, kind="stable").astype(np.int64)
        ordered = keys[order]
        new = np.ones(len(keys), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        starts = np.flatnonzero(new).astype(np.int64)
        return cls(order, starts, np.diff(np.append(starts, len(keys))).astype(np.int64))

    def firsts(self) -> Places:
        """For every row the first row of its group, ``[rows]``."""
        first = np.empty(len(self.order), dtype=np.int64)
        first[self.order] = np.repeat(self.order[self.starts], self.sizes)
        return first

    def patterns(self, answers: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Counts of answers 0 and 1 in groups with two of them, ``[patterns, 2]``, and how many groups have each."""
        if not len(self.starts):
            return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64)
        ordered = answers[self.order]
        counts = np.stack(
            [np.add.reduceat((ordered == value).astype(np.int64), self.starts) for value in (0, 1)], axis=1
        )
        unique_counts, times = np.unique(counts[counts.sum(axis=1) >= 2], axis=0, return_counts=True)
        return unique_counts, times


def against_first(keys: Keys, answers: NDArray[np.int8]) -> Places:
    """Rows whose known answer is not that of the first row of the same key with a known one."""
    answered = np.flatnonzero(answers != UNKNOWN)
    groups = Groups.of(keys[answered])
    differ = answers[answered] != answers[answered][groups.firsts()]
    return np.asarray(answered[differ], dtype=np.int64)


class Prompts:
    """Every row's prompt."""

    def __init__(self) -> None:
        self._keys, self._openings = array("Q"), array("Q")

    def add(self, prompt: tuple[Message, ...]) -> None:
        """Keep the prompt of the next row."""
        self._keys.append(prompt_key(prompt))
        self._openings.append(opening_key(prompt))

    @property
    def keys(self) -> Keys:
        """``[rows]``."""
        return np.frombuffer(self._keys, dtype=np.uint64) if self._keys else np.zeros(0, dtype=np.uint64)

    @property
    def openings(self) -> Keys:
        """``[rows]``."""
        return np.frombuffer(self._openings, dtype=np.uint64) if self._openings else np.zeros(0, dtype=np.uint64)

    def repeats(self) -> tuple[Places, int]:
        """Rows whose prompt an earlier row has, and how many different prompts there are."""
        groups = Groups.of(self.keys)
        firsts = groups.firsts()
        return np.flatnonzero(firsts != np.arange(len(firsts))), len(groups.starts)

    def leaks(self, against: Prompts) -> tuple[Places, dict[str, Any]]:
        """Rows whose prompt is among the other file's, and counts of prompts and openings that both have."""
        leaked = np.isin(self.keys, against.keys)
        opened = np.isin(self.openings, against.openings)
        counts = {
            "rows": int(leaked.sum()),
            "prompts": len(np.unique(self.keys[leaked])),
            "against_rows": len(against.keys),
            "against_prompts": len(np.unique(against.keys)),
            "rows_with_shared_opening": int(opened.sum()),
        }
        return np.flatnonzero(leaked), counts


class Repeats:
    """Pairs and labelled responses that come more than once, and whether their labels agree."""

    _COLUMNS = ("better", "safer", "safe_0", "safe_1")

    def __init__(self) -> None:
        self._pair_keys, self._pair_rows, self._swapped = array("Q"), array("Q"), array("b")
        self._answers = {name: array("b") for name in self._COLUMNS}
        self._keys, self._rows, self._safe, self._kinds = array("Q"), array("Q"), array("b"), array("Q")
        self._bits: dict[str, int] = {}

    def add(self, row: int, record: Record) -> None:
        """Keep what is needed of the row at this position."""
        if isinstance(record, PreferencePair):
            self._add_pair(row, record)
        elif isinstance(record, LabelledResponse):
            self._keys.append(exact_key(record.prompt, record.response))
            self._rows.append(row)
            self._safe.append(int(record.safe))
            self._kinds.append(sum(1 << bit for bit in self._bits_of(record.categories)))

    def _add_pair(self, row: int, pair: PreferencePair) -> None:
        # The same two responses get one key in either order; labels turn with them.
        swap = pair.responses[0] > pair.responses[1]
        first, second = reversed(pair.responses) if swap else pair.responses
        self._pair_keys.append(exact_key(pair.prompt, first, second))
        self._pair_rows.append(row)
        self._swapped.append(int(swap))
        safe = pair.safe[::-1] if swap else pair.safe
        for name, answer in (("better", pair.better), ("safer", pair.safer)):
            self._answers[name].append(UNKNOWN if answer is None else answer ^ swap)
        for name, is_safe in zip(("safe_0", "safe_1"), safe, strict=True):
            self._answers[name].append(UNKNOWN if is_safe is None else int(is_safe))

    def _bits_of(self, names: tuple[str, ...]) -> Iterator[int]:
        for name in set(names):
            if name in self._bits or len(self._bits) < _KIND_BITS:
                yield self._bits.setdefault(name, len(self._bits))

    def pair_findings(self) -> dict[str, Places]:
        """Kind of finding -> rows, in the order of the file."""
        keys, rows = _numbers(self._pair_keys), _numbers(self._pair_rows).astype(np.int64)
        firsts = Groups.of(keys).firsts()
        later = firsts != np.arange(len(keys))
        turned = _answers(self._swapped) != _answers(self._swapped)[firsts]
        differing = [against_first(keys, _answers(self._answers[name])) for name in self._COLUMNS]
        return {
            "duplicate_pair": rows[later & ~turned],
            "swapped_pair": rows[later & turned],
            "conflicting_ranking": rows[np.union1d(differing[0], differing[1])],
            "conflicting_safety": rows[np.union1d(differing[2], differing[3])],
        }

    def response_findings(self) -> dict[str, Places]:
        """Likewise, of labelled responses."""
        keys, rows = _numbers(self._keys), _numbers(self._rows).astype(np.int64)
        firsts = Groups.of(keys).firsts()
        return {
            "repeated_response": rows[firsts != np.arange(len(keys))],
            "conflicting_safety": rows[against_first(keys, _answers(self._safe))],
        }

    def patterns(self) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
        """Label -> how often repeated rows answered 0 and 1, and how many groups of rows did so: for their agreement."""
        pairs = Groups.of(_numbers(self._pair_keys))
        for name in self._COLUMNS:
            yield (name, *pairs.patterns(_answers(self._answers[name])))
        groups = Groups.of(_numbers(self._keys))
        yield ("safe", *groups.patterns(_answers(self._safe)))
        kinds = _numbers(self._kinds)
        for name, bit in self._bits.items():
            yield (f"category {name}", *groups.patterns((kinds >> np.uint64(bit) & np.uint64(1)).astype(np.int8)))

    def counts(self) -> dict[str, int]:
        """Different pairs and different labelled responses."""
        return {
            "pairs": len(Groups.of(_numbers(self._pair_keys)).starts),
            "responses": len(Groups.of(_numbers(self._keys)).starts),
        }


def _numbers(values: array[int]) -> Keys:
    return np.frombuffer(values, dtype=np.uint64) if values else np.zeros(0, dtype=np.uint64)


def _answers(values: array[int]) -> NDArray[np.int8]:
    return np.frombuffer(values, dtype=np.int8) if values else np.zeros(0, dtype=np.int8)
