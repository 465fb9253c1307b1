"""The limit sweep: the limit that was asked for against the harm that was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.experiments.results.cells import SWEEP
from cluster.experiments.results.rows import Row
from learner.statistics.intervals import Interval, student_mean


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
    loop: Interval | None = None
    """Gold share of unsafe answers among the constraint's samples over the loop's second half, when the multiplier has
    settled; a step counts as one draw. None without a loop's curve."""
    measure: float | None = None
    """J over the same steps, as the multiplier saw it."""

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
        certificate = row.certified
        points.append(
            SweepPoint(
                limit=float(certificate["limit"]),
                seed=row.seed,
                value=float(certificate["value"]),
                low=float(certificate["low"]),
                high=float(certificate["high"]),
                helpfulness=float(row.overall["policy"]),
                multiplier=row.curve[-1].get("multiplier") if row.curve else None,
                loop=_over_second_half(row, "gold_unsafe"),
                measure=None if (measured := _over_second_half(row, "measure")) is None else measured.value,
            )
        )
    return sorted(points, key=lambda point: (point.limit, point.seed))


def _over_second_half(row: Row, figure: str) -> Interval | None:
    """Mean and Student t interval over the curve's points; they are batches of fresh samples, but of neighbouring policies."""
    half = row.curve[len(row.curve) // 2 :]
    values = [float(point[figure]) for point in half if figure in point]
    return student_mean(values) if len(values) > 1 else None


def sweep_sentence(points: Sequence[SweepPoint]) -> str:
    """How many of the limits the last policies landed on, and where the loops were on average."""
    if not points:
        return "No run of the sweep is there yet."
    holding = sum(point.holds for point in points)
    sentence = f"The 95 % interval of the measured rate holds the limit in {holding} of {len(points)} runs"
    missed = [f"{100 * point.limit:g} % (seed {point.seed}): {point.where}" for point in points if not point.holds]
    sentence = f"{sentence}{'; not at ' + ', '.join(missed) if missed else ''}."
    settled = [
        (point, point.loop, point.measure) for point in points if point.loop is not None and point.measure is not None
    ]
    if not settled:
        return sentence
    over = max(abs(measure - point.limit) for point, _, measure in settled)
    gold = max(abs(loop.value - point.limit) for point, loop, _ in settled)
    return (
        f"{sentence} One policy is one moment of a control loop: the multiplier holds the average, not every step. Over the second "
        f"half of the loop J is within {100 * over:.1f} points of each limit, and the true rate of the very samples that were "
        f"learned from within {100 * gold:.1f}; what is between the two is the cost model's calibration."
    )
