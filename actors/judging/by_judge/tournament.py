"""Any number of models against each other on the same prompts: win rates, Elo ratings, and what became of safe answers.

Pure. On both axes, by whatever judge gave the comparisons. *Red* is the model compared with, *blue* the one that is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from actors.judging.by_judge.arena import arena_counts
from actors.judging.judges.protocol import Labels, Pair
from actors.judging.responses import AXES, Axis, Comparison, Response
from configs.exits import ConfigError
from learner.statistics.elo import RIDGE, Ladder, Separated, elo
from learner.statistics.multiple import adjusted
from learner.statistics.win_rate import order_effect, win_rate

EVERYTHING = "all sets"


def pairs_of(responses: Sequence[Response], models: Sequence[str]) -> list[Pair]:
    """Every two models' answers to every prompt that both answered, the earlier model red.

    Raises:
        ConfigError: one model alone.
    """
    if len(models) < 2:
        raise ConfigError("an arena needs two models at least: name another one")
    by_prompt: dict[str, dict[str, Response]] = {}
    for response in responses:
        by_prompt.setdefault(response.prompt_id, {})[response.model] = response
    return [
        (answers[red], answers[blue])
        for red, blue in combinations(models, 2)
        for answers in by_prompt.values()
        if red in answers and blue in answers
    ]


def tournament(
    comparisons: Sequence[Comparison],
    labels: Labels,
    models: Sequence[str],
    sets: Mapping[str, str],
    *,
    anchor: str | None = None,
    confidence: float = 0.95,
    ordered: bool = True,
) -> dict[str, Any]:
    """All tables of the arena.

    Args:
        sets: prompt id to its set; with several sets there is also the table of all.
        anchor: the model with 1000 Elo points; None: the mean has.
        ordered: the judge saw the answers one after the other, so the order may have swayed it.

    Returns:
        ``{axis: {set: {win_rates: {blue: {red: win rate + p_adjusted}}, elo: ladder or None, elo_note, counts: {blue: {red:
        arena counts}}, unread}, order_effect}}``; p-values are Holm's over the pairs of one table.
    """
    names = list(dict.fromkeys(sets.values()))
    parts: dict[str, set[str]] = {
        name: {prompt for prompt, prompt_set in sets.items() if prompt_set == name} for name in names
    }
    if len(names) > 1:
        parts = {EVERYTHING: set(sets), **parts}
    document: dict[str, Any] = {}
    for axis in AXES:
        rows = [comparison for comparison in comparisons if comparison.axis == axis]
        tables = {
            name: _tables(axis, [row for row in rows if row.prompt_id in prompts], labels, models, anchor, confidence)
            for name, prompts in parts.items()
        }
        effect = order_effect([row.verdicts for row in rows] if ordered else [], confidence)
        document[axis] = {"sets": tables, "order_effect": asdict(effect)}
    return document


def _tables(
    axis: Axis, rows: Sequence[Comparison], labels: Labels, models: Sequence[str], anchor: str | None, confidence: float
) -> dict[str, Any]:
    readable = [comparison for comparison in rows if comparison.points is not None]
    rates: dict[str, dict[str, Any]] = {model: {} for model in models}
    counts: dict[str, dict[str, Any]] = {model: {} for model in models}
    for red, blue in combinations(models, 2):
        points = {
            comparison.prompt_id: comparison.points or 0.0
            for comparison in readable
            if (comparison.red, comparison.blue) == (red, blue)
        }
        if not points:
            continue
        rates[blue][red] = win_rate(list(points.values()), confidence).document()
        rates[red][blue] = win_rate([1.0 - blue_points for blue_points in points.values()], confidence).document()
        counts[blue][red] = _counts(points, labels, red, blue)
        counts[red][blue] = _counts(
            {prompt: 1.0 - blue_points for prompt, blue_points in points.items()}, labels, blue, red
        )
    _adjust(rates, models)
    ladder, note = _ladder(readable, models, anchor, confidence)
    return {
        "win_rates": rates,
        "elo": None if ladder is None else ladder.document(),
        "elo_note": note,
        "counts": counts,
        "unread": len(rows) - len(readable),
    }


def _adjust(rates: Mapping[str, Mapping[str, dict[str, Any]]], models: Sequence[str]) -> None:
    pairs = [(red, blue) for red, blue in combinations(models, 2) if red in rates[blue]]
    for (red, blue), p in zip(pairs, adjusted([rates[blue][red]["p"] for red, blue in pairs]), strict=True):
        rates[blue][red]["p_adjusted"] = rates[red][blue]["p_adjusted"] = p


def _counts(points: Mapping[str, float], labels: Labels, red: str, blue: str) -> dict[str, Any] | None:
    """Better or worse by these points, safe or unsafe by the labels; None where no one labelled both answers.

    A tie is no win, as in the papers' arena. The means of the scores, which points are not, are left out.
    """
    harm_and_points = []
    for prompt, blue_points in points.items():
        ends = labels.get((red, prompt)), labels.get((blue, prompt))
        if ends[0] is not None and ends[1] is not None and ends[0].unsafe is not None and ends[1].unsafe is not None:
            harm_and_points.append((0.5, float(ends[0].unsafe), blue_points, float(ends[1].unsafe)))
    if not harm_and_points:
        return None
    arena = asdict(arena_counts(*np.array(harm_and_points, dtype=np.float64).T))
    return {name: value for name, value in arena.items() if not name.startswith("mean_")}


def _ladder(
    rows: Sequence[Comparison], models: Sequence[str], anchor: str | None, confidence: float
) -> tuple[Ladder | None, str]:
    """Ratings, and what is to be said of them; none where some models have no comparison."""
    place = {model: index for index, model in enumerate(models)}
    prompts = {prompt: index for index, prompt in enumerate(dict.fromkeys(comparison.prompt_id for comparison in rows))}
    compared = {model for comparison in rows for model in (comparison.red, comparison.blue)}
    if missing := [model for model in models if model not in compared]:
        return None, f"no ratings: {missing[0]} has no comparison"
    points = np.zeros((len(prompts), len(models), len(models)))
    for comparison in rows:
        row, red, blue = prompts[comparison.prompt_id], place[comparison.red], place[comparison.blue]
        points[row, blue, red], points[row, red, blue] = comparison.points or 0.0, 1.0 - (comparison.points or 0.0)
    try:
        return elo(models, points, anchor=anchor, confidence=confidence), ""
    except Separated:
        note = f"some models lost no point to others: pulled together by a ridge of {RIDGE}, and no lead is to be read as exact"
        return elo(models, points, anchor=anchor, confidence=confidence, ridge=RIDGE), note
