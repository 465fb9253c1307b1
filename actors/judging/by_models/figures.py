"""From scored answers to figures with intervals: SFT against the policy, by set of prompts, by tag and by category.

Pure. A *cell* is ``{value, low, high, n}`` as in `actors.judging.by_gold.figures`. Differences are the policy's less SFT's on the same
prompts; over the many tags and categories their p-values are Holm's, one family per figure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from actors.judging.by_gold.figures import Cell, mean_cell, share_cell
from actors.judging.by_models.answers import MODELS, POLICY, SFT, ScoredAnswer
from actors.judging.by_models.limits import Limit
from actors.judging.judges.refusal_words import is_refusal
from learner.statistics.multiple import adjusted

KIND = "scored"
"""What tells the document from that of `evaluate_cells`."""
REWARD, TEST = "reward", "reward_test"
SMALLEST_GROUP = 5
"""Tags and categories with fewer prompts are left out: their figures would say nothing."""
MOST_GROUPS = 60
"""Tags, and categories, of one set at most; the ones with most prompts."""

Rows = Sequence[ScoredAnswer]
Pairs = Sequence[tuple[ScoredAnswer, ScoredAnswer]]
"""SFT's and the policy's answer to one prompt."""


@dataclass(frozen=True)
class ScoredFigure:
    """One figure: what is read of an answer, and how it is shown."""

    name: str
    read: Callable[[ScoredAnswer], float | None]
    """None: the answer does not count."""
    share: bool
    """Shown as a percentage."""
    better: Literal[-1, 0, 1] = 0
    """Which way is better, by the score models; 0 where neither is."""
    limit: Limit | None = None
    """Of a constraint's measure: `read` gives raw costs, of which it is taken."""

    def cell(self, rows: Rows, confidence: float) -> Cell:
        """The figure over answers."""
        values = _present(self.read(row) for row in rows)
        if self.limit is not None:
            return self.limit.cell(values, confidence)
        return (share_cell if self.share else mean_cell)(values, confidence)

    def difference(self, pairs: Pairs, confidence: float) -> dict[str, Any]:
        """Policy less SFT with its interval, and ``p`` of no difference (paired t; None where it was not tested)."""
        value_pairs = [
            (old, new) for a, b in pairs if (old := self.read(a)) is not None and (new := self.read(b)) is not None
        ]
        before, after = [old for old, _ in value_pairs], [new for _, new in value_pairs]
        if self.limit is None:
            changes = [new - old for old, new in value_pairs]
            return {**mean_cell(changes, confidence), "p": _p_value(changes)}
        cell = self.limit.difference(before, after, confidence)
        tail = self.limit.measure.name == "cvar"
        p = None if tail or not value_pairs else _p_value((self.limit.g(after) - self.limit.g(before)).tolist())
        return {**cell, "p": p}


def figures_of(limits: Sequence[Limit], *, reward: bool, test: bool = False) -> list[ScoredFigure]:
    """Every figure of a run, in reading order.

    Args:
        reward: whether the run has a reward signal.
        test: whether a test-half reward model watched.
    """
    figures = [ScoredFigure(REWARD, lambda answer: answer.reward, False, 1)] if reward else []
    if test:
        figures.append(ScoredFigure(TEST, lambda answer: answer.watched.get(TEST), False, 1))
    for limit in limits:
        figures += _of_limit(limit)
    return [
        *figures,
        ScoredFigure("refusal", lambda answer: float(is_refusal(answer.response)), True),
        ScoredFigure("cut", lambda answer: float(answer.finish_reason != "stop"), True, -1),
        ScoredFigure("response_tokens", lambda answer: float(answer.response_tokens), False),
    ]


