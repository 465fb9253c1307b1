"""From a limit on a cost measure to the rate of unsafe responses that it lets through, and back.

The policy that descends g(C) under a KL penalty is the exponential tilt pi0 exp(-t g) of the one it started from (Korbak et
al. 2022, arXiv 2205.11275). So held-out responses of the starting policy, weighted by exp(-t g(C_i)), show for every t where
the measure J and the share of unsafe *labels* would be. t itself drops out: it joins a value of J to a rate.

What is assumed: the responses of the subset's prompts are one pool, and the cost model ranks responses that the policy has
yet to learn as it ranks these. Pure; randomness comes only from the seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import expit, logsumexp

from learner.statistics import intervals

MeasureName = Literal["mean", "rate", "rectified", "cvar"]
Bound = Literal["upper", "value"]
Probability = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Array = NDArray[np.float64]

LEAST_EFFECTIVE = 20.0
"""The curve ends where fewer effective samples than this would carry it."""
RISE = 0.7
"""Share of the samples that still carry the end of the curve above the starting policy."""
POINTS_BELOW, POINTS_ABOVE = 48, 8
RESAMPLES = 1000
_STEEPEST = 60.0
"""Largest tilt, in spreads of g: there the lowest ties alone are left."""


@dataclass(frozen=True)
class LimitPoint:
    """One tilt of the held-out responses."""

    limit: float
    """J, in the measure's unit."""
    rate: float
    """Share of unsafe labels."""
    low: float
    high: float
    """Two-sided interval of the rate."""
    effective_samples: float
    """Kish's (sum w)^2 / sum w^2."""
    tilt: float
    """t, per unit of g; 0 is the policy that gave the responses, above 0 a safer one."""


