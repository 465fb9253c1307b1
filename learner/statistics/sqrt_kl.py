"""Reward against the distance from the reference policy, reward = a + b sqrt(KL), as paper A (section 4.3) found it.

Once the points bend away below the line, the reward model is being over-optimised, or learning has come to its end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEAST_POINTS = 3
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class SqrtKlFit:
    """The line; ``slope`` in units of reward per square root of a nat."""

    intercept: float
    slope: float
    r_squared: float
    n: int
    """Points, the clipped ones included."""
    slope_low: float
    slope_high: float
    """95 % Student-t interval of the slope. It takes the points as independent, which neighbouring steps of one run are
    not: for reading, not for claims."""
    clipped: int
    """Points whose estimated KL was below 0, as estimates from few samples can be, and was counted as 0."""

    def expected(self, kl: ArrayLike) -> np.ndarray:
        """Reward on the line at ``kl``, in nats, negative values counted as 0; the shape of ``kl``."""
        return self.intercept + self.slope * np.sqrt(np.maximum(np.asarray(kl, dtype=np.float64), 0.0))


def fit_sqrt_kl(kl: ArrayLike, reward: ArrayLike) -> SqrtKlFit:
    """Least squares of reward on sqrt(KL(policy || reference)).

    Args:
        kl: nats per response, ``[n]``, one point per optimiser step.
        reward: mean reward ``[n]`` of the same steps.

    Raises:
        ValueError: lengths differ, a value is not finite, fewer than three points, or either side does not vary.
    """
    x, y = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (kl, reward))
    if x.size != y.size:
        raise ValueError(f"the fit needs one reward per KL, got {y.size} and {x.size}")
    if x.size < LEAST_POINTS:
        raise ValueError(f"the fit needs at least {LEAST_POINTS} points, got {x.size}: let the loop run for more steps")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a KL or a reward is not finite: leave such steps out")
    roots = np.sqrt(np.maximum(x, 0.0))
    for values, quantity in ((roots, "KL"), (y, "reward")):
        if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
            raise ValueError(
                f"the {quantity} is the same at every point, so no line can be fitted: the policy did not move"
            )
    line = stats.linregress(roots, y)
    half_width = float(stats.t.ppf(0.5 + _CONFIDENCE / 2.0, x.size - 2)) * float(line.stderr)
    slope = float(line.slope)
    return SqrtKlFit(
        intercept=float(line.intercept),
        slope=slope,
        r_squared=float(line.rvalue) ** 2,
        n=x.size,
        slope_low=slope - half_width,
        slope_high=slope + half_width,
        clipped=int((x < 0.0).sum()),
    )
