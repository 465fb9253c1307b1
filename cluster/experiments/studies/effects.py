"""One effect of a study: a figure per seed, its interval over seeds, and what that says of a claim. Pure.

The interval is Student's t over seeds: every seed has its own model, pairs, labels and loop, so seeds are independent and
samples within one are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from actors.judging.by_gold.figures import Cell as Interval
from actors.judging.by_gold.figures import mean_cell
from cluster.experiments.results.rows import Row

CONFIDENCE = 0.95
LEAST_SEEDS = 3
"""Below this nothing is said."""

OfSeed = Mapping[str, Row]
"""Arm → its row with one seed."""


class Verdict(StrEnum):
    """What the seeds say of a claim."""

    SUPPORTED = "supported here"
    NOT_SUPPORTED = "not supported here"
    UNDECIDED = "undecided here"


@dataclass(frozen=True)
class Effect:
    """A figure that the claim says is above, or below, a bound."""

    title: str
    read: Callable[[OfSeed], float | None]
    """Of the rows of one seed; None where one lacks the figure."""
    claim: Literal["above", "below"] = "above"
    bound: float = 0.0
    percent: bool = False
    digits: int = 2

    def text(self, value: float) -> str:
        """``+44.1 %`` or ``-0.03``."""
        if self.percent:
            return f"{100 * value:+.1f} %"
        return f"{value:+.{self.digits}f}"

    @property
    def claim_text(self) -> str:
        """``> 0``."""
        sign = ">" if self.claim == "above" else "<"
        number = f"{100 * self.bound:g} %" if self.percent and self.bound else f"{self.bound:g}"
        return f"{sign} {number}"


@dataclass(frozen=True)
class Finding:
    """An effect over the seeds that have it."""

    effect: Effect
    by_seed: Mapping[int, float]

    @property
    def interval(self) -> Interval:
        """Mean with its Student t interval; low and high are None below two seeds."""
        return mean_cell(list(self.by_seed.values()), CONFIDENCE)

    def verdict_among(self, effects: int) -> Verdict:
        """Supported where the whole interval is on the claimed side of the bound, not supported where none of it is.

        A claim needs all of its effects, and each of them alone can fail it. So those that fail are several tests of one
        claim, and their level is divided by their number (Bonferroni); those that hold must all hold, and need no division.

        Args:
            effects: how many the claim has.
        """
        if len(self.by_seed) < LEAST_SEEDS:
            return Verdict.UNDECIDED
        if self._ends(CONFIDENCE)[0] > 0:
            return Verdict.SUPPORTED
        return Verdict.NOT_SUPPORTED if self._ends(1 - (1 - CONFIDENCE) / effects)[1] <= 0 else Verdict.UNDECIDED

    def _ends(self, confidence: float) -> tuple[float, float]:
        """The interval's ends as distances beyond the bound, on the claimed side where they are above 0."""
        interval = mean_cell(list(self.by_seed.values()), confidence)
        low, high = interval["low"], interval["high"]
        if low is None or high is None:
            raise ValueError("one seed has no interval")
        low, high = low - self.effect.bound, high - self.effect.bound
        return (low, high) if self.effect.claim == "above" else (-high, -low)

    def text(self) -> str:
        """``harm on harmful requests +44.1 % [+38.2, +50.0]``."""
        interval = self.interval
        if interval["value"] is None:
            return f"{self.effect.title}: no seed yet"
        value = f"{self.effect.title} {self.effect.text(interval['value'])}"
        if interval["low"] is None or interval["high"] is None:
            return value
        low, high = (self.effect.text(end).removesuffix(" %") for end in (interval["low"], interval["high"]))
        return f"{value} [{low}, {high}]"


def find(effect: Effect, rows: Mapping[int, OfSeed]) -> Finding:
    """The effect on every seed that has all it needs.

    Args:
        rows: seed → arm → row.
    """
    values = {seed: effect.read(of_seed) for seed, of_seed in sorted(rows.items())}
    return Finding(effect, {seed: value for seed, value in values.items() if value is not None})


def together(findings: Sequence[Finding]) -> Verdict:
    """Of a claim that needs all of its effects: one that fails is enough against it, once every effect has its seeds."""
    if any(len(finding.by_seed) < LEAST_SEEDS for finding in findings):
        return Verdict.UNDECIDED
    verdicts = [finding.verdict_among(len(findings)) for finding in findings]
    if Verdict.NOT_SUPPORTED in verdicts:
        return Verdict.NOT_SUPPORTED
    return Verdict.UNDECIDED if Verdict.UNDECIDED in verdicts else Verdict.SUPPORTED


def verdict_line(letter: str, findings: Sequence[Finding], stale: int = 0) -> str:
    """``Verdict (a): supported here (effect [interval]; …; seeds 0, 1, 2)``: exactly one line.

    Args:
        stale: how many of the rows behind it the present tree may not give again.
    """
    seeds = sorted(set.intersection(*(set(finding.by_seed) for finding in findings)))
    over = f"seeds {', '.join(map(str, seeds))}" if seeds else "no seed has run"
    old = f"; {stale} stale row{'s' * (stale > 1)}" if stale else ""
    return (
        f"Verdict ({letter}): {together(findings)} ({'; '.join(finding.text() for finding in findings)}; {over}{old})"
    )
