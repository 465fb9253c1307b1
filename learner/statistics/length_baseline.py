"""How well the length of two responses alone tells which is preferred: what a preference model must beat to have learned more.

A sign rule: the longer response wins, or the shorter, whichever won more often on the training pairs. A logistic regression
on the difference of lengths without an intercept, as symmetry in the two responses asks, decides by the same sign and could
at most turn the rule round; so it is not fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learner.statistics.intervals import Interval, wilson


@dataclass(frozen=True)
class LengthBaseline:
    """The rule and its worth on held-out pairs."""

    winner: Literal["longer", "shorter"]
    """By the training pairs; longer where they are even."""
    train: Interval
    """How often it wins there, with Wilson's 95 % interval, like all here."""
    accuracy: Interval
    """On the held-out pairs of different lengths."""
    ties: int
    """Held-out pairs of equal lengths, on which the rule says nothing."""
    expected_accuracy: float
    """On all held-out pairs, a coin thrown at ties: what a model's accuracy on them is compared with."""
    by_turns: Mapping[int, Interval] = field(default_factory=dict)
    """``accuracy`` by number of turns, where that was given."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rule": f"the {self.winner} response wins", "by_turns": turns_document(self.by_turns)}


def length_baseline(
    train_diffs: ArrayLike,
    train_labels: ArrayLike,
    held_diffs: ArrayLike,
    held_labels: ArrayLike,
    *,
    held_turns: ArrayLike | None = None,
    most_turns: int = 5,
) -> LengthBaseline:
    """Fit the sign rule on training pairs and measure it on held-out ones.

    Args:
        train_diffs: length of response 0 minus length of response 1, in any unit, ``[n]``.
        train_labels: true where response 0 is preferred, ``[n]``.
        held_diffs, held_labels: likewise ``[m]``.
        held_turns: user turns of each held-out prompt ``[m]``.
        most_turns: longer conversations count as this many.

    Raises:
        ValueError: lengths differ, a difference is not finite, or one side has no pair of different lengths.
    """
    longer_won = _longer_won(*_checked(train_diffs, train_labels, "training"))
    held_out, labels = _checked(held_diffs, held_labels, "held-out")
    longer = int(longer_won.sum()) * 2 >= longer_won.size
    wins = int(longer_won.sum()) if longer else int((~longer_won).sum())
    differs = held_out != 0
    correct = _longer_won(held_out, labels) == longer
    ties = int(held_out.size - correct.size)
    by_turns: Mapping[int, Interval] = {}
    if held_turns is not None:
        turns = np.asarray(held_turns)
        if turns.shape != held_out.shape:
            raise ValueError(f"{held_out.size} held-out pairs have {turns.size} numbers of turns")
        by_turns = accuracy_by_turns(correct, turns[differs], most_turns=most_turns)
    return LengthBaseline(
        winner="longer" if longer else "shorter",
        train=wilson(wins, longer_won.size),
        accuracy=wilson(int(correct.sum()), correct.size),
        ties=ties,
        expected_accuracy=(float(correct.sum()) + ties / 2) / held_out.size,
        by_turns=by_turns,
    )


def accuracy_by_turns(correct: ArrayLike, turns: ArrayLike, *, most_turns: int = 5) -> dict[int, Interval]:
    """Share of correct pairs by number of turns, with Wilson's 95 % interval; of a model or of the baseline.

    Args:
        correct: ``[m]``, true where the preferred response is told.
        turns: ``[m]``; more than `most_turns` count as that many. A number that no pair has is absent.

    Raises:
        ValueError: lengths differ, or a number of turns is below 1.
    """
    right, counts = np.asarray(correct, dtype=bool), np.asarray(turns)
    if right.ndim != 1 or right.shape != counts.shape:
        raise ValueError(f"{right.size} pairs have {counts.size} numbers of turns")
    if counts.size and counts.min() < 1:
        raise ValueError(f"a conversation has at least one turn, got {counts.min()}")
    capped = np.minimum(counts, most_turns)
    return {
        int(number): wilson(int(right[capped == number].sum()), int((capped == number).sum()))
        for number in np.unique(capped)
    }


def turns_document(by_turns: Mapping[int, Interval]) -> dict[str, dict[str, float]]:
    """For JSON, whose keys are texts."""
    return {str(number): asdict(interval) for number, interval in by_turns.items()}


def _longer_won(diffs: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool ``[k]``, for the pairs of different lengths."""
    differs = diffs != 0
    return np.asarray((diffs > 0)[differs] == labels[differs])


def _checked(diffs: ArrayLike, labels: ArrayLike, subject: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    x, y = np.asarray(diffs, dtype=np.float64), np.asarray(labels)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"{x.size} {subject} differences of length have {y.size} labels")
    if not np.isfinite(x).all() or not np.isin(y, (0, 1)).all():
        raise ValueError(f"{subject} differences must be finite, and labels true or false")
    if not (x != 0).any():
        raise ValueError(f"no {subject} pair has responses of different lengths: length alone says nothing there")
    return x, y.astype(bool)
