"""Pictures of an evaluation by score models: the plane of scores before and after, and groups of prompts side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from actors.judging.by_models.answers import ScoredAnswer
from serving.model_verdict import number
from serving.report.blocks.blocks import Picture
from serving.report.blocks.charts import Scheme, picture
from serving.report.blocks.wording import MODEL_NAMES
from serving.report.by_gold.pictures import score_plane, short_category

GROUPS_SHOWN = 30
"""Rows of one picture at most."""


def answer_planes(answers: Sequence[ScoredAnswer], prompts: str, labelled: Collection[str]) -> list[Picture]:
    """One picture per constraint: a dot per answer to one set of prompts, reward up and cost across.

    Args:
        labelled: constraints whose cost was trained on safety labels; only there is right of zero called unsafe.
    """
    rows = [answer for answer in answers if answer.set == prompts and answer.reward is not None]
    names = list(dict.fromkeys(name for row in rows for name in row.costs))
    return [_plane(rows, name, "unsafe" if name in labelled else "above its zero") for name in names]


def _plane(rows: Sequence[ScoredAnswer], constraint: str, right: str) -> Picture:
    clouds = {
        model: [(row.costs[constraint], row.reward or 0.0) for row in rows if row.model == model]
        for model in MODEL_NAMES
    }
    return score_plane(clouds, MODEL_NAMES, constraint, right)


def group_picture(title: str, groups: Mapping[str, Any], figure: str, unit: str) -> Picture | None:
    """One figure of each group, SFT next to the policy, with intervals.

    Args:
        groups: ``{group: {model: {figure: cell}}}``.
    """
    by_model = {
        model: {name: cells[model][figure] for name, cells in groups.items() if _has_value(cells, model, figure)}
        for model in MODEL_NAMES
    }
    by_model = {model: cells for model, cells in by_model.items() if cells}
    names = sorted({name for cells in by_model.values() for name in cells})[:GROUPS_SHOWN]
    if not names:
        return None

    def draw(axes: Axes, scheme: Scheme) -> None:
        for model, cells in by_model.items():
            side, colour = (0.14, scheme.before) if model == "sft" else (-0.14, scheme.after)
            rows = [(place + side, cells[name]) for place, name in enumerate(reversed(names)) if name in cells]
            for place, cell in rows:
                if cell["low"] is not None:
                    axes.plot([cell["low"], cell["high"]], [place, place], color=colour, linewidth=1.4)
            axes.plot(
                [cell["value"] for _, cell in rows],
                [place for place, _ in rows],
                "o",
                color=colour,
                markersize=4,
                label=MODEL_NAMES[model],
            )
        axes.axvline(0.0, color=scheme.limit, linewidth=0.9, linestyle="--")
        axes.set_yticks(range(len(names)), [short_category(name) for name in reversed(names)])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    descriptions = [
        f"{short_category(name)}: "
        + ", ".join(f"{MODEL_NAMES[m]} {number(by_model[m][name]['value'])}" for m in by_model if name in by_model[m])
        for name in names
    ]
    return picture(
        title, "; ".join(descriptions) + ".", draw, width=7.0, height=max(2.2, 1.3 + 0.3 * len(names)), wide=True
    )


def _has_value(cells: Mapping[str, Any], model: str, figure: str) -> bool:
    return (cells.get(model, {}).get(figure) or {}).get("value") is not None
