"""The sections of an evaluation's page: figures per set, categories, the arena, and what is known of the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from serving.report.blocks.blocks import (
    NOTHING,
    Figure,
    Gallery,
    Note,
    Picture,
    Row,
    Section,
    Table,
    cell_figure,
    plain,
)
from serving.report.blocks.charts import Scheme, picture
from serving.report.by_gold.pictures import short_category

_AXES = {"helpfulness": "Helpfulness", "harmlessness": "Harmlessness"}
_BARS = ("harm", "over_refusal", "refusal")
"""Figures with a picture by category."""


def set_sections(document: Mapping[str, Any]) -> list[Section]:
    """One section per set of prompts."""
    return [_set_section(document, index, name) for index, name in enumerate(document["sets"])]


def _set_section(document: Mapping[str, Any], index: int, name: str) -> Section:
    prompt_set = document["sets"][name]
    sides = (
        f", {prompt_set['safe']} that should be answered and {prompt_set['unsafe']} that should not"
        if prompt_set["safe"] + prompt_set["unsafe"]
        else ""
    )
    lead = f"{prompt_set['prompts']} prompts{sides}. Intervals at {100 * document['confidence']:g} %."
    if len(document["models"]) > 1:
        lead += f" Below a figure its difference from {document['models'][0]['label']} on the same prompts."
    blocks: list[Any] = [_figures(document, name)]
    pictures = [bars for key in _BARS if (bars := _bars(document, name, key)) is not None]
    blocks += [Gallery(tuple(pictures))] if pictures else []
    if prompt_set["categories"]:
        blocks.append(_categories(document, name))
        blocks.append(
            Note(
                "Intervals of categories are each at the stated confidence; those in evaluation.json as low_all and high_all hold "
                "for all of them together. Differences are marked only where they hold after Holm's correction over all categories."
            )
        )
    if prompt_set["harm_categories"]:
        blocks.append(_harm_categories(document, name))
    return Section(f"set-{index}", name, blocks, lead)


def _figures(document: Mapping[str, Any], name: str) -> Table:
    models = [model["label"] for model in document["models"]]
    rows = []
    for key, figure in document["figures"].items():
        cells = []
        for model in models:
            path = f"sets.{name}.all.{model}.{key}.value"
            figures = [cell_figure(document["sets"][name]["all"][model].get(key), share=figure["share"], key=path)]
            change = document["differences"][name]["all"].get(model, {}).get(key)
            if change is not None:
                tone = _mark(change, figure["better"])
                figures.append(cell_figure(change, share=figure["share"], signed=True, mark=tone))
            cells.append(tuple(figures))
        rows.append(Row(figure["title"], tuple(cells)))
    return Table(f"{name}: every figure", "Figure", tuple(models), tuple(rows))


def _mark(change: Mapping[str, Any], better: int, tested: bool | None = True) -> str:
    low, high = change["low"], change["high"]
    if not better or low is None or low <= 0.0 <= high or not tested:
        return ""
    return "better" if (change["value"] > 0) == (better > 0) else "worse"


def _categories(document: Mapping[str, Any], name: str) -> Table:
    models, groups = [model["label"] for model in document["models"]], document["sets"][name]["categories"]
    keys = [
        key for key in document["figures"] if any(key in cells for group in groups.values() for cells in group.values())
    ]
    columns = tuple(f"{document['figures'][key]['title']}: {model}" for key in keys for model in models)
    rows = []
    for category, group in groups.items():
        cells = []
        for key in keys:
            figure = document["figures"][key]
            for model in models:
                change = document["differences"][name]["categories"][category].get(model, {}).get(key)
                tone = "" if change is None else _mark(change, figure["better"], change["different"])
                cells.append((cell_figure(group[model].get(key), share=figure["share"], mark=tone),))
        rows.append(Row(short_category(category), tuple(cells)))
    return Table(f"{name}: by category of the prompt", "Category", columns, tuple(rows), folded=True)


def _harm_categories(document: Mapping[str, Any], name: str) -> Table:
    by_model = document["sets"][name]["harm_categories"]
    names = next(iter(by_model.values()))
    rows = [
        Row(
            short_category(category), tuple((cell_figure(by_model[model][category], share=True),) for model in by_model)
        )
        for category in names
    ]
    return Table(f"{name}: kinds of harm that the judge named", "Kind", tuple(by_model), tuple(rows), folded=True)


def _bars(document: Mapping[str, Any], name: str, key: str) -> Picture | None:
    """A figure by category, the models side by side, with intervals."""
    groups = document["sets"][name]["categories"]
    models = [model["label"] for model in document["models"]]
    names = [category for category in reversed(groups) if any(key in groups[category][model] for model in models)]
    if not names or key not in document["figures"]:
        return None
    title = document["figures"][key]["title"]

    def draw(axes: Axes, scheme: Scheme) -> None:
        thickness = 0.8 / len(models)
        for index, model in enumerate(models):
            rows = [
                (place, groups[category][model][key])
                for place, category in enumerate(names)
                if key in groups[category][model]
            ]
            values = [100 * cell["value"] for _, cell in rows]
            spread = [
                [max(0.0, 100 * (cell["value"] - cell["low"])) for _, cell in rows],
                [max(0.0, 100 * (cell["high"] - cell["value"])) for _, cell in rows],
            ]
            places = [place + 0.4 - thickness * (index + 0.5) for place, _ in rows]
            style = {"ecolor": scheme.text, "elinewidth": 0.8, "capsize": 1.5}
            axes.barh(
                places,
                values,
                thickness,
                xerr=spread,
                color=scheme.series[index % len(scheme.series)],
                label=model,
                error_kw=style,
            )
        axes.set_yticks(range(len(names)), [short_category(category) for category in names])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{title.lower()}, %")
        axes.set_xlim(0, 100)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(3, len(models)))

    def said(category: str) -> str:
        cells = {model: groups[category][model][key] for model in models if key in groups[category][model]}
        return ", ".join(f"{model} {100 * cell['value']:.1f} %" for model, cell in cells.items())

    descriptions = [f"{short_category(category)}: {said(category)}" for category in reversed(names)]
    height = 1.3 + (0.16 + 0.14 * len(models)) * len(names)
    return picture(
        f"{title} by category ({name})",
        "; ".join(descriptions) + ".",
        draw,
        width=7.0,
        height=max(2.2, height),
        wide=True,
    )


def arena_sections(document: Mapping[str, Any]) -> list[Section]:
    """One section per axis; none for a single model."""
    sections = []
    for axis, axis_tables in (document["arena"] or {}).items():
        blocks: list[Any] = []
        for name, tables in axis_tables["sets"].items():
            blocks += _arena_blocks(axis, name, tables)
        lead = (
            f"Which of two answers to the same prompt is better in {axis}. A tie is half a win; win rates have Wilson's interval "
            "over prompts. 400 Elo points are odds of 10 : 1; intervals are a bootstrap over prompts."
        )
        sections.append(Section(f"arena-{axis}", f"Arena: {_AXES[axis].lower()}", blocks, lead))
    return sections


def _arena_blocks(axis: str, name: str, tables: Mapping[str, Any]) -> list[Any]:
    rates = tables["win_rates"]
    rows = [
        Row(blue, tuple((Figure("") if red == blue else cell_figure(row.get(red), share=True),) for red in rates))
        for blue, row in rates.items()
    ]
    blocks: list[Any] = [
        Table(f"{name}: how often the row's model wins against the column's", "Model", tuple(rates), tuple(rows))
    ]
    if tables["elo"] is not None:
        blocks.append(Gallery((_ladder(axis, name, tables["elo"]["ratings"]),)))
    if tables["elo_note"]:
        blocks.append(Note(f"Elo: {tables['elo_note']}.", tone="warning"))
    blocks.append(_counts(name, tables["counts"]))
    if tables["unread"]:
        blocks.append(Note(f"{tables['unread']} comparisons say nothing and are left out.", tone="warning"))
    return blocks


def _ladder(axis: str, name: str, ratings: Sequence[Mapping[str, Any]]) -> Picture:
    def draw(axes: Axes, scheme: Scheme) -> None:
        for place, rating in enumerate(reversed(ratings)):
            low, high = (rating["elo"] if rating[end] is None else rating[end] for end in ("low", "high"))
            axes.plot([low, high], [place, place], color=scheme.faint, linewidth=4, solid_capstyle="round")
            axes.plot(rating["elo"], place, "o", color=scheme.after, markersize=7)
        axes.set_yticks(range(len(ratings)), [rating["name"] for rating in reversed(ratings)])
        axes.set_ylim(-0.6, len(ratings) - 0.4)
        axes.set_xlabel("Elo")

    parts = [
        f"{rating['name']} {rating['elo']:.0f}"
        + ("" if rating["low"] is None else f" ({rating['low']:.0f} to {rating['high']:.0f})")
        for rating in ratings
    ]
    gaps = ", ".join(f"{a['elo'] - b['elo']:.0f}" for a, b in pairwise(ratings))
    return picture(f"Elo, {axis} ({name})", f"{'; '.join(parts)}. Gaps {gaps}.", draw, height=1.1 + 0.4 * len(ratings))


def _counts(name: str, counts: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> Table:
    """Better or worse, safe or unsafe; and of the safe answers of the other model, how many became unsafe."""
    columns = (
        "better, safe",
        "better, unsafe",
        "worse, safe",
        "worse, unsafe",
        "safe → unsafe",
        "unsafe → safe",
        "safe → safe",
        "unsafe → unsafe",
    )
    keys = ("blue_better_and_safe", "blue_better_but_unsafe", "blue_worse_but_safe", "blue_worse_and_unsafe")
    moves = ("red_safe_blue_unsafe", "red_unsafe_blue_safe", "red_safe_blue_safe", "red_unsafe_blue_unsafe")
    rows = []
    for blue, opponents in counts.items():
        for red, pair_counts in opponents.items():
            if pair_counts is not None:
                cells = [(plain(pair_counts[key]),) for key in keys] + [
                    (plain(pair_counts[key]["count"]),) for key in moves
                ]
                rows.append(Row(f"{blue} against {red}", tuple(cells)))
    return Table(
        f"{name}: better or worse, safe or unsafe (a tie is no win)", "Pair", columns, tuple(rows), folded=True
    )


def judge_section(document: Mapping[str, Any]) -> Section:
    """Who judged, and how far that may be trusted."""
    judge = document["judge"]
    blocks: list[Any] = [
        Note(
            f"{judge['about'][:1].upper()}{judge['about'][1:]}. Unsafe: {judge['harm']}. Refusals: {judge['refusal']}."
        )
    ]
    gold = judge.get("agreement_with_gold")
    if gold is not None:
        rows = [Row("what is unsafe", ((cell_figure(gold["safety"], share=True),), (plain(gold["safety_kappa"]),)))]
        rows += [
            Row(f"which is better in {axis}", ((cell_figure(cell, share=True),), (Figure(NOTHING),)))
            for axis, cell in gold["axes"].items()
        ]
        blocks.append(
            Table("Agreement with the sandbox's own scorer", "About", ("same answer", "Cohen's kappa"), tuple(rows))
        )
    blocks += [
        Note(f"{count} replies left out: {fault}.", tone="warning")
        for fault, count in (judge.get("left_out") or {}).items()
    ]
    for axis, axis_tables in (document["arena"] or {}).items():
        first = axis_tables["order_effect"]["first_preferred"]
        if first is not None:
            figure = cell_figure(first, share=True)
            blocks.append(
                Note(
                    f"{_AXES[axis]}: the answer shown first is preferred in {figure.text} {figure.interval} of decided "
                    "comparisons; 50 % is no bias."
                )
            )
    return Section("judge", "The judge", blocks)
