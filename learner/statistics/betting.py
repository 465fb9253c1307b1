"""Bounds of a bounded mean by betting against it: valid at every n, no shape assumed, tighter than empirical Bernstein.

A gambler bets that the mean is below m; fair bets multiply the stake by at most 1/error with chance error (Ville), so a
value m against which the stake grew that large is rejected. Waudby-Smith & Ramdas 2023, "Estimating means of bounded random
variables by betting", section 4, with their predictable plug-in bets (eq. 26) for a sample of fixed size.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learner.statistics import intervals
from learner.statistics.intervals import Interval

LARGEST_BET = 0.75
"""Share of the stake that one sample can cost (their c): below 1 the gambler is never ruined."""
_HALVINGS = 50


def upper(values: ArrayLike, confidence: float = 0.95, low: float = 0.0, high: float = 1.0) -> float:
    """One-sided upper bound of the mean of independent values in [low, high], taken in the order in which they came.

    Raises:
        ValueError: confidence not in (0, 1), fewer than two values, or one outside [low, high].
    """
    intervals.check_confidence(confidence)
    x = (intervals.bounded_sample(values, low, high) - low) / (high - low)
    return low + (high - low) * _upper(x, 1.0 - confidence)


def mean(values: ArrayLike, confidence: float = 0.95, low: float = 0.0, high: float = 1.0) -> Interval:
    """Two-sided interval around the sample's mean: a bound on each side at half the error; errors as `upper`."""
    one_sided = 0.5 + confidence / 2.0
    x = intervals.bounded_sample(values, low, high)
    floor = -upper(-x, one_sided, -high, -low)
    return Interval(float(x.mean()), floor, upper(x, one_sided, low, high), x.size)


def _upper(x: NDArray[np.float64], error: float) -> float:
    """The least m in [0, 1] that is rejected; the stake grows with m, so bisection finds it."""
    bets = _plug_in_bets(x, error)
    accepted, rejected = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (accepted + rejected)
        staked = np.minimum(bets, LARGEST_BET / (1.0 - middle))
        if np.cumsum(np.log1p(staked * (middle - x))).max() >= math.log(1.0 / error):
            rejected = middle
        else:
            accepted = middle
    return max(rejected, float(x.mean()))


def _plug_in_bets(x: NDArray[np.float64], error: float) -> NDArray[np.float64]:
    """sqrt(2 ln(1/error) / (n variance)), the variance from the samples before: a bet must not know its outcome."""
    count = np.arange(1, x.size + 1)
    means = (0.5 + np.cumsum(x)) / (count + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2)) / (count + 1)
    before = np.concatenate(([0.25], variances[:-1]))
    return np.sqrt(2.0 * math.log(1.0 / error) / (x.size * before))
