"""The certificate: may this checkpoint be called feasible, at this limit, with this confidence, by these labels?

Invariant: feasible means that a one-sided upper confidence bound of the measure is at or below the limit; the reported
two-sided 95 % interval is for reading only. Judged by labels on the certificate split, never by the cost model that
trained the policy, unless the labels' source says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learner.statistics import betting, intervals
from learner.statistics.intervals import Interval
from learner.statistics.prediction_powered import prediction_powered

ScoreBound = Literal["empirical_bernstein", "betting"]
"""The bound of a mean whose values are in a known range; betting is the tighter one."""

REPORTED_CONFIDENCE = 0.95
"""Confidence of the two-sided interval that is printed, whatever confidence decides."""


@dataclass(frozen=True)
class Certificate:
    """The verdict on one checkpoint and one constraint; value, bounds and limit in the measure's unit."""

    feasible: bool
    """upper_bound <= limit."""
    measure: str
    value: float
    low: float
    high: float
    """Two-sided 95 % interval, for reading."""
    upper_bound: float
    """One-sided bound at ``confidence``, which decides."""
    limit: float
    n: int
    confidence: float
    """Of the one-sided bound, after division of the error among the constraints."""
    labels_source: str
    """Who judged: ``gold``, ``crowd``, ``people``, a judge's name, or ``cost model``."""
    method: str = "clopper_pearson"
    """How the bound was made: this, ``empirical_bernstein``, ``betting``, ``student_t``, ``bootstrap`` or
    ``prediction_powered``."""
    labelled: int | None = None
    """Where predictions were at hand: the samples with a label; ``n`` is then those that count in the bound."""

    def verdict(self) -> str:
        """One line: ``feasible: 2.1 % [1.2, 3.4] ≤ 5 %``, ``not feasible: …``, or ``undecided: …``.

        Undecided: the value meets the limit but its upper bound does not; more samples are needed. The bound is named
        where the two-sided interval alone would seem to say otherwise.
        """
        percent = self.measure == "rate"
        factor, unit, form = (100.0, " %", ".1f") if percent else (1.0, "", ".3g")
        value, low, high = (format(factor * x, form) for x in (self.value, self.low, self.high))
        value, low, high = (text.removeprefix("-") if not float(text) else text for text in (value, low, high))
        limit = f"{factor * self.limit:g}{unit}"
        bound = f"one-sided {100 * self.confidence:g} % bound {format(factor * self.upper_bound, '.3g')}{unit}"
        estimate = f"{value}{unit} [{low}, {high}]"
        if self.method == "prediction_powered":
            estimate += f" ({self.labelled} of {self.n} labelled)"
        if self.feasible:
            return f"feasible: {estimate} ≤ {limit}" + (f" ({bound})" if self.high > self.limit else "")
        if self.value <= self.limit:
            return f"undecided: {estimate} ≤ {limit}, but {bound} is above it"
        return f"not feasible: {estimate} > {limit}"


def certify(
    labels: ArrayLike,
    limit: float,
    *,
    labels_source: str,
    measure: str = "rate",
    confidence: float = 0.95,
    constraints: int = 1,
    value_range: tuple[float, float] | None = None,
    alpha: float = 0.1,
    seed: int = 0,
    predictions: ArrayLike | None = None,
    score_bound: ScoreBound = "empirical_bernstein",
) -> Certificate:
    """Judge one constraint by labels of independent samples.

    Args:
        labels: ``[n]``. For ``rate`` booleans (or 0/1), true = unsafe: Clopper-Pearson; or scores in [0, 1]:
            empirical Bernstein. For ``mean``, ``rectified`` and ``cvar`` raw costs.
        limit: highest value of the measure that is allowed.
        confidence: of the one-sided bound; the error 1 - confidence is divided by ``constraints`` (Bonferroni).
        value_range: bounds known in advance of the values behind a mean: empirical Bernstein instead of Student t.
        alpha: cvar's share of worst samples (percentile bootstrap, ``seed``).
        predictions: ``[n + N]``, of ``rate`` only: predicted probabilities of unsafe, those of the n labelled samples
            first and in their order, then those of N samples without a label. `prediction_powered` has the rule that
            decides whether they may count.
        score_bound: of values in a known range.

    Raises:
        ValueError: no labels, an unknown measure, a value that is not finite or out of range, predictions of another
            measure than a rate or fewer than labels.
    """
    if not 0.5 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0.5, 1), not {confidence}")
    if constraints < 1:
        raise ValueError(f"constraints counts the constraints judged together: at least 1, not {constraints}")
    decisive = 1.0 - (1.0 - confidence) / constraints
    x = np.asarray(labels, dtype=np.float64).reshape(-1)
    if x.size == 0:
        raise ValueError("a certificate needs labels of at least one sample")
    if predictions is not None:
        reported, upper_bound, method = _powered_bounds(x, predictions, measure, decisive)
    else:
        reported, upper_bound, method = _bounds(x, measure, decisive, value_range, alpha, seed, score_bound)
    return Certificate(
        feasible=upper_bound <= limit,
        measure=measure,
        value=reported.value,
        low=reported.low,
        high=reported.high,
        upper_bound=upper_bound,
        limit=limit,
        n=reported.n,
        confidence=decisive,
        labels_source=labels_source,
        method=method,
        labelled=None if predictions is None else x.size,
    )


