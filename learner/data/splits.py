"""What a prompt of real data may be used for, told by a hash of its text alone: no file and no order changes it.

The five purposes are those of the sandbox. A prompt is in one of them, so nothing is judged on what trained it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from configs.exits import ConfigError
from learner.data.quality.repeats import opening_key, prompt_key
from learner.data.records import Message

TRAIN, HOLDOUT, CALIBRATION, SELECTION, CERTIFICATE = "train", "holdout", "calibration", "selection", "certificate"
PURPOSES = (TRAIN, HOLDOUT, CALIBRATION, SELECTION, CERTIFICATE)

Unit = Literal["prompt", "opening"]
"""What stays together: equal prompts, or all prompts of one first user turn, which cuts of one conversation share."""
_MOST_KEPT = 0.5


@dataclass(frozen=True)
class Shares:
    """Shares of the prompts that are kept from training; the rest trains.

    Raises:
        ConfigError: a share is negative, or more than half is kept.
    """

    holdout: float
    calibration: float
    selection: float = 0.0
    certificate: float = 0.0
    by: Unit = "prompt"

    def __post_init__(self) -> None:
        held_out_shares = self.kept
        if not all(share >= 0 for share in held_out_shares.values()):
            raise ConfigError(f"a share of the prompts is negative ({held_out_shares}): give numbers from 0 on")
        if not sum(held_out_shares.values()) <= _MOST_KEPT:
            raise ConfigError(
                f"the shares kept from training add up to {sum(held_out_shares.values()):g}: more than half is left out; lower them"
            )

    @property
    def kept(self) -> dict[str, float]:
        """Share of each purpose but training, in the order of `PURPOSES`."""
        return {purpose: float(getattr(self, purpose)) for purpose in PURPOSES[1:]}


def purpose_of(prompt_messages: Sequence[Message], shares: Shares) -> str:
    """Which of `PURPOSES` a prompt has: the same whatever its file, its row, its capitals and its white space."""
    place = _place("purpose", prompt_messages, shares.by) / 2**64
    end = 0.0
    for purpose, share in shares.kept.items():
        end += share
        if place < end:
            return purpose
    return TRAIN


def half_of(prompt_messages: Sequence[Message], by: Unit = "prompt") -> int:
    """0 or 1, for models that train on one half of the prompts each; independent of the purpose."""
    return _place("half", prompt_messages, by) & 1


def _place(salt: str, prompt: Sequence[Message], by: Unit) -> int:
    """64 bits of what stays together; another salt gives independent ones."""
    key = prompt_key(tuple(prompt)) if by == "prompt" else opening_key(tuple(prompt))
    return int.from_bytes(hashlib.blake2b(f"{salt}\n{key:016x}".encode(), digest_size=8).digest(), "big")


class SplitTally:
    """Counts the different prompts of each purpose; 8 bytes for every row."""

    def __init__(self, by: Unit = "prompt") -> None:
        self._by: Unit = by
        self._keys = {purpose: array("Q") for purpose in PURPOSES}

    def add(self, purpose: str, prompt: Sequence[Message]) -> None:
        """Count a row's prompt."""
        self._keys[purpose].append(prompt_key(tuple(prompt)))

    def document(self) -> dict[str, Any]:
        """`split_document` of what was added."""
        different = {purpose: np.unique(np.array(keys, dtype="<u8")) for purpose, keys in self._keys.items()}
        return split_document(
            {purpose: len(keys) for purpose, keys in different.items()},
            {purpose: hashlib.sha256(keys.tobytes()).hexdigest() for purpose, keys in different.items()},
            by=self._by,
        )


def split_document(counts: Mapping[str, int], digests: Mapping[str, str], *, by: Unit = "prompt") -> dict[str, Any]:
    """What the manifest says of the splits.

    Args:
        counts: different prompts of each purpose; an absent one has none.
        digests: of each purpose's set of prompts.

    Raises:
        ValueError: a purpose is unknown, or has a count and no digest.
    """
    if unknown := sorted({*counts, *digests} - {*PURPOSES}):
        raise ValueError(f"no purpose {unknown[0]!r}; known: {', '.join(PURPOSES)}")
    if undigested := [purpose for purpose in PURPOSES if counts.get(purpose) and purpose not in digests]:
        raise ValueError(f"the prompts of {undigested[0]} have no digest")
    return {
        "by": by,
        "disjoint": True,  # a purpose is a function of the prompt
        "purposes": {
            purpose: {"prompts": counts[purpose], "digest": digests.get(purpose)}
            for purpose in PURPOSES
            if purpose in counts
        },
    }
