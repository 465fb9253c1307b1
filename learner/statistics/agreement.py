"""Agreement between raters on labels without an order (nominal). Every function is pure.

Ratings come as counts, ``[units, values]``: how many ratings of a unit were of each value. Equal rows may be given once, with
how often they occur as ``weights`` ``[units]``, so that millions of units with two values stay a small table.
Cohen's kappa, which needs to know who gave a rating, is statsmodels' own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learner.statistics.intervals import Interval, check_confidence

Counts = NDArray[np.float64]


def raw_agreement(counts: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean over units of the share of pairs of ratings that agree, in [0, 1]; units with one rating say nothing.

    nan where no unit has two ratings.

    Raises:
        ValueError: counts or weights that are negative or of a wrong shape (as in every function here).
    """
    table, weight = _rated(counts, weights)
    return float(np.average(_agreeing(table), weights=weight)) if weight.sum() > 0 else math.nan


def fleiss_kappa(counts: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Fleiss' kappa (Fleiss 1971): the agreement beyond chance of the same number of raters per unit; 1 is perfect, 0 chance.

    nan where no unit has two ratings or every rating is the same value.

    Raises:
        ValueError: the units do not all have the same number of ratings.
    """
    table, weight = _rated(counts, weights)
    if np.unique(table.sum(axis=1)).size > 1:
        raise ValueError("Fleiss' kappa needs the same number of ratings for every unit")
    if weight.sum() == 0:
        return math.nan
    totals = weight @ table
    chance = float(np.square(totals / totals.sum()).sum())
    observed = float(np.average(_agreeing(table), weights=weight))
    return (observed - chance) / (1.0 - chance) if chance < 1.0 else math.nan


def krippendorff_alpha(counts: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Krippendorff's alpha for nominal data (Krippendorff 2011), with any number of ratings per unit.

    1 is perfect agreement, 0 what chance gives. nan where no unit has two ratings or every rating is the same value.
    """
    table, weight = _rated(counts, weights)
    return float(_alpha(table, weight[None, :])[0]) if weight.sum() > 0 else math.nan


def krippendorff_interval(
    counts: ArrayLike,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """Alpha with a percentile bootstrap over whole units; None where alpha is undefined. ``n`` is units with two ratings.

    Resamples in which every rating is the same value have no alpha and are left out.
    """
    check_confidence(confidence)
    table, weight = _rated(counts, weights)
    value = krippendorff_alpha(table, weight)
    if math.isnan(value):
        return None
    n = round(float(weight.sum()))
    drawn = np.random.default_rng(seed).multinomial(n, weight / weight.sum(), size=resamples)
    alphas = _alpha(table, drawn.astype(np.float64))
    low, high = np.nanquantile(alphas, [0.5 - confidence / 2.0, 0.5 + confidence / 2.0])
    return Interval(value, float(low), float(high), n)


def phi_coefficient(table: ArrayLike) -> float:
    """Correlation of two yes-or-no labels from their 2 x 2 counts, in [-1, 1]; nan where one of them never varies."""
    return float(_phi(_square(table)[None, ...])[0])


def phi_interval(
    table: ArrayLike, confidence: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Phi with a percentile bootstrap; None where it is undefined. Resamples without variation are left out."""
    check_confidence(confidence)
    counts = _square(table)
    value = phi_coefficient(counts)
    if math.isnan(value):
        return None
    n = round(float(counts.sum()))
    drawn = np.random.default_rng(seed).multinomial(n, (counts / counts.sum()).reshape(-1), size=resamples)
    low, high = np.nanquantile(
        _phi(drawn.reshape(-1, 2, 2).astype(np.float64)), [0.5 - confidence / 2.0, 0.5 + confidence / 2.0]
    )
    return Interval(value, float(low), float(high), n)


def _agreeing(table: Counts) -> Counts:
    """Share of agreeing pairs of ratings, ``[units]``."""
    ratings = table.sum(axis=1)
    return np.asarray((table * (table - 1.0)).sum(axis=1) / (ratings * (ratings - 1.0)))


def _alpha(table: Counts, weights: Counts) -> Counts:
    """Alpha for every row of weights ``[samples, units]``, from the coincidence matrix's diagonal and margins."""
    ratings = table.sum(axis=1)
    matching = weights @ ((table * (table - 1.0)).sum(axis=1) / (ratings - 1.0))
    margins = weights @ table
    total = margins.sum(axis=1)
    chance = (margins * (margins - 1.0)).sum(axis=1)
    room = total * (total - 1.0) - chance
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(room > 0, ((total - 1.0) * matching - chance) / room, np.nan))


def _phi(tables: Counts) -> Counts:
    """Phi of every table, ``[samples, 2, 2] -> [samples]``."""
    a, b, c, d = tables[:, 0, 0], tables[:, 0, 1], tables[:, 1, 0], tables[:, 1, 1]
    spread = np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 0, (a * d - b * c) / spread, np.nan))


def _square(table: ArrayLike) -> Counts:
    counts = np.asarray(table, dtype=np.float64)
    if counts.shape != (2, 2) or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError(f"need a table of 2 x 2 counts, got shape {counts.shape}")
    return counts


def _rated(counts: ArrayLike, weights: ArrayLike | None) -> tuple[Counts, Counts]:
    """Units with at least two ratings, and how often each occurs."""
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all() or (table < 0).any():
        raise ValueError(f"ratings are counts of shape [units, values], not {table.shape}")
    weight = np.ones(len(table)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != (len(table),) or (weight < 0).any():
        raise ValueError(f"{len(table)} units need as many weights, each at least 0")
    usable = (table.sum(axis=1) >= 2) & (weight > 0)
    return table[usable], weight[usable]
