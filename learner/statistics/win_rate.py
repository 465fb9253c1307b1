"""How often one model's answer is preferred to another's, prompt by prompt, and what the order of showing does to it.

Pure. A prompt's *points* are 1 for a win, 0 for a loss, a half for a tie; a judge who is asked in both orders gives the mean
of the two, so a win that turns with the order is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from learner.statistics.intervals import Interval, bootstrap, check_confidence, wilson

Verdict = Literal["first", "second", "tie"]
"""Of two answers as they were shown."""


@dataclass(frozen=True)
class WinRate:
    """Mean points over prompts."""

    value: float
    low: float
    high: float
    """Wilson's interval, each prompt one draw. Points of a half make it a little too wide."""
    bootstrap_low: float | None
    bootstrap_high: float | None
    """Percentile bootstrap over prompts; None of a single prompt."""
    n: int
    wins: int
    """Prompts with more than half a point."""
    ties: int
    losses: int
    p: float
    """Sign test over the prompts that are no tie, two-sided; 1 without any."""

    def document(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def points_of(verdict: Verdict, *, swapped: bool) -> float:
    """Points of a model that was shown first, or second where the order was `swapped`."""
    if verdict == "tie":
        return 0.5
    return float((verdict == "first") != swapped)


def win_rate(points: ArrayLike, confidence: float = 0.95, *, resamples: int = 2000, seed: int = 0) -> WinRate:
    """Win rate of points in [0, 1], one number per prompt ``[n]``.

    Raises:
        ValueError: no prompt, or points outside [0, 1].
    """
    check_confidence(confidence)
    x = np.asarray(points, dtype=np.float64).reshape(-1)
    if not x.size or not np.isfinite(x).all() or x.min() < 0.0 or x.max() > 1.0:
        raise ValueError("a win rate needs points between 0 and 1, of one prompt at least")
    low, high = proportion_confint(float(x.sum()), x.size, alpha=1.0 - confidence, method="wilson")
    drawn = (
        bootstrap(x, lambda values: values.mean(axis=-1), confidence, resamples=resamples, seed=seed)
        if x.size > 1
        else None
    )
    wins, losses = int((x > 0.5).sum()), int((x < 0.5).sum())
    return WinRate(
        value=float(x.mean()),
        low=max(0.0, float(low)),
        high=min(1.0, float(high)),
        bootstrap_low=None if drawn is None else drawn.low,
        bootstrap_high=None if drawn is None else drawn.high,
        n=x.size,
        wins=wins,
        ties=x.size - wins - losses,
        losses=losses,
        p=float(stats.binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0,
    )


@dataclass(frozen=True)
class OrderEffect:
    """What a judge's answers owe to the order of showing."""

    first_preferred: Interval | None
    """Share of decided answers that prefer what was shown first, with Wilson's interval; a half is no bias."""
    consistent: Interval | None
    """Share of pairs asked in both orders whose two answers are the same."""


def order_effect(verdicts: Sequence[tuple[Verdict | None, Verdict | None]], confidence: float = 0.95) -> OrderEffect:
    """The effect over pairs, each asked as (a, b) and then as (b, a); None where the answer could not be read."""
    decided = [verdict for pair in verdicts for verdict in pair if verdict in ("first", "second")]
    read_pairs = [
        (as_first, as_second) for as_first, as_second in verdicts if as_first is not None and as_second is not None
    ]
    consistent = [
        points_of(as_first, swapped=False) == points_of(as_second, swapped=True) for as_first, as_second in read_pairs
    ]
    return OrderEffect(
        wilson(sum(verdict == "first" for verdict in decided), len(decided), confidence) if decided else None,
        wilson(sum(consistent), len(consistent), confidence) if consistent else None,
    )
