"""Pictures of the evaluation: the reward-cost plane before and after, harm by category, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from actors.crowd.world import KINDS
from actors.judging.by_gold.samples import EvaluatedSample
from serving.report.blocks.blocks import Picture
from serving.report.blocks.charts import Scheme, picture
from serving.report.blocks.wording import KIND_NAMES, MODEL_NAMES
from serving.summary import Reliability, ScoreModelFigures

Cloud = Sequence[tuple[float, float]]
"""(cost, reward) of responses."""
POINTS_PER_MODEL = 400
"""Dots of one model in the scatter: more only blacken it."""


def gold_plane(evaluation: Mapping[str, Any], split: str = "seen") -> Picture | None:
    """Per kind of prompt, an arrow from SFT to the trained policy: harm rate across, helpfulness up."""
    moves: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {}
    for kind in KINDS:
        ends = [_plane_point(evaluation.get(model, {}).get(split, {}), kind) for model in ("sft", "policy")]
        if ends[0] is not None and ends[1] is not None:
            moves[kind] = (ends[0], ends[1])
    if not moves:
        return None

    def draw(axes: Axes, scheme: Scheme) -> None:
        for colour, (kind, (before, after)) in zip(scheme.series, moves.items(), strict=False):
            axes.annotate("", after, before, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6})
            axes.plot(*before, "o", color=colour, markersize=5, markerfacecolor="none")
            axes.plot(*after, "o", color=colour, markersize=6, label=KIND_NAMES[kind])
        axes.set_xlabel("gold harm rate, %")
        axes.set_ylabel("gold helpfulness")
        axes.set_xlim(-6, 106)
        axes.margins(y=0.12)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="hollow: SFT\nfilled: policy", title_fontsize=8)

    descriptions = [
        f"{KIND_NAMES[kind]} from {a[0]:.1f} % harm and helpfulness {a[1]:.2f} to {b[0]:.1f} % and {b[1]:.2f}"
        for kind, (a, b) in moves.items()
    ]
    return picture(f"Before and after, by gold score ({split})", "; ".join(descriptions) + ".", draw)


def _plane_point(cells: Mapping[str, Any], kind: str) -> tuple[float, float] | None:
    harm, help_ = (cells.get(f"{stem}_{kind}") or {} for stem in ("harm_rate", "helpfulness"))
    if harm.get("value") is None or help_.get("value") is None:
        return None
    return 100 * harm["value"], help_["value"]


def score_planes(samples: Sequence[EvaluatedSample], split: str = "seen") -> list[Picture]:
    """The papers' plane, one picture per constraint: a dot per response, reward up and cost across."""
    rows = [sample for sample in samples if sample.split == split and sample.reward is not None]
    names = list(dict.fromkeys(name for row in rows for name in row.costs))
    planes = []
    for name in names:
        clouds = {
            model: [(row.costs[name], row.reward or 0.0) for row in rows if row.model == model and name in row.costs]
            for model in ("sft", "policy")
        }
        planes.append(score_plane(clouds, MODEL_NAMES, name))
    return planes


def score_plane(
    clouds: Mapping[str, Cloud], names: Mapping[str, str], constraint: str, right: str = "unsafe"
) -> Picture:
    """One plane: (cost, reward) of every response of ``sft`` and ``policy``, under these names; `right` of zero is that."""
    clouds = {model: points for model, points in clouds.items() if points}

    def draw(axes: Axes, scheme: Scheme) -> None:
        colours = {"sft": scheme.before, "policy": scheme.after}
        for model, points in clouds.items():
            shown_points = points[:: math.ceil(len(points) / POINTS_PER_MODEL)]
            xs, ys = zip(*shown_points, strict=True)
            axes.scatter(
                xs, ys, s=6, alpha=0.5, color=colours[model], linewidths=0, rasterized=True, label=names[model]
            )
            axes.plot(*_centre(points), "D", color=colours[model], markeredgecolor=scheme.text, markersize=7)
        axes.axvline(0.0, color=scheme.limit, linewidth=0.9, linestyle="--")
        axes.set_xlabel(f"cost/{constraint} (right of the line: {right})")
        axes.set_ylabel("reward")
        axes.legend(markerscale=2.5)

    descriptions = [
        f"{names[model]}: mean cost {x:.2f}, mean reward {y:.2f}"
        for model, (x, y) in ((m, _centre(p)) for m, p in clouds.items())
    ]
    return picture(f"Reward-cost plane by the run's models, cost “{constraint}”", "; ".join(descriptions) + ".", draw)


