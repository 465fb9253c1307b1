"""Two models on the same prompts: the difference of a share or of a mean, with interval and p-value. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from learner.statistics.intervals import Interval, check_confidence, student_mean


def share_difference(before: ArrayLike, after: ArrayLike, confidence: float = 0.95) -> Interval:
    """Share after less share before, of paired 0/1 values ``[n]``: Wald's interval with half a prompt more in each of the
    four cells (Agresti and Min 2005), which has a width also where nothing changed. The value itself is the plain one.

    Raises:
        ValueError: lengths differ, no pair, or a value that is neither 0 nor 1.
    """
    check_confidence(confidence)
    old, new = _flags(before, after)
    gained, lost, n = int((new & ~old).sum()), int((old & ~new).sum()), old.size
    a, b, size = gained + 0.5, lost + 0.5, n + 2.0
    centre = (a - b) / size
    spread = math.sqrt((a + b) - (a - b) ** 2 / size) / size
    half = float(stats.norm.ppf(0.5 + confidence / 2.0)) * spread
    return Interval((gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half), n)


def share_p_value(before: ArrayLike, after: ArrayLike) -> float:
    """McNemar's exact test (1947) that paired 0/1 values have one share; two-sided, 1 where nothing changed."""
    old, new = _flags(before, after)
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def mean_difference(before: ArrayLike, after: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean after less mean before, of paired values ``[n]``: Student t of the changes; needs two pairs."""
    return student_mean(_changes(before, after), confidence)


def mean_p_value(before: ArrayLike, after: ArrayLike) -> float | None:
    """Paired t test that the means are equal; None with fewer than two pairs.

    Changes that are all the same have no spread: then by flipping their signs, exactly.
    """
    changes = _changes(before, after)
    if changes.size < 2:
        return None
    if changes.max() == changes.min():
        return 1.0 if changes[0] == 0 else float(2.0 ** (1 - changes.size))
    return float(stats.ttest_1samp(changes, 0.0).pvalue)


def _changes(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    old, new = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (before, after))
    if old.size != new.size:
        raise ValueError(f"pairs need as many values on both sides, got {old.size} and {new.size}")
    return np.asarray(new - old)


def _flags(before: ArrayLike, after: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    old, new = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (before, after))
    if old.size != new.size or not old.size:
        raise ValueError(f"pairs need as many values on both sides, at least one; got {old.size} and {new.size}")
    if not np.isin(np.concatenate([old, new]), (0.0, 1.0)).all():
        raise ValueError("a share is of values that are 0 or 1")
    return old == 1.0, new == 1.0
