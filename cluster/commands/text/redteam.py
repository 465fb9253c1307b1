"""The red team's result in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.commands.text.cells import cell_text

NAMES = {"all": "all strategies"}


def show_result(document: Mapping[str, Any], console: Console) -> None:
    """Print success per strategy and model, what differs, and what the automatic red team got. Names come from files: no markup."""
    console.print(_strategies(document))
    if document["differences"]:
        console.print(_differences(document))
    console.print(Text(f"Success by {document['labels_meaning']}.", style="dim"))
    if document["searches"]:
        console.print(_searches(document))
    for note in document["notes"]:
        console.print(Text(f"note: {note}", style="yellow"))
    for model, count in document["missing"].items():
        if count:
            console.print(
                Text(
                    f"{model}: {count} conversations have an answer that could not be drawn or scored; they are in no figure",
                    style="yellow",
                )
            )


def _strategies(document: Mapping[str, Any]) -> Table:
    models, samples = document["models"], document["samples"]
    table = Table(title=f"attack success, suite {document['suite']['name']}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column(f"each attack {samples} times,\nbelow: any of {samples}")
    for model in models:
        table.add_column(Text(model), justify="right")
    cells = document["cells"]
    for group, name in _places(cells[models[0]]):
        row = [Text(_cells(cells[model].get(group, {}).get(name))) for model in models]
        table.add_row(Text(NAMES.get(name, name.replace("_", " "))), *row, end_section=True)
    return table


def _differences(document: Mapping[str, Any]) -> Table:
    """Every two models, the later less the earlier."""
    pairs = [(later, earlier) for later, differences in document["differences"].items() for earlier in differences]
    table = Table(title="differences, paired by task; p by Holm", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for later, earlier in pairs:
        table.add_column(Text(f"{later}\nless {earlier}"), justify="right")
    for group, name in _places(document["cells"][document["models"][0]]):
        row = [
            Text(_difference(document["differences"][later][earlier].get(group, {}).get(name)))
            for later, earlier in pairs
        ]
        table.add_row(Text(NAMES.get(name, name.replace("_", " "))), *row, end_section=True)
    return table


def _places(cells: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [*(("strategy", name) for name in cells["strategy"]), ("all", "all")]


def _cells(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    worst = cell["worst_of_n"]["value"]
    return f"{cell_text(cell['success'], share=True)}\n" + ("–" if worst is None else f"{100 * worst:.1f} %")


def _difference(cell: Mapping[str, Any] | None) -> str:
    """``−41.2 pts`` over its interval and Holm's p."""
    if cell is None or cell["value"] is None:
        return "–"
    lines = [f"{100 * cell['value']:+.1f} pts"]
    if cell["low"] is not None:
        lines.append(f"[{100 * cell['low']:+.1f}, {100 * cell['high']:+.1f}]")
    if cell["p_holm"] is not None:
        lines.append("p < 0.001" if cell["p_holm"] < 0.001 else f"p {cell['p_holm']:.3f}")
    return "\n".join(lines)


def _searches(document: Mapping[str, Any]) -> Table:
    table = Table(title="automatic red team", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("model", "search"):
        table.add_column(heading, overflow="fold")
    for heading in (
        "tried",
        "succeeded\nwhile trying",
        "kept",
        "kept, tried again:\nsuccess",
        "mean cost\nchosen by, again",
    ):
        table.add_column(heading, justify="right")
    for model, searches in document["searches"].items():
        for name, search in searches.items():
            again = search["retests"]
            table.add_row(
                Text(model),
                name,
                f"{search['tried']:,}",
                f"{100 * search['tried_success']:.1f} %",
                f"{search['kept']}",
                Text(cell_text(again["success"], share=True)),
                f"{search['chosen_by_cost']:+.2f}\n{again['mean_cost']:+.2f}",
            )
    return table
