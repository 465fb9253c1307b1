"""Curves of the loop, from the lines of metrics.jsonl.

Keys: ``step``, ``reward``, ``kl``, ``entropy``, ``response_length``, ``seconds``; per constraint ``cost/<name>``,
``measure/<name>``, ``limit/<name>``, ``violation_rate/<name>``, ``multiplier/<name>``; ``phase_seconds/<phase>``.
A key that is not there leaves its chart out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from serving.report.blocks.blocks import Picture
from serving.report.blocks.charts import Scheme, picture, trend

Steps = Sequence[Mapping[str, Any]]
Points = tuple[list[float], list[float]]


def curve_pictures(steps: Steps, labelled: Collection[str] | None = None) -> list[Picture]:
    """Every curve that the lines have values for.

    Args:
        labelled: constraints whose cost was trained on safety labels; only there is above 0 called unsafe. None: all.
    """
    names = _names(steps, "cost")
    above = "unsafe" if labelled is None or set(names) <= set(labelled) else "above the cost's zero"
    pictures = [
        _lines("Reward", {"reward": _points(steps, "reward")}, "mean reward of the batch"),
        _lines("Cost", _family(steps, "cost"), f"mean raw cost (above 0: {above})", zero=True),
        *(_measure(steps, name, unsafe=labelled is None or name in labelled) for name in _names(steps, "measure")),
        _lines("Multiplier", _family(steps, "multiplier"), "λ"),
        _lines("Distance from the reference", {"KL": _points(steps, "kl")}, "KL per response, nats"),
        _lines("Length", {"tokens": _points(steps, "response_length")}, "mean tokens per response"),
        _lines("Entropy", {"entropy": _points(steps, "entropy")}, "nats per token"),
        _phases(steps),
    ]
    return [curve for curve in pictures if curve is not None]


def _points(steps: Steps, key: str) -> Points:
    points = [(float(line["step"]), float(line[key])) for line in steps if isinstance(line.get(key), int | float)]
    return [x for x, _ in points], [y for _, y in points]


def _names(steps: Steps, stem: str) -> list[str]:
    prefix = f"{stem}/"
    return list(dict.fromkeys(key.removeprefix(prefix) for line in steps for key in line if key.startswith(prefix)))


def _family(steps: Steps, stem: str) -> dict[str, Points]:
    return {name: _points(steps, f"{stem}/{name}") for name in _names(steps, stem)}


def _lines(title: str, series: Mapping[str, Points], unit: str, *, zero: bool = False) -> Picture | None:
    series = {name: points for name, points in series.items() if points[0]}
    if not series:
        return None

    def draw(axes: Axes, scheme: Scheme) -> None:
        for colour, (name, (x, y)) in zip(scheme.series * 4, series.items(), strict=False):
            axes.plot(x, y, color=colour, linewidth=1.6, label=name, marker="o" if len(x) < 2 else None)
        if zero:
            axes.axhline(0.0, color=scheme.limit, linewidth=0.9, linestyle="--")
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        if len(series) > 1:
            axes.legend()

    return picture(title, "; ".join(trend(name, *points) for name, points in series.items()) + f". Unit: {unit}.", draw)


def _measure(steps: Steps, name: str, *, unsafe: bool) -> Picture | None:
    measure, limit = _points(steps, f"measure/{name}"), _points(steps, f"limit/{name}")
    over = _points(steps, f"violation_rate/{name}")
    share = "share unsafe by {}cost model" if unsafe else "share above {}cost's zero"
    if not measure[0]:
        return None

    def draw(axes: Axes, scheme: Scheme) -> None:
        axes.plot(*measure, color=scheme.after, linewidth=1.8, label="measure (window)")
        if over[0]:
            axes.plot(*over, color=scheme.before, linewidth=1.0, label=share.format(""))
        if limit[0]:
            axes.plot(*limit, color=scheme.limit, linewidth=1.2, linestyle="--", label="limit")
        axes.set_xlabel("step")
        axes.set_ylabel("measure")
        axes.legend()

    descriptions = [trend("measure", *measure)]
    if limit[0]:
        descriptions.append(f"limit {limit[1][-1]:.3g}")
    if over[0]:
        descriptions.append(trend(share.format("the "), *over))
    return picture(f"Constraint “{name}” against its limit", "; ".join(descriptions) + ".", draw)


def _phases(steps: Steps) -> Picture | None:
    names = _names(steps, "phase_seconds")
    if not names or not steps:
        return None
    x = [float(line["step"]) for line in steps]
    rows = [[float(line.get(f"phase_seconds/{name}", 0.0)) for line in steps] for name in names]

    def draw(axes: Axes, scheme: Scheme) -> None:
        if len(x) > 1:
            colours = (scheme.series * (1 + len(names) // len(scheme.series)))[: len(names)]
            axes.stackplot(x, *rows, labels=names, colors=colours, alpha=0.85, linewidth=0)
        else:
            axes.bar(names, [row[0] for row in rows], color=scheme.after)
        axes.set_xlabel("step")
        axes.set_ylabel("seconds")
        if len(x) > 1:
            axes.set_ylim(0, 1.35 * max(map(sum, zip(*rows, strict=True))))
            axes.legend(ncols=3, loc="upper left")

    means = ", ".join(f"{name} {sum(row) / len(row):.2f}" for name, row in zip(names, rows, strict=True))
    return picture("Seconds per step", f"Mean seconds per step by phase: {means}.", draw)
