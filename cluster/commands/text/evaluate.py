"""An evaluation on a terminal: a table of figures per set, what differs by category, and the arena."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

AXIS_NAMES = {"helpfulness": "more helpful", "harmlessness": "more harmless"}


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print it; what models or people wrote is never read as markup."""
    console.print(Text(document["verdict"], style="bold"))
    for note in document["notes"]:
        console.print(Text(f"note: {note}", style="yellow"))
    for name, axis_tables in document["sets"].items():
        console.print(_figures(document, name, axis_tables))
        _categories(document, name, console)
    for axis, axis_tables in (document["arena"] or {}).items():
        for name, tables in axis_tables["sets"].items():
            console.print(_win_rates(axis, name, tables))
            _elo(tables, console)
        _bias(axis_tables["order_effect"], console)
    _judge(document["judge"], console)


def cell_text(cell: Mapping[str, Any] | None, *, share: bool, signed: bool = False) -> str:
    """``3.2 % [1.0, 5.1]``; a dash where there is nothing."""
    if cell is None or cell.get("value") is None:
        return "–"
    scale, digits, plus = (100.0, 1, "+" if signed else "") if share else (1.0, 2, "+" if signed else "")
    unit = (" pts" if signed else " %") if share else ""
    spread = (
        ""
        if cell["low"] is None
        else f" [{scale * cell['low']:{plus}.{digits}f}, {scale * cell['high']:{plus}.{digits}f}]"
    )
    return f"{scale * cell['value']:{plus}.{digits}f}{unit}{spread}"


def _figures(document: Mapping[str, Any], name: str, prompt_set: Mapping[str, Any]) -> Table:
    models = [model["label"] for model in document["models"]]
    sides = (
        f", {prompt_set['safe']} safe and {prompt_set['unsafe']} unsafe"
        if prompt_set["safe"] + prompt_set["unsafe"]
        else ""
    )
    table = Table(title=Text(f"{name}: {prompt_set['prompts']} prompts{sides}"), title_justify="left")
    table.add_column("")
    for index, model in enumerate(models):
        table.add_column(Text(model), justify="right")
        if index:
            table.add_column(Text(f"less {models[0]}"), justify="right")
    for key, figure in document["figures"].items():
        row = [Text(figure["title"])]
        for index, model in enumerate(models):
            row.append(Text(cell_text(prompt_set["all"][model].get(key), share=figure["share"])))
            if index:
                change = document["differences"][name]["all"][model].get(key)
                style = _tone(change, figure["better"])
                row.append(Text(cell_text(change, share=figure["share"], signed=True), style=style))
        table.add_row(*row)
    return table


def _tone(change: Mapping[str, Any] | None, better: int) -> str:
    if change is None or change["low"] is None or change["low"] <= 0.0 <= change["high"] or not better:
        return ""
    return "green" if (change["value"] > 0) == (better > 0) else "red"


def _categories(document: Mapping[str, Any], name: str, console: Console) -> None:
    """One line per category and figure that differs, after Holm; the rest is in the report."""
    groups = document["differences"][name]["categories"]
    tested = 0
    for category, models in groups.items():
        for model, cells in models.items():
            for key, cell in cells.items():
                tested += cell["p_adjusted"] is not None
                if cell["different"]:
                    figure = document["figures"][key]
                    change = cell_text(cell, share=figure["share"], signed=True)
                    console.print(
                        Text(f"  {category}: {model} {figure['title'].lower()} {change}, p {cell['p_adjusted']:.2g}")
                    )
    if tested:
        console.print(
            Text(f"  {len(groups)} categories, {tested} differences tested; those above hold after Holm", style="dim")
        )


def _win_rates(axis: str, name: str, tables: Mapping[str, Any]) -> Table:
    rates = tables["win_rates"]
    table = Table(title=Text(f"{name}: the row's answer is {AXIS_NAMES[axis]} than the column's"), title_justify="left")
    table.add_column("")
    for model in rates:
        table.add_column(Text(model), justify="right")
    for blue, row in rates.items():
        table.add_row(Text(blue), *(Text("" if red == blue else cell_text(row.get(red), share=True)) for red in rates))
    return table


def _elo(tables: Mapping[str, Any], console: Console) -> None:
    if tables["elo"] is not None:
        parts = [
            f"{rating['name']} {rating['elo']:.0f}"
            + ("" if rating["low"] is None else f" [{rating['low']:.0f}, {rating['high']:.0f}]")
            for rating in tables["elo"]["ratings"]
        ]
        console.print(Text(f"  Elo: {', '.join(parts)}"))
    if tables["elo_note"]:
        console.print(Text(f"  {tables['elo_note']}", style="yellow"))
    if tables["unread"]:
        console.print(Text(f"  {tables['unread']} comparisons say nothing and are left out", style="yellow"))


def _bias(effect: Mapping[str, Any], console: Console) -> None:
    if effect["first_preferred"] is not None:
        console.print(
            Text(
                f"  the judge prefers what it is shown first in {cell_text(effect['first_preferred'], share=True)}",
                style="dim",
            )
        )


def _judge(judge: Mapping[str, Any], console: Console) -> None:
    console.print(Text(f"judge: {judge['about']}; refusals: {judge['refusal']}", style="dim"))
    for fault, count in (judge.get("left_out") or {}).items():
        console.print(Text(f"  {count} replies left out: {fault}", style="yellow"))
    gold = judge.get("agreement_with_gold")
    if gold and gold["safety"] is not None:
        kappa = "" if gold["safety_kappa"] is None else f", kappa {gold['safety_kappa']:.2f}"
        console.print(Text(f"  agrees with gold on what is unsafe in {cell_text(gold['safety'], share=True)}{kappa}"))
