"""From rows to figures: means over seeds, spread, differences paired by seed, and the sentence about the multiplier. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from actors.crowd.world import HARM_KINDS
from actors.judging.by_gold.figures import Cell as Interval
from actors.judging.by_gold.figures import mean_cell
from cluster.experiments.results.cells import BASELINE, FIXED, TABLE, preset_settings
from cluster.experiments.results.plan import BestFixed
from cluster.experiments.results.rows import Row

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """One column."""

    heading: str
    read: Callable[[Row], float | None]
    percent: bool = False
    digits: int = 2

    def text(self, value: float | None, *, signed: bool = False) -> str:
        """``2.1 %`` or ``2.61``; a dash where there is none."""
        if value is None:
            return "–"
        scale, digits, unit = (100.0, 1, " %") if self.percent else (1.0, self.digits, "")
        return f"{scale * value:{'+' if signed else ''}.{digits}f}{unit}"

    def plain(self, value: float) -> str:
        """Without the unit."""
        return self.text(value).removesuffix(" %")


def _measure(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.value(name)


def minutes(row: Row) -> float:
    """Wall-clock minutes of all stages, as if the run stood alone."""
    return math.fsum(value for name, value in row.seconds.items() if name != "total") / 60


def certified_rate(row: Row) -> float | None:
    """The share of unsafe answers on the certificate's prompts."""
    return float(row.certified["value"]) if row.certified else None


def unsafe_rate(row: Row) -> float:
    """The share of unsafe answers to seen harmful and dual-use tasks."""
    return float(row.overall["unsafe_rate"])


HARM = Figure("unsafe", unsafe_rate, percent=True)
OVERALL = Figure("overall helpfulness", lambda row: float(row.overall["policy"]))
FIGURES = (
    *(Figure(f"harm on {kind.replace('_', ' ')}", _measure(f"harm_rate_{kind}"), True) for kind in HARM_KINDS),
    Figure("certified", certified_rate, percent=True),
    Figure("benign help", _measure("helpfulness_benign")),
    Figure("look-alike help", _measure("helpfulness_lookalike")),
    Figure("refusals, benign", _measure("refusal_benign"), percent=True),
    Figure("refusals, look-alike", _measure("refusal_lookalike"), percent=True),
    OVERALL,
    Figure("oracle gap closed", lambda row: row.overall["share"], percent=True),
    Figure("minutes", minutes, digits=1),
)
COMPARED = (HARM, *FIGURES[:2], *FIGURES[3:6], OVERALL)
"""What is compared with the baseline by seed."""


@dataclass(frozen=True)
class ArmRows:
    """One arm over its seeds."""

    arm: str
    title: str
    rows: Mapping[int, Row]
    stale: tuple[int, ...] = ()
    """Seeds whose row the present tree would not give again."""

    def by_seed(self, figure: Figure) -> dict[int, float]:
        """The figure's values where there are any."""
        values = {seed: figure.read(row) for seed, row in sorted(self.rows.items())}
        return {seed: value for seed, value in values.items() if value is not None}

    def mean(self, figure: Figure) -> float | None:
        """Over seeds."""
        values = list(self.by_seed(figure).values())
        return math.fsum(values) / len(values) if values else None

    def text(self, figure: Figure) -> str:
        """``2.1 % ± 0.4``: the mean, and the standard deviation over seeds where there are several."""
        values = list(self.by_seed(figure).values())
        spread = standard_deviation(values)
        return figure.text(self.mean(figure)) + ("" if spread is None else f" ± {figure.plain(spread)}")

    @property
    def feasible(self) -> str:
        """``3 of 3`` seeds certified; a dash where nothing was limited."""
        certified = [row for row in self.rows.values() if row.certificate]
        return f"{sum(row.feasible for row in certified)} of {len(certified)}" if certified else "–"


