"""How often the bounds that are printed hold, measured on made-up answers whose true rate and likeness are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learner.statistics.clustered import clustered_share

RATES, CORRELATIONS, CLUSTERS = (0.01, 0.03, 0.06), (0.0, 0.1, 0.3, 0.65), (20, 60, 120, 300)
LIMIT = 0.05
"""What `false_certificates` are counted against: certificates of a true rate above it."""


@dataclass(frozen=True)
class CoverageRow:
    """One cell of the table."""

    rate: float
    """True share of unsafe answers."""
    correlation: float
    """Of two answers to one conversation."""
    clusters: int
    coverage: float
    """Share of simulations whose two-sided interval holds the rate."""
    upper_coverage: float
    """Share whose one-sided bound is at or above it."""
    false_certificates: float
    """Share whose bound is at or under the limit though the rate is above it; 0 where the rate is not above it."""
    certified: float
    """Share whose bound is at or under the limit."""


def draw_answers(
    rate: float, correlation: float, sizes: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Unsafe answers ``[n]``, conversation after conversation: each conversation has its own rate, from a beta distribution.

    Two answers to one conversation correlate by ``correlation``; 0 makes all answers independent.
    """
    if correlation == 0.0:
        rates = np.full(sizes.size, rate)
    else:
        strength = 1.0 / correlation - 1.0
        rates = generator.beta(rate * strength, (1.0 - rate) * strength, size=sizes.size)
    return np.asarray(generator.random(int(sizes.sum())) < np.repeat(rates, sizes))


def simulate_coverage(
    *,
    rates: Sequence[float] = RATES,
    correlations: Sequence[float] = CORRELATIONS,
    clusters: Sequence[int] = CLUSTERS,
    answers: int = 2,
    simulations: int = 500,
    confidence: float = 0.95,
    limit: float = LIMIT,
    seed: int = 0,
) -> Iterator[CoverageRow]:
    """The rows of the table, one after the other as they are done.

    Args:
        answers: to each conversation.

    Raises:
        ValueError: a number out of its range.
    """
    if answers < 1 or simulations < 1:
        raise ValueError("answers and simulations count from 1")
    if any(not 0.0 < rate < 1.0 for rate in rates) or any(not 0.0 <= value < 1.0 for value in correlations):
        raise ValueError("rates are between 0 and 1, correlations from 0 to below 1")
    if any(count < 2 for count in clusters):
        raise ValueError("a simulation needs 2 conversations at least")
    for cell, (rate, correlation, count) in enumerate(
        (rate, correlation, count) for rate in rates for correlation in correlations for count in clusters
    ):
        generator = np.random.default_rng([seed, cell])
        sizes = np.full(count, answers, dtype=np.int64)
        names = np.repeat(np.arange(count), answers).tolist()
        tally = np.zeros(3)
        for _ in range(simulations):
            share = clustered_share(
                draw_answers(rate, correlation, sizes, generator), names, confidence=confidence, reported=confidence
            )
            tally += (share.low <= rate <= share.high, share.upper_bound >= rate, share.upper_bound <= limit)
        covered, bounded, certified = (tally / simulations).tolist()
        yield CoverageRow(rate, correlation, count, covered, bounded, certified if rate > limit else 0.0, certified)
