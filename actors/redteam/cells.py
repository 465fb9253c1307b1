"""From judged attacks to the table: success per strategy, category, form and split, and what differs between models.

Pure. A cell is ``{value, low, high, n}``; see `rates` for its interval. ``success`` counts samples; ``worst_of_n`` counts attacks
that succeeded in at least one of their n samples, which is what an attacker gets who tries n times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from actors.redteam.labels import OUTCOMES
from actors.redteam.rates import clustered_share, means_by_task, paired_difference
from actors.redteam.records import Row
from actors.redteam.strategies import STRATEGIES
from learner.statistics.multiple import adjusted

ALL = "all"
GROUPS: Mapping[str, Callable[[Row], str | None]] = {
    "strategy": lambda row: row.strategy,
    "category": lambda row: row.category,
    "form": lambda row: f"{row.strategy}/{row.form}",
    "form_split": lambda row: row.form_split,
    "task_split": lambda row: row.task_split,
    "kind": lambda row: row.kind,
}
"""What the suite's results are broken down by."""
TESTED = ("strategy", "category")
"""Groups whose differences are tested; these and ``all``, of every two models, are one family for Holm."""


def redteam_cells(rows: Iterable[Row], confidence: float = 0.95) -> dict[str, Any]:
    """Every figure of the suite.

    Returns:
        ``{models, confidence, cells, outcomes, differences}``. ``cells``: ``{model: {group: {name: {success, worst_of_n,
        partial, cut, cost}}}}`` with group ``all`` of the one name ``all``; ``outcomes``: ``{model: {strategy or all: {outcome:
        cell}}}``; ``differences``: ``{model: {earlier model: {group: {name: cell with p and p_holm}}}}``, the model less each that
        was named before it, paired by task.
    """
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row.model].append(row)
    models = list(by_model)
    return {
        "models": models,
        "confidence": confidence,
        "cells": {model: _grouped(model_rows, confidence) for model, model_rows in by_model.items()},
        "outcomes": {model: _outcomes(model_rows, confidence) for model, model_rows in by_model.items()},
        "differences": _all_differences(by_model, confidence),
    }


def success_cells(rows: Sequence[Row], confidence: float = 0.95) -> dict[str, Any]:
    """The figures of one group of rows."""
    tasks = [row.target for row in rows]
    attacks = _by(rows, lambda row: row.attack)
    worst = [(any(row.success for row in attack_rows), attack_rows[0].target) for attack_rows in attacks.values()]
    costs = [row.cost for row in rows if row.cost is not None]
    return {
        "success": clustered_share([row.success for row in rows], tasks, confidence),
        "worst_of_n": clustered_share([flag for flag, _ in worst], [task for _, task in worst], confidence),
        "partial": clustered_share([row.outcome == "partial" for row in rows], tasks, confidence),
        "cut": clustered_share([not row.finished for row in rows], tasks, confidence),
        "tasks": len(set(tasks)),
        "mean_cost": sum(costs) / len(costs) if costs else None,
    }


def _grouped(rows: Sequence[Row], confidence: float) -> dict[str, dict[str, Any]]:
    grouped: dict[str, dict[str, Any]] = {ALL: {ALL: success_cells(rows, confidence)}}
    for group, key in GROUPS.items():
        parts = _by(rows, key)
        grouped[group] = {name: success_cells(parts[name], confidence) for name in _ordered(parts)}
    return grouped


def _outcomes(rows: Sequence[Row], confidence: float) -> dict[str, Any]:
    parts = {ALL: list(rows), **_by(rows, GROUPS["strategy"])}
    return {
        name: {
            outcome: clustered_share(
                [row.outcome == outcome for row in strategy_rows], [row.target for row in strategy_rows], confidence
            )
            for outcome in OUTCOMES
        }
        for name, strategy_rows in parts.items()
    }


def _all_differences(by_model: Mapping[str, Sequence[Row]], confidence: float) -> dict[str, dict[str, Any]]:
    pairs = list(combinations(by_model, 2))
    cells_of_pair = {pair: _differences(by_model[pair[0]], by_model[pair[1]], confidence) for pair in pairs}
    places = [(pair, place) for pair, cells in cells_of_pair.items() for place in cells]
    corrected = adjusted([cells_of_pair[pair][place]["p"] for pair, place in places])
    table: dict[str, dict[str, Any]] = {}
    for ((earlier, later), (group, name)), p in zip(places, corrected, strict=True):
        groups = table.setdefault(later, {}).setdefault(earlier, {})
        groups.setdefault(group, {})[name] = cells_of_pair[earlier, later][group, name] | {"p_holm": p}
    return table


def _differences(
    first: Sequence[Row], second: Sequence[Row], confidence: float
) -> dict[tuple[str, str], dict[str, Any]]:
    """Second less first on the attacks that both had, so that a lost answer biases neither; by group and name."""
    shared = {row.attack for row in first} & {row.attack for row in second}
    sides = [[row for row in rows if row.attack in shared] for rows in (first, second)]
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for group in (ALL, *TESTED):
        key: Callable[[Row], str | None] = GROUPS.get(group, lambda row: ALL)
        before, after = (_by(rows, key) for rows in sides)
        for name in _ordered(before):
            if name in after:
                cell, p = paired_difference(_means(before[name]), _means(after[name]), confidence)
                cells[group, name] = dict(cell) | {"p": p}
    return cells


def _means(rows: Sequence[Row]) -> Mapping[Any, float]:
    return means_by_task([row.success for row in rows], [row.target for row in rows])


def _by(rows: Sequence[Row], key: Callable[[Row], str | None]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if (name := key(row)) is not None:
            parts[name].append(row)
    return dict(parts)


def _ordered(names: Iterable[str]) -> list[str]:
    """Strategies in their own order, everything else by name."""
    order = list(STRATEGIES)
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))
