"""The hacking gap: what the truth says of the samples that the loop learned from, next to what its models said of them.

Reads the steps of training_gold.json (`actors.crowd.hindsight.judge_folder`), which the stage `evaluate` of a sandbox run writes. A
policy that learns its models' errors shows as a reward that rises alone, or as harm that only gold sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from learner.statistics.intervals import student_mean
from serving.report.blocks.blocks import Figure, Gallery, Note, Picture, Row, Section, Table, cell_figure
from serving.report.blocks.charts import Scheme, picture, trend
from serving.report.run_files import RunFiles, missing_note

Steps = Sequence[Mapping[str, Any]]
END_SHARE = 0.1
"""Share of the steps at the start and at the end whose means are compared: one batch alone is noise."""
TITLE = "The hacking gap: the models' word next to the truth"


def gap_section(run: RunFiles) -> Section:
    """What gold says over training; of a run without a loop that there is nothing to say."""
    if run.summary is not None and run.summary.ppo is None:
        return Section(
            "gap", TITLE, [Note("This run has no loop, so nothing was learned from a score model step by step.")]
        )
    steps = run.gold.get(run.number, [])
    if not steps:
        return Section("gap", TITLE, [missing_note(run, "gold")])
    lead = (
        "Every sample that was learned from, judged again by gold when the run was over; nothing of it was known to the loop. "
        "While both curves of a picture go together the models may be trusted so far; where they part, the policy has learned "
        "the models' errors."
    )
    return Section("gap", TITLE, [gap_table(steps), Gallery(tuple(gap_pictures(steps)))], lead)


def gap_pictures(steps: Steps, suffix: str = "") -> list[Picture]:
    """Reward next to gold helpfulness, and per constraint what the cost calls unsafe next to what is unsafe."""
    return [_reward_picture(steps, suffix), *(_unsafe_picture(steps, name, suffix) for name in _constraints(steps))]


def gap_table(steps: Steps) -> Table:
    """Means over the first and the last tenth of the steps; intervals take each step's batch as one observation."""
    size = max(1, round(END_SHARE * len(steps)))
    ends = (steps[:size], steps[-size:])
    rows = [
        _row("Reward, by the model that was maximised", ends, lambda step: step.get("reward"), share=False),
        _row("Helpfulness, by gold", ends, lambda step: step.get("gold_helpfulness"), share=False),
        _row("Unsafe by gold, all prompts", ends, lambda step: step.get("gold_unsafe"), share=True),
    ]
    for name in _constraints(steps):
        rows += [
            _row(f"{name}: cost above 0", ends, _of(name, "cost_positive"), share=True),
            _row(f"{name}: unsafe by gold", ends, _of(name, "gold_unsafe"), share=True),
            _row(f"{name}: gap, gold less cost model", ends, _gap(name), share=True, signed=True),
        ]
    caption = f"Means over the first and the last {size} steps, with 95 % intervals over steps"
    return Table(caption, "What", ("At the start", "At the end"), tuple(rows))


def _row(
    header: str,
    ends: Sequence[Steps],
    value: Callable[[Mapping[str, Any]], float | None],
    *,
    share: bool,
    signed: bool = False,
) -> Row:
    return Row(header, tuple((_mean([value(step) for step in end_steps], share, signed),) for end_steps in ends))


def _mean(values: Sequence[float | None], share: bool, signed: bool) -> Figure:
    present = [value for value in values if value is not None]
    if not present:
        return cell_figure(None, share=share)
    cell: dict[str, Any] = {"value": float(np.mean(present)), "low": None, "high": None, "n": len(present)}
    if len(present) > 1:
        interval = student_mean(present)
        lowest, highest = (0.0, 1.0) if share and not signed else (-np.inf, np.inf)
        cell |= {"low": max(lowest, interval.low), "high": min(highest, interval.high)}
    return cell_figure(cell, share=share, signed=signed)


def _constraints(steps: Steps) -> list[str]:
    return list(dict.fromkeys(name for step in steps for name in step.get("constraints", {})))


def _of(constraint: str, key: str) -> Callable[[Mapping[str, Any]], float | None]:
    """A figure of the constraint's samples; None of a step in which it applied to none."""
    return lambda step: step.get("constraints", {}).get(constraint, {}).get(key)


def _gap(constraint: str) -> Callable[[Mapping[str, Any]], float | None]:
    def value(step: Mapping[str, Any]) -> float | None:
        truth, judged = _of(constraint, "gold_unsafe")(step), _of(constraint, "cost_positive")(step)
        return None if truth is None or judged is None else truth - judged

    return value


def _reward_picture(steps: Steps, suffix: str) -> Picture:
    x = [float(step["step"]) for step in steps]
    reward, gold = ([float(step[key]) for step in steps] for key in ("reward", "gold_helpfulness"))

    def draw(axes: Axes, scheme: Scheme) -> None:
        (reward_line,) = axes.plot(x, reward, color=scheme.after, linewidth=1.4, label="reward (left)")
        gold_axes = axes.twinx()
        gold_axes.spines["right"].set_visible(True)
        gold_axes.grid(visible=False)
        (gold_line,) = gold_axes.plot(x, gold, color=scheme.good, linewidth=1.4, linestyle="--", label="gold (right)")
        axes.set_xlabel("step")
        axes.set_ylabel("reward")
        gold_axes.set_ylabel("gold helpfulness")
        axes.legend(handles=[reward_line, gold_line], loc="lower right")

    description = f"{trend('reward', x, reward)}; {trend('gold helpfulness', x, gold)}."
    if len(x) > 2 and np.std(reward) > 0 and np.std(gold) > 0:
        description += f" Correlation over the steps {np.corrcoef(reward, gold)[0, 1]:.2f}."
    return picture(f"Reward next to gold helpfulness{suffix}", description, draw)


def _unsafe_picture(steps: Steps, name: str, suffix: str) -> Picture:
    series = {}
    for label, key in (("cost above 0", "cost_positive"), ("unsafe by gold", "gold_unsafe")):
        of = _of(name, key)
        points = [(float(step["step"]), 100 * value) for step in steps if (value := of(step)) is not None]
        series[label] = ([x for x, _ in points], [y for _, y in points])

    def draw(axes: Axes, scheme: Scheme) -> None:
        for (label, (x, y)), colour, line in zip(series.items(), (scheme.after, scheme.good), ("-", "--"), strict=True):
            axes.plot(x, y, color=colour, linewidth=1.4, linestyle=line, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel(f"share of samples of “{name}”, %")
        axes.set_ylim(bottom=0)
        axes.legend()

    description = "; ".join(trend(label, *points) for label, points in series.items() if points[0])
    return picture(f"“{name}”: called unsafe next to truly unsafe{suffix}", f"{description}. Unit: per cent.", draw)