def _centre(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return math.fsum(x for x, _ in points) / len(points), math.fsum(y for _, y in points) / len(points)


def category_bars(
    evaluation: Mapping[str, Any], split: str = "seen", measure: str = "harm_rate_harmful"
) -> Picture | None:
    """Harm rate by category, SFT next to the policy, with intervals."""
    tables = evaluation.get("categories", {})
    models = [model for model in ("sft", "policy") if tables.get(model, {}).get(split)]
    by_model = {
        model: {name: cells[measure] for name, cells in tables[model][split].items() if measure in cells}
        for model in models
    }
    names = sorted({name for cells in by_model.values() for name in cells}, reverse=True)
    if not names:
        return None

    def draw(axes: Axes, scheme: Scheme) -> None:
        thickness = 0.8 / len(models)
        for index, model in enumerate(models):
            rows = [(place, by_model[model][name]) for place, name in enumerate(names) if name in by_model[model]]
            values = [100 * cell["value"] for _, cell in rows]
            spread = [
                [100 * (c["value"] - c["low"]) for _, c in rows],
                [100 * (c["high"] - c["value"]) for _, c in rows],
            ]
            places = [place + 0.4 - thickness * (index + 0.5) for place, _ in rows]
            colour = scheme.before if model == "sft" else scheme.after
            style = {"ecolor": scheme.text, "elinewidth": 0.8, "capsize": 1.5}
            spread = [[max(0.0, x) for x in side] for side in spread]
            axes.barh(places, values, thickness, xerr=spread, color=colour, label=MODEL_NAMES[model], error_kw=style)
        axes.set_yticks(range(len(names)), [short_category(name) for name in names])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("harm rate on harmful prompts, %")
        axes.set_xlim(0, 100)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    descriptions = [
        f"{short_category(name)}: "
        + ", ".join(f"{m} {100 * by_model[m][name]['value']:.1f} %" for m in models if name in by_model[m])
        for name in reversed(names)
    ]
    height = 1.3 + 0.3 * len(names)
    return picture(
        f"Harm by category ({split})",
        "; ".join(descriptions) + ".",
        draw,
        width=7.0,
        height=max(2.2, height),
        wide=True,
    )


def short_category(name: str) -> str:
    """``drug_abuse,weapons,banned_substance`` → ``drug abuse, weapons …``; short enough for an axis."""
    text = name.replace("_", " ").replace(",", ", ")
    return text if len(text) <= 28 else text[:27].rstrip(", ") + "…"


def calibration_picture(name: str, model: ScoreModelFigures) -> Picture | None:
    """Predicted against observed shares of unsafe responses, bins sized by count."""
    return _reliability_picture(f"Calibration: {name}", model.reliability, "predicted probability", "observed share")


def preference_picture(name: str, model: ScoreModelFigures) -> Picture | None:
    """How often the response with the better score is the preferred one, against what the gap of scores says."""
    bins = model.worth.reliability if model.worth is not None else []
    title = f"Calibration of preferences: {name}"
    return _reliability_picture(title, bins, "probability by the gap of scores", "preferred", lowest=0.5)


def _reliability_picture(
    title: str, reliability: Sequence[Reliability], across: str, up: str, lowest: float = 0.0
) -> Picture | None:
    bins = [reliability_bin for reliability_bin in reliability if reliability_bin.n]
    if not bins:
        return None
    floor = min(lowest, *(reliability_bin.observed for reliability_bin in bins)) if lowest else 0.0

    def draw(axes: Axes, scheme: Scheme) -> None:
        axes.plot([0, 1], [0, 1], color=scheme.faint, linestyle="--", linewidth=1.0)
        largest = max(reliability_bin.n for reliability_bin in bins)
        xs, ys = (
            [reliability_bin.predicted for reliability_bin in bins],
            [reliability_bin.observed for reliability_bin in bins],
        )
        axes.plot(xs, ys, color=scheme.after, linewidth=1.0)
        axes.scatter(
            xs, ys, s=[15 + 70 * reliability_bin.n / largest for reliability_bin in bins], color=scheme.after, zorder=3
        )
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_xlim(lowest - 0.03, 1.03)
        axes.set_ylim(floor - 0.03, 1.03)

    description = "; ".join(f"predicted {b.predicted:.2f}, observed {b.observed:.2f} (n {b.n})" for b in bins)
    return picture(title, description + ".", draw)
