"""The red team's figures as sections of a report, and a page of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from actors.redteam.labels import OUTCOMES
from actors.redteam.records import Row as Attacked
from serving.report.blocks.blocks import (
    Figure,
    Gallery,
    Listing,
    Note,
    Page,
    Picture,
    Row,
    Section,
    Table,
    cell_figure,
    plain,
)
from serving.report.blocks.charts import Scheme, picture
from serving.report.blocks.wording import OUTCOME_NAMES
from serving.report.run.page import write_page

SHOWN = 24
"""Conversations on the page, of those that got something harmful."""
GROUP_NAMES = {
    "category": "Success by category",
    "form": "Success by form",
    "form_split": "Success by split of the form (new: no model has met it)",
    "task_split": "Success by split of the task",
    "kind": "Success by kind of task",
}


def redteam_sections(document: Mapping[str, Any]) -> list[Section]:
    """Sections of ``redteam.json``, for a page of its own or a run's report."""
    sections = [_strategies(document), _outcomes(document), _groups(document)]
    if document["searches"]:
        sections.append(_searches(document))
    return sections


def redteam_verdict(document: Mapping[str, Any]) -> str:
    """One sentence: how often attacks succeed against each model, and by which strategy most often."""
    parts = []
    for model in document["models"]:
        cells = document["cells"][model]
        value = cells["all"]["all"]["success"]["value"]
        worst, worst_cell = max(cells["strategy"].items(), key=lambda item: item[1]["success"]["value"])
        share = worst_cell["success"]["value"]
        by_strategy = f", most often by {worst.replace('_', ' ')} ({100 * share:.1f} %)" if share else ""
        parts.append(f"{model}: {100 * value:.1f} % of attacks succeed{by_strategy}")
    return "; ".join(parts)


def write_redteam_page(document: Mapping[str, Any], rows: Sequence[Attacked], path: Path) -> Path:
    """Write the page of one red team; returns its path.

    Raises:
        DataError: it cannot be written.
    """
    sections = [*redteam_sections(document), _conversations(rows), _settings(document)]
    suite = document["suite"]
    subtitle = (
        f"Suite {suite['name']}: {suite['forms']} forms on {suite['targets']} requests, each {document['samples']} times, judged by "
        f"{document['labels_meaning']}."
    )
    verdict = redteam_verdict(document).replace(" %", "\u00a0%")
    return write_page(Page("Steelyard: red team", verdict, "open", subtitle, (), sections), path)


def _strategies(document: Mapping[str, Any]) -> Section:
    models = document["models"]
    lead = (
        f"Share of conversations that got something harmful, by the worst turn, with its {100 * document['confidence']:g} % interval: "
        f"Wilson's with the effective sample size, since samples of one task are alike. “Any of {document['samples']}” is the share "
        "of attacks that worked at least once. Differences are paired by task; p is Holm's over every difference tested here, and "
        "a difference is marked where it holds by that p."
    )
    blocks: list[Any] = [_table(document, "strategy", "Success by strategy"), *_difference_tables(document, "strategy")]
    if (bars := _bars(document)) is not None:
        blocks.append(Gallery((bars,)))
    for model in models:
        if count := document["missing"].get(model):
            text = f"{model}: {count} conversations have an answer that could not be drawn or scored; they are in no figure."
            blocks.append(Note(text, tone="warning"))
    blocks += [Note(f"{note}.", tone="warning") for note in document.get("notes", ())]
    if document["labels"] != "gold":
        blocks.append(Note(f"No one knows the truth here. Judged by {document['labels_meaning']}.", tone="warning"))
    return Section("redteam", "Attacks and how often they succeed", blocks, lead)


def _table(document: Mapping[str, Any], group: str, caption: str, *, folded: bool = False) -> Table:
    models, samples = document["models"], document["samples"]
    cells = document["cells"]
    columns = [column for model in models for column in (model, f"{model}, any of {samples}")]
    rows = []
    for of, name in _places(document, group):
        figures: list[tuple[Figure, ...]] = []
        for model in models:
            cell = cells[model].get(of, {}).get(name, {})
            key = f"redteam.cells.{model}.{of}.{name}"
            figures.append((cell_figure(cell.get("success"), share=True, key=f"{key}.success"),))
            figures.append((cell_figure(cell.get("worst_of_n"), share=True, key=f"{key}.worst_of_n"),))
        rows.append(Row(_row_name(of, name), tuple(figures)))
    return Table(caption, group.replace("_", " ").capitalize(), tuple(columns), tuple(rows), folded=folded)


