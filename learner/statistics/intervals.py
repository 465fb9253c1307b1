"""Confidence intervals. Every function is pure and says what it assumes; randomness comes only from a given seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

Seed = TypeVar("Seed", bound=Hashable)

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""A statistic of the last axis: ``[..., n] -> [...]``."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval, in the unit of the estimate."""

    value: float
    low: float
    high: float
    n: int
    """Independent samples (or pairs) behind it."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Two-sided Wilson score interval of a proportion (Wilson 1927): close to nominal coverage, for reports.

    Raises:
        ValueError: counts or confidence out of range (as in every function here).
    """
    return _proportion(successes, n, confidence, "wilson")


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Two-sided Clopper-Pearson interval of a proportion (1934): coverage never below nominal, for claims."""
    return _proportion(successes, n, confidence, "beta")


def clopper_pearson_upper(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of a proportion: the true rate exceeds it with chance <= 1 - confidence."""
    check_confidence(confidence)
    # The upper end of a two-sided interval at level 2c - 1 leaves 1 - c above it.
    _check_counts(successes, n)
    return float(proportion_confint(successes, n, alpha=2.0 * (1.0 - confidence), method="beta")[1])


def student_mean(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Two-sided Student-t interval of a mean; assumes independent values and a nearly normal mean. Needs n >= 2."""
    check_confidence(confidence)
    x = _sample(values, 2)
    half_width = float(stats.t.ppf(0.5 + confidence / 2.0, x.size - 1)) * float(x.std(ddof=1)) / math.sqrt(x.size)
    mean = float(x.mean())
    return Interval(mean, mean - half_width, mean + half_width, x.size)


def student_mean_upper(values: ArrayLike, confidence: float = 0.95) -> float:
    """One-sided Student-t upper bound of a mean."""
    check_confidence(confidence)
    return student_mean(values, 2.0 * confidence - 1.0).high


def empirical_bernstein(values: ArrayLike, confidence: float = 0.95, low: float = 0.0, high: float = 1.0) -> Interval:
    """Two-sided empirical Bernstein interval of the mean of values in [low, high], clipped to that range.

    Holds at every n >= 2 with no shape assumed (Maurer & Pontil 2009, theorem 4, on both sides at half the error).

    Raises:
        ValueError: a value outside [low, high].
    """
    mean, n = bounded_sample(values, low, high).mean(), np.size(values)
    half_width = _bernstein_half_width(values, (1.0 - confidence) / 2.0, low, high)
    return Interval(float(mean), max(low, float(mean) - half_width), min(high, float(mean) + half_width), n)


def empirical_bernstein_upper(
    values: ArrayLike, confidence: float = 0.95, low: float = 0.0, high: float = 1.0
) -> float:
    """One-sided empirical Bernstein upper bound of the mean of values in [low, high]."""
    mean = float(bounded_sample(values, low, high).mean())
    return min(high, mean + _bernstein_half_width(values, 1.0 - confidence, low, high))


def bootstrap(
    values: ArrayLike, statistic: Statistic, confidence: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Two-sided percentile bootstrap interval of a statistic of independent values (Efron 1979)."""
    check_confidence(confidence)
    x = _sample(values, 2)
    drawn = _resampled(x, statistic, resamples, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [0.5 - confidence / 2.0, 0.5 + confidence / 2.0])
    return Interval(float(statistic(x)), float(low), float(high), x.size)


def bootstrap_difference(
    first: ArrayLike, second: ArrayLike, confidence: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Two-sided percentile bootstrap interval of mean(first) - mean(second), two independent samples.

    ``n`` is the smaller sample's size.
    """
    check_confidence(confidence)
    a, b = _sample(first, 2), _sample(second, 2)
    rng = np.random.default_rng(seed)
    drawn = _resampled(a, _mean, resamples, rng) - _resampled(b, _mean, resamples, rng)
    low, high = np.quantile(drawn, [0.5 - confidence / 2.0, 0.5 + confidence / 2.0])
    return Interval(float(a.mean() - b.mean()), float(low), float(high), min(a.size, b.size))


def paired_difference(first: Mapping[Seed, float], second: Mapping[Seed, float], confidence: float = 0.95) -> Interval:
    """Two-sided Student-t interval of the mean of first[s] - second[s] over the seeds s.

    Raises:
        ValueError: the two sides do not have the same seeds, or fewer than two.
    """
    if set(first) != set(second):
        raise ValueError(
            f"pairs need the same seeds on both sides, got {sorted(map(str, first))} and {sorted(map(str, second))}"
        )
    return student_mean([first[seed] - second[seed] for seed in first], confidence)


def _proportion(successes: int, n: int, confidence: float, method: str) -> Interval:
    check_confidence(confidence)
    _check_counts(successes, n)
    low, high = proportion_confint(successes, n, alpha=1.0 - confidence, method=method)
    return Interval(successes / n, float(low), float(high), n)


def _bernstein_half_width(values: ArrayLike, error: float, low: float, high: float) -> float:
    if not 0.0 < error < 0.5:
        raise ValueError(f"confidence must be in (0.5, 1) here, got an error of {error}")
    x = bounded_sample(values, low, high)
    log_term = math.log(2.0 / error)
    unit = high - low
    variance_term = math.sqrt(2.0 * float(x.var(ddof=1)) * log_term / x.size)
    return variance_term + 7.0 * unit * log_term / (3.0 * (x.size - 1))


def bounded_sample(values: ArrayLike, low: float, high: float) -> NDArray[np.float64]:
    """At least two finite values, ``[n]``, all in [low, high].

    Raises:
        ValueError: they are not.
    """
    x = _sample(values, 2)
    if x.min() < low or x.max() > high:
        raise ValueError(f"values must be in [{low}, {high}], got [{x.min()}, {x.max()}]: the bound holds only there")
    return x


def _resampled(
    x: NDArray[np.float64], statistic: Statistic, resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    rows = max(1, 1_000_000 // x.size)  # about 8 MB at a time
    parts = [
        statistic(x[rng.integers(0, x.size, size=(min(rows, resamples - start), x.size))])
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


def _mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x.mean(axis=-1))


def _sample(values: ArrayLike, at_least: int) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if x.size < at_least:
        raise ValueError(f"an interval needs at least {at_least} values, got {x.size}")
    if not np.isfinite(x).all():
        raise ValueError("a value is not finite: an interval over it would mean nothing")
    return x


def _check_counts(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")


def check_confidence(confidence: float) -> None:
    """Refuse a confidence outside (0, 1).

    Raises:
        ValueError: it is.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), not {confidence}")