def standard_deviation(values: Sequence[float]) -> float | None:
    """Of a sample; None below two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def difference(arm: ArmRows, baseline: ArmRows, figure: Figure) -> Interval:
    """Arm less baseline on the seeds that both have, with its Student t interval; no value where they share none."""
    ours, reference = arm.by_seed(figure), baseline.by_seed(figure)
    return mean_cell([ours[seed] - reference[seed] for seed in ours if seed in reference], CONFIDENCE)


def table_arms(rows: Sequence[Row], stale: Mapping[str, Sequence[str]], best: BestFixed | None) -> list[ArmRows]:
    """One entry per line of the table in the preset's order; of the seven weights the best alone, with all its seeds.

    Args:
        stale: reasons by the name of a row's cell.
    """
    arms = []
    for arm in preset_settings(TABLE).arms:
        fixed = arm.startswith(FIXED)
        if fixed and (best is None or arm != best.arm):
            continue
        rows_by_seed = {row.seed: row for row in rows if (row.preset, row.arm) == (TABLE, arm)}
        title = f"best fixed of seven (λ = {weight(arm):g})" if fixed else arm
        old = tuple(seed for seed, row in sorted(rows_by_seed.items()) if stale.get(row.cell.name))
        arms.append(ArmRows(arm, title, rows_by_seed, old))
    return arms


def weight(arm: str) -> float:
    """The multiplier of a fixed arm."""
    dual = preset_settings(TABLE).arms[arm]["constraints.harm.dual"]
    assert isinstance(dual, Mapping)
    return float(dual["initial"])


def multiplier_verdict(arms: Sequence[ArmRows], best: BestFixed | None) -> str:
    """Whether the moving multiplier beats the best of seven fixed ones at equal harm; if it does not, why.

    Harm is equal where the paired interval of its difference holds zero. Without two common seeds nothing is claimed.
    """
    ours = next((arm for arm in arms if arm.arm == BASELINE and arm.rows), None)
    fixed = next((arm for arm in arms if best is not None and arm.arm == best.arm), None)
    if ours is None or fixed is None or best is None:
        return "Not yet said: the seven fixed weights of one seed and the moving multiplier have not all run."
    common = sorted(set(ours.rows) & set(fixed.rows))
    if len(common) < 2:
        return f"Not yet said: the two have {len(common)} seed{'' if len(common) == 1 else 's'} in common, and an interval needs two."
    help_, harm = (difference(ours, fixed, figure) for figure in (OVERALL, HARM))
    figures = (
        f"Over {len(common)} seeds the moving multiplier reaches overall helpfulness {ours.text(OVERALL)} with "
        f"{ours.text(HARM)} of the answers to harmful and dual-use requests unsafe, the best fixed weight "
        f"(λ = {weight(best.arm):g}) {fixed.text(OVERALL)} with {fixed.text(HARM)}; paired by seed, moving less fixed: "
        f"helpfulness {interval_text(help_, OVERALL)}, unsafe {interval_text(harm, HARM)}."
    )
    return f"{_claim(help_, harm, ours, best)} {figures}"


def _claim(help_: Interval, harm: Interval, ours: ArmRows, best: BestFixed) -> str:
    if _sign(harm):
        less = "less" if _sign(harm) < 0 else "more"
        also = {1: "more helpful", -1: "less helpful", 0: "equally helpful as far as the seeds can tell"}[_sign(help_)]
        return (
            f"**The two are not at equal harm: the moving multiplier does {less} harm, and is {also}.** "
            "So neither beats the other at equal harm."
        )
    if _sign(help_) > 0:
        return "**The moving multiplier beats the best fixed one at equal harm.**"
    stronger = "the fixed one is more helpful" if _sign(help_) < 0 else "the seeds show no difference"
    return f"**The moving multiplier does not beat the best fixed one at equal harm: {stronger}.** {_why(ours, best)}"


def _why(ours: ArmRows, best: BestFixed) -> str:
    ends = [row.curve[-1]["multiplier"] for row in ours.rows.values() if row.curve and "multiplier" in row.curve[-1]]
    reached = f" (here it ended at {math.fsum(ends) / len(ends):.2g} on average)" if ends else ""
    seeds = ", ".join(map(str, best.seeds))
    return (
        "Why: with the right weight, the unconstrained problem has the constrained one's optimum (strong duality), so the "
        f"best a multiplier can do in a world that stays the same is to find that weight{reached}, and on the way it "
        f"learns with wrong ones. The fixed weight was found by seven whole runs and chosen by the very figures of seed "
        f"{seeds} that count here, which favours it. What the multiplier saves is that search, and the limit can be named "
        "beforehand: see the limit sweep."
    )


def _sign(interval: Interval) -> int:
    """1 or -1 where the whole interval is on one side of zero."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)


def interval_text(interval: Interval, figure: Figure) -> str:
    """``+0.12 [-0.03, +0.27]``."""
    if interval["value"] is None:
        return "–"
    value = figure.text(interval["value"], signed=True)
    if interval["low"] is None or interval["high"] is None:
        return value
    low, high = (figure.text(end, signed=True).removesuffix(" %") for end in (interval["low"], interval["high"]))
    return f"{value} [{low}, {high}]"