def _difference_tables(document: Mapping[str, Any], group: str) -> list[Table]:
    """Every two models' difference, a column each; none of one model alone."""
    pairs = [(later, earlier) for later, differences in document["differences"].items() for earlier in differences]
    if not pairs:
        return []
    rows = tuple(
        Row(
            _row_name(of, name),
            tuple(
                _difference(document["differences"][later][earlier].get(of, {}).get(name), document["confidence"])
                for later, earlier in pairs
            ),
        )
        for of, name in _places(document, group)
    )
    columns = tuple(f"{later} less {earlier}" for later, earlier in pairs)
    return [
        Table(f"Differences by {group}, paired by task", group.capitalize(), columns, rows, folded=group != "strategy")
    ]


def _places(document: Mapping[str, Any], group: str) -> list[tuple[str, str]]:
    cells = document["cells"]
    names = dict.fromkeys(name for model in document["models"] for name in cells[model].get(group, {}))
    return [*((group, name) for name in names), *([("all", "all")] if group == "strategy" else [])]


def _row_name(group: str, name: str) -> str:
    return "all strategies" if group == "all" else name.replace("_", " ")


def _difference(cell: Mapping[str, Any] | None, confidence: float) -> tuple[Figure, ...]:
    if cell is None:
        return (Figure("–"),)
    p = cell["p_holm"]
    significant = (
        p is not None and p <= 1.0 - confidence
    )  # the interval is of this difference alone, whatever else was tested
    mark = "" if not significant else "better" if cell["value"] < 0 else "worse"
    figure = cell_figure(cell, share=True, signed=True, mark=mark)
    return (figure,) if p is None else (figure, Figure("p < 0.001" if p < 0.001 else f"p {p:.3f}"))


def _outcomes(document: Mapping[str, Any]) -> Section:
    tables = []
    for model in document["models"]:
        rows = tuple(
            Row(
                "all strategies" if name == "all" else name.replace("_", " "),
                tuple((cell_figure(shares[outcome], share=True),) for outcome in OUTCOMES),
            )
            for name, shares in document["outcomes"][model].items()
        )
        columns = tuple(OUTCOME_NAMES[outcome] for outcome in OUTCOMES)
        tables.append(Table(f"How conversations end: {model}", "Strategy", columns, rows))
    lead = "Partial: the answer declines and yet gives something harmful. Partial and harmful count as a success of the attack."
    return Section("redteam-outcomes", "Outcomes", tables, lead)


def _groups(document: Mapping[str, Any]) -> Section:
    first_cells = document["cells"][document["models"][0]]
    tables: list[Table] = []
    for group, caption in GROUP_NAMES.items():
        if group == "category" or len(first_cells.get(group, {})) > 1:
            tables.append(_table(document, group, caption, folded=group == "form"))
        if group == "category":
            tables += _difference_tables(document, group)
    return Section("redteam-groups", "By category, form and split", tables)


def _searches(document: Mapping[str, Any]) -> Section:
    rows, pictures = [], []
    for model, searches in document["searches"].items():
        for name, search in searches.items():
            again = search["retests"]
            cells = (
                (plain(search["tried"]),),
                (Figure(f"{100 * search['tried_success']:.1f}\u00a0%", value=search["tried_success"]),),
                (plain(search["tried_cost"]),),
                (plain(search["kept"]),),
                (plain(search["chosen_by_cost"]),),
                (plain(again["mean_cost"]),),
                (cell_figure(again["success"], share=True),),
                (cell_figure(again["worst_of_n"], share=True),),
            )
            rows.append(Row(f"{model}, {name.replace('_', ' ')}", cells))
            if search["curve"]:
                pictures.append(_curve(f"{model}: the attacker learns", search["curve"]))
    columns = (
        "Tried",
        "Succeeded",
        "Mean cost",
        "Kept",
        "Cost they were chosen by",
        "Cost, tried again",
        "Success, tried again",
        f"Any of {document['samples']}, tried again",
    )
    lead = (
        "Attacks that were looked for, by the highest cost. What was kept for its cost was partly lucky, so it was tried again with "
        "fresh samples, and only those count. While best of n tries, it draws at random: its “succeeded” is what chance gets."
    )
    blocks: list[Any] = [Table("Automatic red team", "Model and search", columns, tuple(rows))]
    return Section(
        "redteam-auto", "Automatic red team", [*blocks, Gallery(tuple(pictures))] if pictures else blocks, lead
    )


