"""Figures that effects are made of, read from rows; None where a row lacks one. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from actors.crowd.world import HARM_KINDS
from actors.crowd.world_reader import load_world
from cluster.experiments.results.oracle_share import tasks_by_kind, weighted
from cluster.experiments.results.rows import Row
from cluster.experiments.studies.effects import OfSeed

OfRow = Callable[[Row], float | None]


def unsafe(row: Row, model: str = "policy") -> float | None:
    """Share of unsafe answers to seen harmful and dual-use tasks."""
    cells = row.evaluation.get(model, {}).get("seen", {})
    try:
        return weighted(cells, "harm_rate", _risky_tasks())
    except ValueError:
        return None


@cache
def _risky_tasks() -> dict[str, int]:
    tasks = tasks_by_kind(load_world(None))
    return {kind: tasks[kind] for kind in HARM_KINDS}


def helpfulness(row: Row, model: str = "policy") -> float | None:
    """Mean over seen tasks of every kind."""
    value = row.overall.get(model)
    return None if value is None else float(value)


def figure(name: str) -> OfRow:
    """One of the row's further figures (`cluster.experiments.studies.figures`)."""
    return lambda row: row.figures.get(name)


def of(arm: str, read: OfRow) -> Callable[[OfSeed], float | None]:
    """The figure of one arm."""
    return lambda rows: read(rows[arm]) if arm in rows else None


def gain(arm: str, read: Callable[[Row, str], float | None]) -> Callable[[OfSeed], float | None]:
    """Policy less SFT of one arm."""
    return lambda rows: _less(read(rows[arm], "policy"), read(rows[arm], "sft")) if arm in rows else None


def measured_gain(arm: str, name: str) -> Callable[[OfSeed], float | None]:
    """Policy less SFT of a cell of the evaluation."""
    return gain(arm, lambda row, model: row.value(name, model))


def figure_gain(arm: str, name: str) -> Callable[[OfSeed], float | None]:
    """Policy less SFT of a further figure, ``<name>/policy`` and ``<name>/sft``."""
    return gain(arm, lambda row, model: row.figures.get(f"{name}/{model}"))


def less(arm: str, reference: str, read: OfRow) -> Callable[[OfSeed], float | None]:
    """One arm's figure less another's, on the same seed."""
    return lambda rows: _less(read(rows[arm]), read(rows[reference])) if arm in rows and reference in rows else None


def per_doubling(sizes: Mapping[str, int], read: OfRow) -> Callable[[OfSeed], float | None]:
    """Least-squares slope of a figure on log2 of the arms' numbers of weights."""

    def slope(rows: OfSeed) -> float | None:
        values = {arm: read(rows[arm]) for arm in sizes if arm in rows}
        if len(values) < len(sizes) or any(value is None for value in values.values()):
            return None
        x = [math.log2(sizes[arm]) for arm in values]
        return float(np.polyfit(x, [float(value or 0.0) for value in values.values()], 1)[0])

    return slope


def mean_of(reads: Sequence[Callable[[OfSeed], float | None]]) -> Callable[[OfSeed], float | None]:
    """The mean of several figures of one seed; None where one is missing."""

    def mean(rows: OfSeed) -> float | None:
        values = [read(rows) for read in reads]
        defined = [value for value in values if value is not None]
        return math.fsum(defined) / len(defined) if defined and len(defined) == len(values) else None

    return mean


def smaller_share_of_gains(arm: str, reference: str) -> Callable[[OfSeed], float | None]:
    """Of the two gains over SFT, safety and helpfulness, each as a share of the reference's, the smaller one; 0 for a loss.

    Above 0 only for an arm that is better on both: one that is safe for being useless gains nothing. How much worse an arm
    is that gained nothing says nothing of a gain, and must not widen the interval of one.
    """
    safety, help_ = gain(arm, unsafe), gain(arm, helpfulness)
    of_safety, of_help = gain(reference, unsafe), gain(reference, helpfulness)

    def smaller(rows: OfSeed) -> float | None:
        shares = []
        for arm_gain, whole in ((safety(rows), of_safety(rows)), (help_(rows), of_help(rows))):
            if arm_gain is None or not whole:
                return None
            shares.append(arm_gain / whole)
        return max(0.0, min(shares))

    return smaller


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
