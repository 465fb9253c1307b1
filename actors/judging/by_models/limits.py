"""A constraint's measure by the scores of its cost model: its value with an interval, and the bound that decides a snapshot.

The same g and aggregate as in the loop (`learner.signals.measure`), not divided by the scale; of ``ucb`` the base measure,
for here every value has its bound. Nothing of this is a certificate: the model that is asked is the one that was optimised.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.judging.by_gold.figures import Cell
from configs.exits import DataError
from configs.schema.signals import ConstraintSettings
from learner.signals.measure import Measure
from learner.statistics import betting, intervals
from learner.statistics.calibration import Calibration
from learner.statistics.certificate import empirical_cvar

RESAMPLES = 2000

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """One constraint as answers are judged by it."""

    name: str
    measure: Measure
    """With scale 1 and no upper confidence."""
    limit: float
    subset: frozenset[str]
    """Tags of the prompts it covers; empty: all."""

    @classmethod
    def of(cls, name: str, settings: ConstraintSettings, calibration: Calibration | None) -> Limit:
        """The constraint of these settings; of `rate` by the calibration, or sigma of the cost where there is none."""
        slope, intercept = (1.0, 0.0) if calibration is None else (calibration.slope, calibration.intercept)
        measure = Measure(settings.measure, alpha=settings.alpha, slope=slope, intercept=intercept)
        return cls(name, measure, settings.limit, frozenset(settings.subset))

    @property
    def bounded(self) -> bool:
        """Whether g is between 0 and 1 and the value is a share."""
        return self.measure.name == "rate"

    def covers(self, tags: Collection[str]) -> bool:
        """Whether the constraint applies to a prompt with these tags."""
        return not self.subset or not self.subset.isdisjoint(tags)

    def g(self, costs: Sequence[float]) -> Values:
        """g of raw costs ``[n]``; of `cvar` the mean of it is not the value of another sample: use `value`."""
        raw = np.asarray(costs, dtype=np.float64)
        return self.measure.g(raw, self.measure.freeze(raw))

    def cell(self, costs: Sequence[float], confidence: float) -> Cell:
        """The measure of raw costs with its two-sided interval: betting for `rate`, the bootstrap for `cvar`, else Student t."""
        n = len(costs)
        if n < 2:
            value = self.measure.aggregate(self.g(costs)) if n else None
            return Cell(value=value, low=None, high=None, n=n)
        interval = self._interval(costs, confidence)
        return Cell(value=interval.value, low=interval.low, high=interval.high, n=n)

    def difference(self, before: Sequence[float], after: Sequence[float], confidence: float) -> Cell:
        """The measure after less before, of raw costs paired by prompt: Student t, of `cvar` a bootstrap over prompts."""
        n = len(before)
        if n < 2:
            value = self.measure.aggregate(self.g(after)) - self.measure.aggregate(self.g(before)) if n else None
            return Cell(value=value, low=None, high=None, n=n)
        if self.measure.name != "cvar":
            interval = intervals.student_mean(self.g(after) - self.g(before), confidence)
            return Cell(value=interval.value, low=interval.low, high=interval.high, n=n)
        old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
        rows = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, n))
        drawn = self._tail(new[rows]) - self._tail(old[rows])
        low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
        return Cell(value=float(self._tail(new) - self._tail(old)), low=float(low), high=float(high), n=n)

    def upper_bound(self, costs: Sequence[float], confidence: float, *, where: str) -> float:
        """One-sided upper bound of the measure.

        Raises:
            DataError: fewer than two answers; `where` says of what.
        """
        if len(costs) < 2:
            raise DataError(
                f"{where}: a bound of constraint {self.name} needs two answers, got {len(costs)}: keep more prompts "
                "(splits.selection, selection.samples), or give more"
            )
        if self.bounded:
            return betting.upper(self.g(costs), confidence)
        return self._interval(costs, 2.0 * confidence - 1.0).high

    def document(self) -> dict[str, Any]:
        """What a report says of the constraint, as plain values."""
        document: dict[str, Any] = {"measure": self.measure.name, "limit": self.limit, "subset": sorted(self.subset)}
        return document | ({"alpha": self.measure.alpha} if self.measure.name == "cvar" else {})

    def _interval(self, costs: Sequence[float], confidence: float) -> intervals.Interval:
        if self.measure.name == "cvar":
            return intervals.bootstrap(costs, self._tail, confidence, resamples=RESAMPLES)
        if self.bounded:
            return betting.mean(self.g(costs), confidence)
        return intervals.student_mean(self.g(costs), confidence)

    def _tail(self, costs: Values) -> Values:
        return empirical_cvar(costs, self.measure.alpha)