def _bars(document: Mapping[str, Any]) -> Picture | None:
    """Success per strategy with intervals, a colour per model."""
    cells, models = document["cells"], document["models"]
    names = list(cells[models[0]]["strategy"])
    if not names:
        return None

    def draw(axes: Axes, scheme: Scheme) -> None:
        height = 0.8 / len(models)
        for index, model in enumerate(models):
            successes = [cells[model]["strategy"].get(name, {}).get("success") for name in names]
            for place, cell in enumerate(successes):
                if cell is None or cell["value"] is None:
                    continue
                y = place + (index - (len(models) - 1) / 2) * height
                colour, value = scheme.series[index % len(scheme.series)], 100 * cell["value"]
                axes.barh(y, value, height * 0.9, color=colour, label=model if place == 0 else None)
                spread = [[value - 100 * cell["low"]], [100 * cell["high"] - value]]
                axes.errorbar(value, y, xerr=spread, color=scheme.text, linewidth=1, capsize=2)
        axes.set_yticks(range(len(names)), [name.replace("_", "\n", 1).replace("_", " ") for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("conversations that got something harmful, %")
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=2)

    descriptions = []
    for name in names:
        shares = [
            (model, cells[model]["strategy"][name]["success"]["value"])
            for model in models
            if name in cells[model]["strategy"]
        ]
        descriptions.append(
            f"{name.replace('_', ' ')}: " + ", ".join(f"{model} {100 * share:.1f} %" for model, share in shares)
        )
    return picture("Success by strategy", "; ".join(descriptions) + ".", draw, height=2.9 + 0.15 * len(models))


def _curve(title: str, curve: Sequence[Mapping[str, float]]) -> Picture:
    def draw(axes: Axes, scheme: Scheme) -> None:
        steps = [line["step"] for line in curve]
        axes.plot(steps, [line["cost"] for line in curve], color=scheme.after)
        axes.axhline(0, color=scheme.limit, linewidth=1, linestyle="--")
        axes.set_xlabel("step of the attacker")
        axes.set_ylabel("mean cost of the answers")

    description = f"Mean cost from {curve[0]['cost']:.2f} at step 1 to {curve[-1]['cost']:.2f} at step {len(curve)}."
    return picture(title, description, draw)


def _conversations(rows: Sequence[Attacked]) -> Section:
    """Conversations that got something harmful, in turn from every model, search and strategy; the costliest of each first."""
    strata: dict[tuple[str, str, str], list[Attacked]] = {}
    for row in rows:
        if row.success:
            strata.setdefault((row.model, row.search, row.strategy), []).append(row)
    for stratum in strata.values():
        stratum.sort(key=lambda row: (-(row.cost if row.cost is not None else row.harm), row.attack, row.sample))
    in_turn: list[Attacked] = []
    for depth in range(max(map(len, strata.values()), default=0)):
        in_turn += [stratum[depth] for stratum in strata.values() if depth < len(stratum)]
    blocks: list[Any] = [Listing(_headline(row), _text(row)) for row in in_turn[:SHOWN]]
    title = "Conversations that got something harmful"
    return Section("redteam-conversations", title, blocks or [Note("No attack got anything harmful.", tone="good")])


def _headline(row: Attacked) -> str:
    search = "" if row.search == "suite" else f", {row.search.replace('_', ' ')}"
    return f"{row.model}{search}: {row.strategy.replace('_', ' ')}, {row.attack}: {OUTCOME_NAMES[row.outcome]}"


def _text(row: Attacked) -> str:
    cut = "" if row.finished else " [cut]"
    turns = [f"{turn['role']}: {turn['content']}" for turn in row.messages]
    cost = "" if row.cost is None else f"\n\ncost {row.cost:+.2f}"
    return "\n".join([*turns, f"assistant: {row.response or '(nothing)'}{cut}"]) + cost


def _settings(document: Mapping[str, Any]) -> Section:
    names = ("labels_meaning", "scorer", "samples", "temperature", "max_response_tokens", "seed", "confidence")
    rows = [Row(name.replace("_", " "), ((plain(document[name], 3),),)) for name in names]
    rows.append(Row("digest of the suite", ((Figure(document["suite"]["digest"]),),)))
    rows += [Row(f"digest of {model}", ((Figure(value),),)) for model, value in document["digests"].items()]
    return Section(
        "redteam-settings",
        "Settings and provenance",
        [Table("What was asked, and of whom", "What", ("Value",), tuple(rows))],
    )
