"""The pictures of the results page, as SVG files: gold next to model-judged figures over training, and the limit sweep."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from cluster.experiments.results.rows import Row
from cluster.experiments.results.sweep import SweepPoint
from serving.report.blocks.charts import LIGHT

STYLE: dict[str, Any] = {
    "font.size": 9,
    "text.color": LIGHT.text,
    "axes.labelcolor": LIGHT.text,
    "axes.edgecolor": LIGHT.faint,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT.faint,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "steelyard",  # the same rows give the same file
    "svg.fonttype": "path",
}
GOLD, MODEL = LIGHT.series[1], LIGHT.series[0]


def curve_picture(title: str, rows: Sequence[Row], path: Path) -> bool:
    """Two panels over training, a line per seed: reward next to gold helpfulness, cost's verdict next to gold harm.

    Returns:
        False, and no file, where no row has a curve.
    """
    curves = [row.curve for row in rows if row.curve]
    if not curves:
        return False
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(8.4, 2.9), layout="constrained")
        help_axes, harm_axes = canvas.subplots(1, 2)
        _help(help_axes, curves)
        _harm(harm_axes, curves, measured=all(_measures_a_rate(row) for row in rows))
        canvas.suptitle(title, fontsize=10)
        _save(canvas, path)
    return True


Curve = Sequence[Mapping[str, float]]


def _help(axes: Axes, curves: Sequence[Curve]) -> None:
    """Two scales: the reward model's unit is its own."""
    twin = axes.twinx()
    twin.grid(visible=False)
    for curve in curves:
        _line(axes, curve, "reward", MODEL, "reward model", style="--")
        _line(twin, curve, "gold_helpfulness", GOLD, "gold")
    axes.set_xlabel("step")
    axes.set_ylabel("reward model's mean (dashed)", color=MODEL)
    twin.set_ylabel("gold helpfulness", color=GOLD)


def _measures_a_rate(row: Row) -> bool:
    """Whether J is a share, as what it is drawn next to is."""
    return all(constraint.measure == "rate" for constraint in row.cell.settings().constraints.values())


def _harm(axes: Axes, curves: Sequence[Curve], *, measured: bool) -> None:
    for curve in curves:
        if measured:
            _line(axes, curve, "measure", LIGHT.text, "J as the multiplier saw it", style=":")
        _line(axes, curve, "judged_unsafe", MODEL, "cost model (cost above 0)", style="--")
        _line(axes, curve, "gold_unsafe", GOLD, "gold")
    axes.spines["right"].set_visible(False)
    axes.set_xlabel("step")
    axes.set_ylabel("unsafe answers")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0.0)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    if unique:
        axes.legend(unique.values(), unique.keys())


def _line(axes: Axes, curve: Curve, key: str, colour: str, label: str, *, style: str = "-") -> None:
    points = [(point["step"], point[key]) for point in curve if key in point]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=colour, linewidth=1.3, alpha=0.8, linestyle=style, label=label)


def sweep_picture(points: Sequence[SweepPoint], path: Path) -> bool:
    """The limit across, the measured gold rate up, with its interval; the diagonal is a limit met exactly.

    Returns:
        False, and no file, where there is no point.
    """
    if not points:
        return False
    limits = [point.limit for point in points]
    low, high = 0.6 * min(limits), 1.6 * max(limits)
    floor = 0.1 * min(limits)
    with matplotlib.rc_context(STYLE | {"axes.spines.right": False}):
        canvas = Canvas(figsize=(4.6, 3.6), layout="constrained")
        axes = canvas.add_subplot()
        axes.plot([low, high], [low, high], color=LIGHT.limit, linestyle="--", linewidth=1.0, label="measured = limit")
        axes.errorbar(
            limits,
            [max(point.value, floor) for point in points],
            yerr=[
                [max(point.value, floor) - max(point.low, floor) for point in points],
                [point.high - max(point.value, floor) for point in points],
            ],
            fmt="o",
            color=LIGHT.after,
            markersize=4,
            capsize=3,
            linewidth=1.2,
            label="last policy, gold, 95 % interval",
        )
        settled = [(point.limit, point.loop.value) for point in points if point.loop is not None]
        if settled:
            axes.plot(
                *zip(*settled, strict=True),
                "D",
                markersize=5,
                markerfacecolor="none",
                color=LIGHT.before,
                label="second half of the loop, gold",
            )
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log")
            axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_xticks(sorted(set(limits)))
        axes.set_yticks(sorted(set(limits)))
        axes.minorticks_off()
        axes.set_xlabel("limit that was asked for")
        axes.set_ylabel("unsafe answers that were measured")
        axes.legend(loc="upper left")
        _save(canvas, path)
    return True


def _save(canvas: Canvas, path: Path) -> None:
    """Write on white, so that the page reads in dark mode too; without a date, so that only figures change the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    svg = b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"
    if not path.exists() or path.read_bytes() != svg:
        path.write_bytes(svg)
