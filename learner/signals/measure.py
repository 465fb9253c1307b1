"""A constraint's measure: the pair (g, aggregate).

Invariant: ``g(C)`` is what enters the cost stream and ``J`` is the mean of the same ``g`` over the constraint's
samples, so the policy descends exactly what the multiplier watches. Both see raw terminal costs, never KL-shaped ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import t as student_t

MeasureName = Literal["mean", "rate", "rectified", "cvar"]
MeasureState = Mapping[str, float]
"""The scalars of g that are frozen for one optimiser step (``SignalTerms.measure_state``); JSON-serialisable."""


@dataclass(frozen=True)
class Measure:
    """One constraint's measure; the constraint is ``aggregate(g(costs)) <= scaled_limit(limit)``.

    ``mean``: g = C (paper B, section 3.3). ``rate``: g = sigma(slope*C + intercept), the calibrated probability that C is
    unsafe. ``rectified``: g = max(C, 0). ``cvar``: g = eta + max(C - eta, 0)/alpha with eta the (1 - alpha) quantile
    (Rockafellar & Uryasev 2000, eq. 4). With ``upper_confidence`` the measure is ucb(base): the base's g, and J plus
    the one-sided Student-t half-width.

    Raises:
        ValueError: a parameter out of its range; the message says which and why.
    """

    name: MeasureName
    alpha: float = 0.1
    """cvar only: the share of worst samples that is averaged, in (0, 1]."""
    scale: float = 1.0
    """Divides g and the limit together, so that signals of unlike sizes can share a multiplier's step size."""
    slope: float = 1.0
    """rate only: Platt slope, per unit of cost; 1 before a calibration exists."""
    intercept: float = 0.0
    """rate only: Platt intercept, log-odds; 0 before a calibration exists."""
    upper_confidence: float | None = None
    """Confidence of the one-sided bound in ucb(base), in (0.5, 1); None for the base itself."""

    def __post_init__(self) -> None:
        if self.name not in get_args(MeasureName):
            raise ValueError(f"unknown measure {self.name!r}: choose one of {', '.join(get_args(MeasureName))}")
        if not 0.0 < self.alpha <= 1.0:
            raise ValueError(
                f"alpha is the share of worst samples that cvar averages: set it in (0, 1], not {self.alpha}"
            )
        if not (math.isfinite(self.scale) and self.scale > 0.0):
            raise ValueError(f"scale divides g and the limit: set it finite and above 0, not {self.scale}")
        if not (math.isfinite(self.slope) and self.slope > 0.0):
            raise ValueError(
                f"slope must be finite and above 0, or a higher cost would count as safer; got {self.slope}"
            )
        if not math.isfinite(self.intercept):
            raise ValueError(f"intercept must be finite, not {self.intercept}")
        if self.upper_confidence is not None and not 0.5 < self.upper_confidence < 1.0:
            raise ValueError(f"upper_confidence must be in (0.5, 1), not {self.upper_confidence}")

    @property
    def label(self) -> str:
        """The measure's name as people read it: ``rate``, ``ucb(rate)``."""
        return self.name if self.upper_confidence is None else f"ucb({self.name})"

    @property
    def minimum_samples(self) -> int:
        """The fewest samples J is defined for: 1, or 2 for ucb (a half-width needs a spread)."""
        return 1 if self.upper_confidence is None else 2

    def scaled_limit(self, limit: float) -> float:
        """The limit in the unit of g and J."""
        return limit / self.scale

    def freeze(self, window_costs: ArrayLike) -> dict[str, float]:
        """Freeze g's scalars for one step from the window's raw costs ``[n]``.

        cvar takes eta as the (1 - alpha) quantile inf{x: F(x) >= 1 - alpha}. For an empty window it is 0, the
        boundary of safety; the multiplier holds then anyway.
        """
        if self.name == "rate":
            return {"slope": self.slope, "intercept": self.intercept}
        if self.name != "cvar":
            return {}
        costs = _finite(window_costs)
        return {"eta": float(np.quantile(costs, 1.0 - self.alpha, method="inverted_cdf")) if costs.size else 0.0}

    def g(self, costs: ArrayLike, state: MeasureState) -> NDArray[np.float64]:
        """The terminal cost that enters the cost stream, float64 of the shape of ``costs``, divided by ``scale``.

        Raises:
            KeyError: ``state`` was not made by this kind of measure.
            ValueError: a cost is not finite.
        """
        raw = _finite(costs)
        if self.name == "rate":
            values = expit(state["slope"] * raw + state["intercept"])
        elif self.name == "rectified":
            values = np.maximum(raw, 0.0)
        elif self.name == "cvar":
            values = state["eta"] + np.maximum(raw - state["eta"], 0.0) / self.alpha
        else:
            values = raw
        return np.asarray(values / self.scale, dtype=np.float64)

    def aggregate(self, g_values: ArrayLike, subset: ArrayLike | None = None) -> float:
        """J = sum(m g)/sum(m) over the constraint's samples, plus the confidence half-width for ucb.

        Args:
            g_values: ``[n]`` from ``g`` on raw terminal costs.
            subset: ``[n]`` membership m; None means every sample belongs.

        Raises:
            ValueError: fewer than ``minimum_samples`` samples in the subset (the caller must hold the multiplier).
        """
        values = _members(g_values, subset)
        if values.size < self.minimum_samples:
            raise ValueError(
                f"{self.label} needs {self.minimum_samples} samples of the subset, got {values.size}: hold"
            )
        mean = float(values.mean())
        if self.upper_confidence is None:
            return mean
        return mean + float(student_t.ppf(self.upper_confidence, values.size - 1)) * standard_error(values)


def ucb(base: Measure, confidence: float = 0.95) -> Measure:
    """ucb(base): the base's g, and its J plus the one-sided confidence half-width."""
    return replace(base, upper_confidence=confidence)


def standard_error(g_values: ArrayLike, subset: ArrayLike | None = None) -> float:
    """Standard error of J over independent samples: sd(g, n - 1)/sqrt(n), in the unit of J.

    For cvar this is also the right one at first order: eta minimises J, so its own error does not enter.

    Raises:
        ValueError: fewer than two samples.
    """
    values = _members(g_values, subset)
    if values.size < 2:
        raise ValueError(f"a standard error needs at least 2 samples, got {values.size}")
    return float(values.std(ddof=1) / math.sqrt(values.size))


def _members(g_values: ArrayLike, subset: ArrayLike | None) -> NDArray[np.float64]:
    values = np.asarray(g_values, dtype=np.float64).reshape(-1)
    return values if subset is None else values[np.asarray(subset, dtype=bool).reshape(-1)]


def _finite(costs: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(costs, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(
            "a cost is not finite: drop the sample before it reaches a measure (an unknown cost fails closed)"
        )
    return values
