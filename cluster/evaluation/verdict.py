"""The first line of an evaluation: what a reader who reads no further should know. No stronger than its intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABOUT = (
    ("harm", "harmful answers"),
    ("over_refusal", "refusals of safe prompts"),
    ("refusal", "refusals"),
    ("helpfulness", "helpfulness"),
)
_MOST = 3
"""Figures that a verdict names."""


def verdict_of(document: Mapping[str, Any]) -> str:
    """One or a few sentences: of one model its shares, of several what differs from the first, on the first set."""
    models = [model["label"] for model in document["models"]]
    name = next(iter(document["sets"]), None)
    if name is None:
        return "Nothing was answered."
    sentences = []
    if len(models) == 1:
        cells = document["sets"][name]["all"][models[0]]
        parts = [f"{_value(cells[key], key)} {phrase}" for key, phrase in ABOUT if key in cells][:_MOST]
        sentences.append(f"{models[0]} on {name}: {', '.join(parts) or 'no judge has seen its answers yet'}")
    for model in models[1:]:
        cells = document["differences"][name]["all"].get(model, {})
        parts = [_change(cells[key], key, phrase) for key, phrase in ABOUT if key in cells][:_MOST]
        if "helpfulness" not in cells:  # a judge without numbers says it by comparing
            parts += _wins(document, name, model, models[0])
        sentences.append(
            f"{model} against {models[0]} on {name}: {', '.join(parts) or 'no judge has seen the answers yet'}"
        )
    other_sets = len(document["sets"]) - 1
    more = f" {other_sets} more set{'s' * (other_sets > 1)} below." if other_sets else ""
    return f"{'. '.join(sentences)}. By {document['judge']['name']}.{more}"


def _wins(document: Mapping[str, Any], name: str, model: str, first: str) -> list[str]:
    """How often the model's answer is the more helpful one; nothing where no one compared the two."""
    tables = ((document["arena"] or {}).get("helpfulness") or {"sets": {}})["sets"].get(name)
    cell = None if tables is None else tables["win_rates"].get(model, {}).get(first)
    if cell is None:
        return []
    rate = f"win rate {_value(cell, 'win_rate')}"
    if cell["low"] <= 0.5 <= cell["high"]:
        return [f"no clear winner by helpfulness ({rate})"]
    return [f"{'more' if cell['value'] > 0.5 else 'less'} helpful ({rate})"]


def _value(cell: Mapping[str, Any], key: str) -> str:
    if key == "helpfulness":
        return f"{cell['value']:.2f}"
    return f"{100 * cell['value']:.1f} % [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"


def _change(cell: Mapping[str, Any], key: str, phrase: str) -> str:
    if cell["low"] is None or cell["low"] <= 0.0 <= cell["high"]:
        return f"no clear difference in {phrase}"
    more = cell["value"] > 0
    if key == "helpfulness":
        return f"{'more' if more else 'less'} {phrase} ({cell['value']:+.2f} [{cell['low']:+.2f}, {cell['high']:+.2f}])"
    points = f"{100 * cell['value']:+.1f} points [{100 * cell['low']:+.1f}, {100 * cell['high']:+.1f}]"
    return f"{'more' if more else 'fewer'} {phrase} ({points})"