@dataclass(frozen=True)
class LimitCurve:
    """Points in ascending order of the limit."""

    points: tuple[LimitPoint, ...]
    measure: MeasureName
    alpha: float | None
    """cvar only."""
    confidence: float
    n: int
    """Responses."""
    clusters: int
    """Conversations that they belong to."""

    @property
    def monotone(self) -> bool:
        """Whether a higher limit never comes with a lower rate; if not, the cost model ranks some responses wrongly."""
        rates = [point.rate for point in self.points]
        return all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(rates))

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "points": [asdict(point) for point in self.points]}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> LimitCurve:
        """The inverse of `document`.

        Raises:
            ValueError: it is no such document.
        """
        try:
            return cls(**{**document, "points": tuple(LimitPoint(**point) for point in document["points"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no curve of limits ({error}): choose the limit again") from error


def limit_curve(
    costs: ArrayLike,
    unsafe: ArrayLike,
    clusters: Sequence[Hashable],
    measure: MeasureName,
    *,
    alpha: float = 0.1,
    probability: Probability | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> LimitCurve:
    """The curve limit -> rate of unsafe labels on held-out responses.

    The interval is the percentile bootstrap over clusters, widened to Clopper-Pearson's at the effective sample size where
    that is the wider one: with no unsafe response among the few that count, a bootstrap would claim a rate of exactly 0.

    Args:
        costs: raw scores ``[n]``.
        unsafe: labels ``[n]``, true = unsafe.
        clusters: ``[n]``, the conversation of each; responses of one are not independent.
        alpha: cvar's share of worst responses.
        probability: of ``rate`` only, cost to probability of unsafe; None is sigma(C), as in training without calibration.
        confidence: of the two-sided intervals.

    Raises:
        ValueError: lengths differ, a cost is not finite, all costs are equal, fewer than 20 responses or two clusters, an
            unknown measure, or alpha or confidence out of range.
    """
    x, y, members = _checked(costs, unsafe, clusters)
    intervals.check_confidence(confidence)
    if measure == "cvar" and not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is the share of worst responses that cvar averages: set it in (0, 1), not {alpha}")
    g = _descended(x, measure, probability)
    if np.ptp(g) <= 1e-12 * max(1.0, float(np.abs(g).max())):
        raise ValueError(f"{measure} is the same for all {x.size} responses: this cost model tells none from another")
    tilts = _tilts(g)
    weights = np.array([_weights(g, tilt) for tilt in tilts])
    rates = weights @ y
    lows, highs = _rate_intervals(weights, y, members, rates, confidence, seed)
    points = [
        LimitPoint(
            _aggregate(x, g, tilt_weights, measure, alpha),
            float(rate),
            float(low),
            float(high),
            _kish(tilt_weights),
            float(tilt),
        )
        for tilt_weights, rate, low, high, tilt in zip(weights, rates, lows, highs, tilts, strict=True)
    ]
    return LimitCurve(
        points=tuple(sorted(points, key=lambda point: (point.limit, -point.tilt))),
        measure=measure,
        alpha=alpha if measure == "cvar" else None,
        confidence=confidence,
        n=x.size,
        clusters=int(members.max()) + 1,
    )


def choose_limit(curve: LimitCurve, target_rate: float, *, bound: Bound = "upper") -> LimitPoint:
    """The largest limit of the curve that keeps the rate at or under the target.

    Args:
        bound: ``upper`` asks the upper end of the rate's interval to meet the target, ``value`` the rate alone.

    Raises:
        ValueError: target not in (0, 1), or no point meets it; the message names the smallest rate that one does meet.
    """
    if not 0.0 < target_rate < 1.0:
        raise ValueError(f"the target rate is a share between 0 and 1, such as 0.05, not {target_rate:g}")

    def bounded(point: LimitPoint) -> float:
        return point.high if bound == "upper" else point.rate

    meeting = [point for point in curve.points if bounded(point) <= target_rate]
    if meeting:
        return max(meeting, key=lambda point: point.limit)
    best = min(curve.points, key=bounded)
    criterion = "upper bound" if bound == "upper" else "rate"
    raise ValueError(
        f"no limit keeps the {criterion} at {target_rate:.3g}: {curve.n} held-out responses in {curve.clusters} conversations can "
        f"vouch for {math.ceil(1000 * bounded(best)) / 1000:g} at best; label more, ask for a higher rate"
        + (", or choose by value" if bound == "upper" and min(p.rate for p in curve.points) <= target_rate else "")
    )


def _checked(
    costs: ArrayLike, unsafe: ArrayLike, clusters: Sequence[Hashable]
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Costs, labels as 0.0 or 1.0, and the clusters numbered from 0, all ``[n]``."""
    x = np.asarray(costs, dtype=np.float64).reshape(-1)
    y = np.asarray(unsafe, dtype=bool).reshape(-1).astype(np.float64)
    numbers: dict[Hashable, int] = {}
    members = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)
    if not x.size == y.size == members.size or not np.isfinite(x).all():
        raise ValueError(
            f"the curve needs a label and a conversation per finite cost, got {x.size}, {y.size} and {members.size}"
        )
    if x.size < LEAST_EFFECTIVE or len(numbers) < 2:
        raise ValueError(
            f"{x.size} held-out responses of {len(numbers)} conversations are too few for a curve: it needs "
            f"{LEAST_EFFECTIVE:g} of 2 or more; label more"
        )
    return x, y, members


def _descended(x: Array, measure: str, probability: Probability | None) -> Array:
    """What the policy descends, ``[n]``. cvar's quantile sinks along with the policy, so in the end that is the cost itself."""
    if measure == "rate":
        return np.asarray(expit(x) if probability is None else probability(x), dtype=np.float64)
    if measure == "rectified":
        return np.maximum(x, 0.0)
    if measure in ("mean", "cvar"):
        return x
    raise ValueError(f"unknown measure {measure!r}: choose mean, rate, rectified or cvar")


def _tilts(g: Array) -> Array:
    """From slightly unsafer than the starting policy to where the effective samples run out; 0 is among them."""
    steepest = _STEEPEST / float(g.std())
    rise = _tilt_with(g, max(RISE * g.size, LEAST_EFFECTIVE), -steepest)
    fall = _tilt_with(g, LEAST_EFFECTIVE, steepest)
    return np.concatenate((_even_steps(g, rise, POINTS_ABOVE)[:0:-1], _even_steps(g, fall, POINTS_BELOW)))


def _even_steps(g: Array, furthest: float, points: int) -> Array:
    """Tilts from 0 to the furthest, ``[points + 1]``, between which the mean of g moves by equal steps."""
    tilts = furthest * np.linspace(0.0, 1.0, 400) ** 3
    moved = np.abs(np.array([_weights(g, tilt) @ g for tilt in tilts]) - g.mean())
    return np.interp(np.linspace(0.0, moved[-1], points + 1), moved, tilts)


def _tilt_with(g: Array, effective: float, furthest: float) -> float:
    """The tilt, between 0 and the furthest, down to which at least so many effective samples are left.

    Their number falls as a tilt grows either way: its logarithm is 2 K(t) - K(2 t), K convex.
    """
    if _kish(_weights(g, furthest)) >= effective:
        return furthest
    inner, outer = 0.0, furthest
    for _ in range(60):
        middle = 0.5 * (inner + outer)
        inner, outer = (middle, outer) if _kish(_weights(g, middle)) >= effective else (inner, middle)
    return inner


def _weights(g: Array, tilt: float) -> Array:
    """Normalised exp(-tilt * g), ``[n]``."""
    return np.asarray(np.exp(-tilt * g - logsumexp(-tilt * g)))


def _kish(weights: Array) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())


def _aggregate(x: Array, g: Array, weights: Array, measure: str, alpha: float) -> float:
    """J under the weights."""
    if measure != "cvar":
        return float(weights @ g)
    order = np.argsort(x)[::-1]
    worst = np.diff(np.minimum(np.cumsum(weights[order]), alpha), prepend=0.0)
    return float(worst @ x[order] / worst.sum())


def _rate_intervals(
    weights: Array, y: Array, members: NDArray[np.int64], rates: Array, confidence: float, seed: int
) -> tuple[Array, Array]:
    """Ends of the rate's interval at every tilt, ``[tilts]`` each, from weights ``[tilts, n]``."""
    tail = 0.5 - confidence / 2.0
    count = int(members.max()) + 1
    order = np.argsort(members, kind="stable")
    starts = np.searchsorted(members[order], np.arange(count))
    mass, unsafe = (np.add.reduceat(per_response[:, order], starts, axis=1) for per_response in (weights, weights * y))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES).astype(np.float64)
    # A draw of clusters that carry no weight says nothing of the rate: it counts as the rate of the whole.
    total = mass @ drawn.T
    resampled = np.where(total > 1e-300, unsafe @ drawn.T / np.maximum(total, 1e-300), rates[:, None])
    low, high = np.quantile(resampled, [tail, 1.0 - tail], axis=1)
    effective = np.array([_kish(tilt_weights) for tilt_weights in weights])
    k = rates * effective
    with np.errstate(invalid="ignore"):
        exact_low = np.where(k > 1e-9, stats.beta.ppf(tail, k, effective - k + 1.0), 0.0)
        exact_high = np.where(effective - k > 1e-9, stats.beta.ppf(1.0 - tail, k + 1.0, effective - k), 1.0)
    return np.minimum(low, exact_low), np.maximum(high, exact_high)
