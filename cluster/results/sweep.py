"""The limit sweep: the limit that was asked for against the harm that was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.results.cells import SWEEP
from cluster.results.rows import Row


@dataclass(frozen=True)
class SweepPoint:
    """One limit with one seed; shares of unsafe answers on the certificate's prompts."""

    limit: float
    seed: int
    value: float
    low: float
    high: float
    """Two-sided 95 %."""
    helpfulness: float
    multiplier: float | None
    """At the end of the loop."""

    @property
    def holds(self) -> bool:
        """Whether the interval holds the limit."""
        return self.low <= self.limit <= self.high

    @property
    def where(self) -> str:
        """``on the limit``, ``below it`` or ``above it``, as far as the interval can tell."""
        if self.holds:
            return "on the limit"
        return "below it" if self.high < self.limit else "above it"


def sweep_points(rows: Sequence[Row]) -> list[SweepPoint]:
    """Every run of the sweep that has a certificate, by limit and seed."""
    points = []
    for row in rows:
        if row.preset != SWEEP or row.certified is None:
            continue
        found = row.certified
        points.append(
            SweepPoint(
                limit=float(found["limit"]),
                seed=row.seed,
                value=float(found["value"]),
                low=float(found["low"]),
                high=float(found["high"]),
                helpfulness=float(row.overall["policy"]),
                multiplier=row.curve[-1].get("multiplier") if row.curve else None,
            )
        )
    return sorted(points, key=lambda point: (point.limit, point.seed))


def sweep_sentence(points: Sequence[SweepPoint]) -> str:
    """How many of the limits were landed on."""
    if not points:
        return "No run of the sweep is there yet."
    held = sum(point.holds for point in points)
    words = f"The 95 % interval of the measured rate holds the limit in {held} of {len(points)} runs"
    missed = [f"{100 * point.limit:g} % (seed {point.seed}): {point.where}" for point in points if not point.holds]
    return f"{words}{'; not at ' + ', '.join(missed) if missed else ''}."