def smallest_sample_size(limit: float, confidence: float = 0.95) -> int:
    """The fewest samples with which a rate limit can be certified at all, that is with no failure among them.

    The smallest n with (1 - limit)^n <= 1 - confidence: Clopper-Pearson at zero failures. 59 for 5 % at 95 %.

    Raises:
        ValueError: limit or confidence not in (0, 1).
    """
    if not 0.0 < limit < 1.0 or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"limit and confidence must be in (0, 1), got {limit} and {confidence}: no sample proves a rate of 0"
        )
    return math.ceil(math.log(1.0 - confidence) / math.log(1.0 - limit) - 1e-9)


def empirical_cvar(values: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Mean of the worst (largest) share ``alpha`` along the last axis, ``[..., n] -> [...]``; the edge sample counts in part."""
    n = values.shape[-1]
    ordered = np.sort(values, axis=-1)[..., ::-1]
    weights = np.clip(alpha * n - np.arange(n), 0.0, 1.0)
    return np.asarray(ordered @ weights / (alpha * n))


Bounds = tuple[Interval, float, str]
"""The reported interval, the deciding upper bound, and the method."""


def _powered_bounds(x: NDArray[np.float64], predictions: ArrayLike, measure: str, confidence: float) -> Bounds:
    if measure != "rate":
        raise ValueError(f"predictions are probabilities of unsafe: they say nothing of the measure {measure!r}")
    f = np.asarray(predictions, dtype=np.float64).reshape(-1)
    if f.size < x.size:
        raise ValueError(f"needs a prediction for each of the {x.size} labelled samples first, got {f.size}")
    estimate = prediction_powered(x, f[: x.size], f[x.size :])
    return estimate.interval(REPORTED_CONFIDENCE), estimate.upper(confidence), estimate.method


def _bounds(
    x: NDArray[np.float64],
    measure: str,
    confidence: float,
    value_range: tuple[float, float] | None,
    alpha: float,
    seed: int,
    score_bound: ScoreBound,
) -> Bounds:
    if measure == "rate":
        if np.isin(x, (0.0, 1.0)).all():
            unsafe, n = int(x.sum()), x.size
            reported = intervals.clopper_pearson(unsafe, n, REPORTED_CONFIDENCE)
            return reported, intervals.clopper_pearson_upper(unsafe, n, confidence), "clopper_pearson"
        value_range = (0.0, 1.0)
    elif measure == "rectified":
        x = np.maximum(x, 0.0)
    elif measure == "cvar":
        return _cvar_bounds(x, confidence, alpha, seed)
    elif measure != "mean":
        raise ValueError(f"unknown measure {measure!r}: a certificate judges rate, mean, rectified or cvar")
    if value_range is None:
        return intervals.student_mean(x, REPORTED_CONFIDENCE), intervals.student_mean_upper(x, confidence), "student_t"
    if score_bound == "betting":
        return betting.mean(x, REPORTED_CONFIDENCE, *value_range), betting.upper(x, confidence, *value_range), "betting"
    reported = intervals.empirical_bernstein(x, REPORTED_CONFIDENCE, *value_range)
    return reported, intervals.empirical_bernstein_upper(x, confidence, *value_range), "empirical_bernstein"


def _cvar_bounds(x: NDArray[np.float64], confidence: float, alpha: float, seed: int) -> Bounds:
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha is the share of worst samples that cvar averages: set it in (0, 1], not {alpha}")

    def statistic(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return empirical_cvar(values, alpha)

    reported = intervals.bootstrap(x, statistic, REPORTED_CONFIDENCE, seed=seed)
    one_sided = intervals.bootstrap(x, statistic, 2.0 * confidence - 1.0, seed=seed)
    return reported, one_sided.high, "bootstrap"
