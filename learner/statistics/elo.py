"""Elo ratings by maximum likelihood: the model of Bradley and Terry (1952) on the scale where 400 points are odds of 10 : 1.

Pure. P(a beats b) = 1 / (1 + 10^((E_b - E_a) / 400)); a tie is half a win for each. Unlike Elo's running update the result
depends on no order of games.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from learner.statistics.intervals import check_confidence

POINTS_PER_NAT = 400.0 / math.log(10.0)
MEAN = 1000.0
"""Of all ratings, where no model is the anchor."""
RIDGE = 0.05
"""Where a ridge is asked for: the penalty is RIDGE / 2 * strength², in nats; about a twentieth of a game per model."""
_STEPS, _LONGEST, _TOLERANCE = 200, 1.0, 1e-9

Wins = NDArray[np.float64]


class Separated(ValueError):
    """Some models never lost a point to the others: the likelihood has no maximum, their lead is unbounded."""


@dataclass(frozen=True)
class Rating:
    """One model's."""

    name: str
    elo: float
    low: float | None
    high: float | None
    """Percentile bootstrap over prompts; None where there was none, or of the anchor."""
    games: float

    def document(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Ladder:
    """All ratings, the highest first."""

    ratings: tuple[Rating, ...]
    anchor: str | None
    """Has 1000 points; None: the mean has."""
    ridge: float
    """0: plain maximum likelihood."""

    def document(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "ratings": [rating.document() for rating in self.ratings]}


def expected_score(rating: float, opponent: float) -> float:
    """The chance that `rating` beats `opponent`, both ratings."""
    return float(1.0 / (1.0 + 10.0 ** ((opponent - rating) / 400.0)))


def strengths(wins: ArrayLike, ridge: float = 0.0) -> Wins:
    """Log strengths in nats with mean 0, ``[…, n]``, of points ``[…, n, n]``: row's points against column.

    Raises:
        Separated: without a ridge, some models never lost to the rest, or never met them.
        ValueError: not square, negative, or fewer than two models.
    """
    table = np.asarray(wins, dtype=np.float64)
    n = table.shape[-1]
    if table.ndim < 2 or table.shape[-2] != n or n < 2:
        raise ValueError(f"points of n models are n x n with n at least 2, not {table.shape}")
    if not np.isfinite(table).all() or (table < 0).any() or ridge < 0:
        raise ValueError("points and the ridge are finite and not negative")
    table = table * (1.0 - np.eye(n))
    flat = table.reshape(-1, n, n)
    if ridge == 0.0 and any(_separated(points) for points in flat):
        raise Separated(
            "some models lost no point to the others, or never met them: their lead has no upper end; ask for a ridge"
        )
    return _newton(flat, ridge).reshape(table.shape[:-1])


def elo(
    names: Sequence[str],
    points: ArrayLike,
    *,
    anchor: str | None = None,
    ridge: float = 0.0,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Ladder:
    """Ratings from points per prompt.

    Args:
        points: ``[P, n, n]``, of each prompt the row's points against the column; both 0 where the two did not meet.
        anchor: the model with 1000 points; None: the mean of all has.
        ridge: of the estimate. Resamples that leave some model without a loss take `RIDGE` where this is 0.
        resamples: of prompts, for the intervals; 0 for none.

    Raises:
        Separated, ValueError: as `strengths`; or the anchor is no model.
    """
    check_confidence(confidence)
    table = np.asarray(points, dtype=np.float64)
    if table.ndim != 3 or table.shape[1:] != (len(names), len(names)):
        raise ValueError(f"points of {len(names)} models are prompts x n x n, not {table.shape}")
    table = table * (1.0 - np.eye(len(names)))
    if anchor is not None and anchor not in names:
        raise ValueError(f"the anchor {anchor} is not among {', '.join(names)}")
    total = table.sum(axis=0)
    values = _rated(strengths(total, ridge), names, anchor)
    low, high = _interval(table, names, anchor, ridge, confidence, resamples, seed)
    games = (total + total.T).sum(axis=1)
    ratings = [
        Rating(
            name,
            float(values[index]),
            None if low is None or name == anchor else float(low[index]),
            None if high is None or name == anchor else float(high[index]),
            float(games[index]),
        )
        for index, name in enumerate(names)
    ]
    return Ladder(tuple(sorted(ratings, key=lambda rating: -rating.elo)), anchor, ridge)


def _interval(
    table: Wins, names: Sequence[str], anchor: str | None, ridge: float, confidence: float, resamples: int, seed: int
) -> tuple[Wins | None, Wins | None]:
    prompts = len(table)
    if resamples < 1 or prompts < 2:
        return None, None
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples)
    drawn = np.tensordot(counts.astype(np.float64), table, axes=1)
    alone = np.array([ridge == 0.0 and _separated(resample) for resample in drawn])
    log_strengths = np.empty((resamples, len(names)))
    for mask, penalty in ((alone, RIDGE), (~alone, ridge)):
        if mask.any():
            log_strengths[mask] = strengths(drawn[mask], penalty)
    rated = _rated(log_strengths, names, anchor)
    low, high = np.quantile(rated, [0.5 - confidence / 2.0, 0.5 + confidence / 2.0], axis=0)
    return low, high


def _rated(theta: Wins, names: Sequence[str], anchor: str | None) -> Wins:
    origin = theta.mean(axis=-1, keepdims=True) if anchor is None else theta[..., [names.index(anchor)]]
    return np.asarray(MEAN + POINTS_PER_NAT * (theta - origin))


def _separated(wins: Wins) -> bool:
    """Ford (1957): a maximum exists just where every model beat, maybe through others, every other."""
    return int(connected_components(wins > 0, directed=True, connection="strong")[0]) > 1


def _newton(tables: Wins, ridge: float) -> Wins:
    """Newton's method on all tables at once ``[S, n, n]``; the log-likelihood is concave, and a step is at most a nat long."""
    n = tables.shape[-1]
    games = tables + tables.swapaxes(1, 2)
    theta = np.zeros(tables.shape[:2])
    pin = np.full((n, n), 1.0 / n)  # takes the one direction in which nothing changes
    for _ in range(_STEPS):
        chance = 1.0 / (1.0 + np.exp(theta[:, None, :] - theta[:, :, None]))
        gradient = (tables - games * chance).sum(axis=2) - ridge * theta
        weight = games * chance * (1.0 - chance)
        information = -weight + np.einsum("sij,ik->sik", weight, np.eye(n)) + ridge * np.eye(n) + pin
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        longest = np.abs(step).max(axis=1, keepdims=True)
        theta = theta + step * np.minimum(1.0, _LONGEST / np.maximum(longest, 1e-300))
        if float(longest.max()) < _TOLERANCE:
            return np.asarray(theta - theta.mean(axis=1, keepdims=True))
    raise ValueError("the ratings did not converge: the points are too one-sided; ask for a larger ridge")
