"""Prediction-powered inference: few labels and many predictions say more about a rate than the few labels alone.

The predictions may be biased: the labelled samples correct them, so the interval is about the labels' mean. Angelopoulos
et al. 2023 (arXiv 2301.09633); power tuning after Angelopoulos, Duchi & Zrnic 2024, PPI++ (arXiv 2311.01453).

The rule below decides from the labels alone whether the normal theory may be used; it never compares two bounds, for the
smaller of two valid bounds is not valid. Where it may not be used, the labelled samples count alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from learner.statistics import intervals
from learner.statistics.intervals import Interval

Method = Literal["prediction_powered", "clopper_pearson", "empirical_bernstein"]

LEAST_OF_EACH = 5
"""The rule: normal theory needs at least so many labels of both kinds (of scores: this total of y and of 1 - y) …"""
LEAST_SURPRISES = 8
"""… and so many labelled failures that the prediction missed (y - f >= 1/2). A predictor that missed few of them has been
tested on few: the spread of y - f then understates its error, and in simulation the bound failed up to twice too often."""
LEAST_VARIANCE = 1e-12
"""Predictions that vary less than this are left out."""


@dataclass(frozen=True)
class PredictionPowered:
    """An estimate of the mean label of labelled and unlabelled samples together."""

    value: float
    method: Method
    labelled: int
    n: int
    """Samples that count: all of them, or the labelled ones where the rule left the predictions out."""
    tuning: float
    """PPI++'s lambda in [0, 1]: 0 takes no notice of the predictions, 1 trusts them fully."""
    standard_error: float
    """Of ``value``; 0 where the rule left the predictions out."""
    labels: NDArray[np.float64]

    def interval(self, confidence: float = 0.95) -> Interval:
        """Two-sided; its ``n`` is this ``n``."""
        intervals.check_confidence(confidence)
        if self.method == "clopper_pearson":
            return intervals.clopper_pearson(int(self.labels.sum()), self.labelled, confidence)
        if self.method == "empirical_bernstein":
            return intervals.empirical_bernstein(self.labels, confidence)
        tail = 0.5 - confidence / 2.0
        return Interval(self.value, self._beta_end(tail, upper=False), self._beta_end(tail, upper=True), self.n)

    def upper(self, confidence: float = 0.95) -> float:
        """One-sided upper bound: the mean exceeds it with chance 1 - confidence (by normal theory: about that)."""
        intervals.check_confidence(confidence)
        if self.method == "clopper_pearson":
            return intervals.clopper_pearson_upper(int(self.labels.sum()), self.labelled, confidence)
        if self.method == "empirical_bernstein":
            return intervals.empirical_bernstein_upper(self.labels, confidence)
        return self._beta_end(1.0 - confidence, upper=True)

    def _beta_end(self, tail: float, *, upper: bool) -> float:
        """Clopper-Pearson's end at the effective sample size value (1 - value) / se^2 (Korn & Graubard 1998).

        A rate near 0 has a skewed estimate: its normal bound is too low, this one is not. The size is reduced for the
        unknown variance by (z/t)^2, as they do.
        """
        shrink = (stats.norm.ppf(tail) / stats.t.ppf(tail, self.labelled - 1)) ** 2
        size = shrink * self.value * (1.0 - self.value) / self.standard_error**2
        count = size * self.value
        if upper:
            return float(stats.beta.ppf(1.0 - tail, count + 1.0, size - count))
        return float(stats.beta.ppf(tail, count, size - count + 1.0))


def prediction_powered(
    labels: ArrayLike, predictions_labelled: ArrayLike, predictions_unlabelled: ArrayLike
) -> PredictionPowered:
    """Estimate the mean label from few labels and many predictions of the same kind of sample.

    Args:
        labels: ``[n]``, 0 or 1, or scores in [0, 1].
        predictions_labelled: ``[n]`` in [0, 1], of the labelled samples, made without their labels.
        predictions_unlabelled: ``[N]`` in [0, 1], of further samples drawn from the same source.

    Raises:
        ValueError: fewer than two labels, labels and their predictions differ in number, or a value is not in [0, 1].
    """
    y, f, unlabelled = (
        _shares(values, subject)
        for values, subject in (
            (labels, "label"),
            (predictions_labelled, "prediction of a labelled sample"),
            (predictions_unlabelled, "prediction"),
        )
    )
    if y.size < 2 or y.size != f.size:
        raise ValueError(f"needs two labels or more and one prediction for each, got {y.size} labels and {f.size}")
    tuning = _tuning(y, f, unlabelled)
    rectifier = y - tuning * f
    # Two degrees of freedom are gone: the mean, and the tuning, which is a regression coefficient.
    rectifier_variance = float(((rectifier - rectifier.mean()) ** 2).sum()) / max(y.size - 2, 1)
    too_few = min(float(y.sum()), float((1.0 - y).sum())) < LEAST_OF_EACH
    too_few = too_few or int((y - f >= 0.5).sum()) < LEAST_SURPRISES
    value = float(rectifier.mean()) + tuning * (float(unlabelled.mean()) if unlabelled.size else 0.0)
    if too_few or rectifier_variance < LEAST_VARIANCE or not unlabelled.size or not 0.0 < value < 1.0:
        binary = bool(np.isin(y, (0.0, 1.0)).all())
        method: Method = "clopper_pearson" if binary else "empirical_bernstein"
        return PredictionPowered(float(y.mean()), method, y.size, y.size, 0.0, 0.0, y)
    error = math.sqrt(rectifier_variance / y.size + tuning**2 * float(unlabelled.var()) / unlabelled.size)
    return PredictionPowered(value, "prediction_powered", y.size, y.size + unlabelled.size, tuning, error, y)


def ppi_mean(
    labels: ArrayLike, predictions_labelled: ArrayLike, predictions_unlabelled: ArrayLike, confidence: float = 0.95
) -> Interval:
    """The two-sided interval of `prediction_powered`."""
    return prediction_powered(labels, predictions_labelled, predictions_unlabelled).interval(confidence)


def _tuning(y: NDArray[np.float64], f: NDArray[np.float64], unlabelled: NDArray[np.float64]) -> float:
    """PPI++'s lambda = cov(y, f) / ((1 + n/N) var(f)), which minimises the variance, clipped to [0, 1]."""
    if not unlabelled.size:
        return 0.0
    spread = float(np.concatenate((f, unlabelled)).var())
    if spread < LEAST_VARIANCE:
        return 0.0
    covariance = float(np.mean((y - y.mean()) * (f - f.mean())))
    return min(max(covariance / ((1.0 + y.size / unlabelled.size) * spread), 0.0), 1.0)


def _shares(values: ArrayLike, subject: str) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if not ((x >= 0.0) & (x <= 1.0)).all():  # a NaN is in no range
        raise ValueError(f"every {subject} must be in [0, 1]: give a probability or a label")
    return x
