"""Where to put the zero of a cost that was learned from rankings alone, as from HH-RLHF, which has no safety labels.

Such a cost is minus a harmlessness score, and a ranking fixes no zero: any constant could be added. So the zero is fitted on
the calibration pairs by a declared rule. A response above it is more harmful than the rule's borderline on these data, no
more: it has no label that says unsafe. Subtract the value from every cost.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

ZeroRule = Literal["separating", "midpoint", "quantile"]
WARNING = "relative: not a safety label"
RESAMPLES = 500

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CostZero:
    """A declared zero of a cost; the cost that is constrained is the raw one minus ``value``."""

    value: float
    """In the raw cost's unit."""
    low: float
    """95 % bootstrap interval of the value over pairs, from here …"""
    high: float
    """… to here."""
    rule: ZeroRule
    method: str
    """The rule as a sentence, with its numbers."""
    safer_below: float
    """Share of the safer responses at or below the zero."""
    less_safe_above: float
    """Share of the less safe responses above it. Both near one half: the zero separates nothing."""
    n: int
    """Pairs behind it."""
    warning: str = WARNING

    def document(self) -> dict[str, Any]:
        """For JSON and reports."""
        return asdict(self)


def fit_cost_zero(
    safer_costs: ArrayLike, less_safe_costs: ArrayLike, *, rule: ZeroRule, quantile: float | None = None, seed: int = 0
) -> CostZero:
    """Place the zero by a rule, on pairs that did not train the model.

    ``separating`` takes the threshold that best tells the less safe responses (above) from the safer ones (at or below), by
    the mean of the two shares; it is noisy where the model is near chance. ``midpoint`` takes the middle between the two
    medians, which is steadier. ``quantile`` takes that quantile of all costs, so that it declares the share of responses
    above zero.

    Args:
        safer_costs: raw costs of each pair's safer response, ``[n]``.
        less_safe_costs: of the other one, ``[n]``.
        quantile: for the rule of that name, in (0, 1).
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than 2 pairs, a cost that is not finite, or a quantile that is missing, too much or out of range.
    """
    pairs = _checked(safer_costs, less_safe_costs)
    if (quantile is not None) != (rule == "quantile") or (quantile is not None and not 0 < quantile < 1):
        raise ValueError(f"the rule {rule} with quantile {quantile}: 'quantile' needs one in (0, 1), others take none")
    value = _place(pairs, rule, quantile)
    rng, n = np.random.default_rng(seed), pairs.shape[1]
    drawn = [_place(pairs[:, rng.integers(0, n, n)], rule, quantile) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return CostZero(
        value=value,
        low=float(low),
        high=float(high),
        rule=rule,
        method=f"{_sentence(rule, quantile)}, on {n} calibration pairs",
        safer_below=float((pairs[0] <= value).mean()),
        less_safe_above=float((pairs[1] > value).mean()),
        n=n,
    )


def _place(pairs: Array, rule: ZeroRule, quantile: float | None) -> float:
    if rule == "midpoint":
        return float(np.median(pairs, axis=1).mean())
    if rule == "quantile":
        assert quantile is not None
        return float(np.quantile(pairs, quantile))
    return _separating(pairs)


def _separating(pairs: Array) -> float:
    """Midway between the neighbouring costs with the best cut between them; of equally good cuts the one nearest the median."""
    costs = pairs.ravel()
    order = np.argsort(costs, kind="stable")
    ordered = costs[order]
    # Below each cut: the safer responses less the others, which is n times what the two shares exceed 1 by.
    balance = np.cumsum(np.where(order < pairs.shape[1], 1, -1))[:-1]
    cuts = np.flatnonzero(ordered[1:] > ordered[:-1])
    if not cuts.size:
        return float(ordered[0])
    best = cuts[balance[cuts] == balance[cuts].max()]
    places = (ordered[best] + ordered[best + 1]) / 2
    return float(places[np.argmin(np.abs(places - np.median(ordered)))])


def _sentence(rule: ZeroRule, quantile: float | None) -> str:
    return {
        "separating": "the threshold that best separates the less safe responses from the safer ones",
        "midpoint": "the middle between the medians of the safer and of the less safe responses",
        "quantile": f"the quantile {quantile} of the costs of all responses",
    }[rule]


def _checked(safer: ArrayLike, less_safe: ArrayLike) -> Array:
    first, second = np.asarray(safer, dtype=np.float64), np.asarray(less_safe, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size < 2:
        raise ValueError(f"a zero needs at least 2 pairs, got {first.size} safer and {second.size} less safe costs")
    pairs = np.stack([first, second])
    if not np.isfinite(pairs).all():
        raise ValueError("a cost is not finite: the zero cannot be placed")
    return pairs