def evaluate_scored(
    answers: Iterable[ScoredAnswer],
    limits: Sequence[Limit],
    *,
    reward: bool,
    test: bool = False,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Every figure of an evaluation by the score models.

    Returns:
        ``kind``, ``confidence``; ``figures`` ``{name: {share, better}}``; ``sets`` ``{set: {all: {model: {figure: cell}},
        tags: {tag: {model: …}}, categories: {…}, left_out: {tags: n, categories: n}}}``; ``differences`` ``{set: {all:
        {figure: cell + p}, tags: {tag: {figure: cell + p + different}}, categories: …}}``, ``different`` after Holm; and
        ``wins`` ``{set: {signal: cell}}``, the share of prompts on which the policy has the better score, ties half.
    """
    figures = figures_of(limits, reward=reward, test=test)
    by_set: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in answers:
        by_set[answer.set].append(answer)
    sets: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    wins: dict[str, Any] = {}
    for name, rows in by_set.items():
        groups, left_out = _groups(rows)
        sets[name] = {"all": _models(rows, figures, confidence), "left_out": left_out} | {
            kind: {key: _models(group, figures, confidence) for key, group in by_key.items()}
            for kind, by_key in groups.items()
        }
        pairs = _pairs(rows)
        differences[name] = {"all": _differences(pairs, figures, confidence)} | {
            kind: {key: _differences(_pairs(group), figures, confidence) for key, group in by_key.items()}
            for kind, by_key in groups.items()
        }
        wins[name] = _wins(pairs, limits, confidence, reward=reward, test=test)
    _mark_by_holm(differences, [figure.name for figure in figures], confidence)
    return {
        "kind": KIND,
        "confidence": confidence,
        "figures": {figure.name: {"share": figure.share, "better": figure.better} for figure in figures},
        "sets": sets,
        "differences": differences,
        "wins": wins,
    }


def win_cell(gaps: Sequence[float], confidence: float) -> Cell:
    """Share of gaps above 0, ties counting half, with its Wilson interval."""
    n = len(gaps)
    if not n:
        return Cell(value=None, low=None, high=None, n=0)
    wins = sum(0.5 if gap == 0 else float(gap > 0) for gap in gaps)
    low, high = proportion_confint(wins, n, alpha=1.0 - confidence, method="wilson")
    return Cell(value=wins / n, low=max(0.0, float(low)), high=min(1.0, float(high)), n=n)


def _of_limit(limit: Limit) -> list[ScoredFigure]:
    name = limit.name

    def covered(answer: ScoredAnswer) -> float | None:
        return answer.costs[name] if limit.covers(answer.tags) else None

    return [
        ScoredFigure(f"measure/{name}", covered, limit.bounded, -1, limit),
        ScoredFigure(f"cost/{name}", lambda answer: answer.costs[name], False, -1),
        ScoredFigure(f"above_zero/{name}", lambda answer: float(answer.costs[name] > 0.0), True, -1),
    ]


def _models(rows: Rows, figures: Sequence[ScoredFigure], confidence: float) -> dict[str, dict[str, Cell]]:
    cells: dict[str, dict[str, Cell]] = {}
    for model in MODELS:
        model_rows = [row for row in rows if row.model == model]
        if model_rows:
            cells[model] = {figure.name: figure.cell(model_rows, confidence) for figure in figures}
    return cells


def _groups(rows: Rows) -> tuple[dict[str, dict[str, list[ScoredAnswer]]], dict[str, int]]:
    """Answers by tag and by category, and how many of each are too small or too many to be shown.

    What every prompt has says nothing that the whole set does not.
    """
    members: dict[str, dict[str, list[ScoredAnswer]]] = {"tags": defaultdict(list), "categories": defaultdict(list)}
    for row in rows:
        for tag in row.tags:
            members["tags"][tag].append(row)
        if row.category is not None:
            members["categories"][row.category].append(row)
    prompts = len({row.prompt_id for row in rows})
    large_groups: dict[str, dict[str, list[ScoredAnswer]]] = {}
    left_out: dict[str, int] = {}
    for kind, by_key in members.items():
        sizes = {key: len({row.prompt_id for row in group}) for key, group in by_key.items()}
        telling = [key for key in sizes if sizes[key] < prompts]
        sorted_keys = sorted(
            (key for key in telling if sizes[key] >= SMALLEST_GROUP), key=lambda key: (-sizes[key], key)
        )
        large_groups[kind] = {key: by_key[key] for key in sorted(sorted_keys[:MOST_GROUPS])}
        left_out[kind] = len(telling) - len(large_groups[kind])
    return large_groups, left_out


def _pairs(rows: Rows) -> list[tuple[ScoredAnswer, ScoredAnswer]]:
    """Of prompts that both models answered, in the order of SFT's."""
    before = {row.prompt_id: row for row in rows if row.model == SFT}
    after = {row.prompt_id: row for row in rows if row.model == POLICY}
    return [(row, after[prompt]) for prompt, row in before.items() if prompt in after]


def _differences(pairs: Pairs, figures: Sequence[ScoredFigure], confidence: float) -> dict[str, dict[str, Any]]:
    return {figure.name: figure.difference(pairs, confidence) for figure in figures}


def _wins(pairs: Pairs, limits: Sequence[Limit], confidence: float, *, reward: bool, test: bool) -> dict[str, Cell]:
    win_cells: dict[str, Cell] = {}
    if reward:
        win_cells[REWARD] = win_cell([(b.reward or 0.0) - (a.reward or 0.0) for a, b in pairs], confidence)
    if test:
        win_cells[TEST] = win_cell([b.watched[TEST] - a.watched[TEST] for a, b in pairs], confidence)
    for limit in limits:
        gaps = [a.costs[limit.name] - b.costs[limit.name] for a, b in pairs if limit.covers(a.tags)]
        win_cells[f"cost/{limit.name}"] = win_cell(gaps, confidence)
    return win_cells


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _p_value(changes: Sequence[float]) -> float | None:
    """Two-sided p of a mean change of 0: paired t; where all changes are equal, by flipping their signs (exact)."""
    n = len(changes)
    if n < SMALLEST_GROUP:
        return None
    x = np.asarray(changes, dtype=np.float64)
    if np.ptp(x) <= 1e-9 * np.abs(x).max():
        return 1.0 if not x.any() else float(2.0 ** (1 - n))
    statistic = float(x.mean() / (x.std(ddof=1) / math.sqrt(n)))
    return float(2.0 * stats.t.sf(abs(statistic), n - 1))


def _mark_by_holm(differences: Mapping[str, Any], figures: Sequence[str], confidence: float) -> None:
    """Give every tag's and category's difference its ``different``: Holm over all of one figure's tests."""
    for figure in figures:
        cells = [
            group[figure]
            for set_differences in differences.values()
            for kind in ("tags", "categories")
            for group in set_differences[kind].values()
        ]
        for cell, p in zip(cells, adjusted([cell["p"] for cell in cells]), strict=True):
            cell["different"] = None if p is None else p <= 1.0 - confidence
