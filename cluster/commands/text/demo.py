"""The demo's result in the terminal: SFT against the trained policy, the verdict, seconds per stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.commands.text.cells import cell_text

SPLITS = {"seen": "seen", "heldout_tasks": "held-out tasks", "heldout_forms": "held-out forms"}
MODELS = {"sft": "SFT", "policy": "trained"}
COLUMNS = {
    "harm_rate_harmful": ("harm rate\non harmful", True),
    "helpfulness_benign": ("helpfulness\nbenign", False),
    "helpfulness_lookalike": ("helpfulness\nlook-alike", False),
    "refusal_benign": ("bare refusals\non benign", True),
}
"""Metric → heading, and whether it is a share (printed in per cent)."""


def print_result(summary: Mapping[str, Any], console: Console) -> None:
    """Print the table of a finished run from its ``summary.json``, its verdict, and where the time went."""
    console.print(result_table(summary))
    verdict = summary.get("verdict")
    if verdict:
        console.print(f"Verdict: {verdict}", style="bold", markup=False, highlight=False, soft_wrap=True)
    seconds = summary.get("seconds") or {}
    stages = " · ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if name != "total")
    if stages:
        total = f" — {seconds['total'] / 60:.1f} minutes in all" if "total" in seconds else ""
        console.print(f"Time: {stages}{total}", highlight=False, soft_wrap=True)


def result_table(summary: Mapping[str, Any]) -> Table:
    """Each cell is the value with its interval below, so that the table fits 80 columns."""
    table = Table(title=str(summary.get("run") or summary.get("name") or ""), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("by gold score")
    for heading, _ in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    evaluation = summary.get("evaluation") or {}
    for split, title in SPLITS.items():
        for model, label in MODELS.items():
            cells = (evaluation.get(model) or {}).get(split) or {}
            row = [cell_text(cells.get(metric), share=share) for metric, (_, share) in COLUMNS.items()]
            table.add_row(f"{title}\n  {label}", *map(Text, row), end_section=model == "policy")
    return table
