"""Calibration of cost scores: the probability that a response with cost C is unsafe.

Platt's form, sigma(slope*C + intercept), because its gradient never vanishes; the heads themselves carry no bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit


@dataclass(frozen=True)
class Calibration:
    """sigma(slope*C + intercept); ``slope`` per unit of cost, ``intercept`` in log-odds."""

    slope: float
    intercept: float
    n: int
    """Labelled samples it was fitted on."""

    def probability(self, costs: ArrayLike) -> NDArray[np.float64]:
        """Probability of unsafe, the shape of ``costs``."""
        return np.asarray(expit(self.slope * np.asarray(costs, dtype=np.float64) + self.intercept))


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram; ``n`` 0 leaves both means None."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    unsafe_share: float | None


def fit_platt(costs: ArrayLike, unsafe: ArrayLike) -> Calibration:
    """Fit sigma(slope*C + intercept) by maximum likelihood on Platt's smoothed targets (Platt 1999, section 2.2).

    The targets (N+ + 1)/(N+ + 2) and 1/(N- + 2) keep the fit finite where a threshold separates the classes.

    Args:
        costs: raw scores ``[n]``.
        unsafe: labels ``[n]``, true = unsafe.

    Raises:
        ValueError: lengths differ, a cost is not finite, only one class is present, or the fitted slope is not
            positive (the cost model ranks unsafe below safe, and a rate constraint would push the wrong way).
        RuntimeError: the optimiser did not converge.
    """
    x = np.asarray(costs, dtype=np.float64).reshape(-1)
    y = np.asarray(unsafe, dtype=bool).reshape(-1)
    if x.size != y.size or not np.isfinite(x).all():
        raise ValueError(f"calibration needs one label per finite cost, got {x.size} costs and {y.size} labels")
    positives, negatives = int(y.sum()), int((~y).sum())
    if positives == 0 or negatives == 0:
        raise ValueError(
            f"calibration needs both classes, got {positives} unsafe and {negatives} safe: label more samples"
        )
    targets = np.where(y, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    centre, spread = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / spread

    def negative_log_likelihood(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = parameters[0] * z + parameters[1]
        residuals = expit(logits) - targets
        value = float(np.mean(np.logaddexp(0.0, logits) - targets * logits))
        return value, np.array([np.mean(residuals * z), np.mean(residuals)])

    start = np.array([0.0, np.log((positives + 1.0) / (negatives + 1.0))])
    fit = minimize(negative_log_likelihood, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
    if not np.isfinite(fit.x).all() or np.abs(fit.jac).max() > 1e-5:
        raise RuntimeError(f"the Platt fit on {x.size} labels did not converge: {fit.message}")
    slope = float(fit.x[0]) / spread
    if slope <= 0.0:
        raise ValueError(
            f"the fitted slope is {slope:.3g}: this cost model does not rank unsafe above safe on the calibration split"
        )
    return Calibration(slope, float(fit.x[1]) - slope * centre, x.size)


def reliability_bins(probabilities: ArrayLike, unsafe: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Equal-width bins over [0, 1], the last one closed, for a reliability diagram.

    Raises:
        ValueError: lengths differ, no sample, a probability outside [0, 1], or fewer than 1 bin.
    """
    p = np.asarray(probabilities, dtype=np.float64).reshape(-1)
    y = np.asarray(unsafe, dtype=bool).reshape(-1)
    if p.size == 0 or p.size != y.size or bins < 1:
        raise ValueError(
            f"reliability needs equally many probabilities and labels and a bin, got {p.size}, {y.size}, {bins}"
        )
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError("probabilities must lie in [0, 1]")
    index = np.minimum((p * bins).astype(np.int64), bins - 1)
    result = []
    for b in range(bins):
        members = index == b
        n = int(members.sum())
        means = (float(p[members].mean()), float(y[members].mean())) if n else (None, None)
        result.append(ReliabilityBin(b / bins, (b + 1) / bins, n, *means))
    return result


def expected_calibration_error(probabilities: ArrayLike, unsafe: ArrayLike, bins: int = 10) -> float:
    """ECE in [0, 1]: mean over samples of |mean probability - unsafe share| of their bin (Guo et al. 2017, eq. 3)."""
    total = 0.0
    samples = 0
    for each in reliability_bins(probabilities, unsafe, bins):
        samples += each.n
        if each.mean_probability is not None and each.unsafe_share is not None:
            total += each.n * abs(each.mean_probability - each.unsafe_share)
    return total / samples
