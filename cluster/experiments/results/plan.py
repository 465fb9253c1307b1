"""Which runs are still to be done, in which order, and about how long they take. Pure.

Seed by seed, since arms of one seed share the stages before the loop. Of the weights that never move, all seven run on the
first seed and the best of them on the others: that is the search somebody without a multiplier would have to pay for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cluster.experiments.results.cells import SWEEP, TABLE, Cell, cells_of, preset_settings
from cluster.experiments.results.rows import Row
from configs.exits import ConfigError
from configs.explain import suggestion

SHARED_STAGES = frozenset({"sft", "preferences", "baseline", "reward_model", "cost_model"})
"""Names in a summary's ``seconds`` of what arms of one seed take over from each other."""


@dataclass(frozen=True)
class Scope:
    """What was asked for."""

    table: bool = True
    sweep: bool = False
    full: bool = False
    """Every weight on every seed, and the sweep on every seed of the table."""
    arms: tuple[str, ...] = ()
    """These alone; empty means all. A named arm runs on every asked seed, the best weight or not."""
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class BestFixed:
    """The weight that a search over the seven would choose."""

    arm: str
    seeds: tuple[int, ...]
    """On which all seven have run: what the choice looks at."""
    feasible: bool
    """Whether it is certified on all of them."""


@dataclass(frozen=True)
class Plan:
    """The cells in order, and how many runs of the best weight wait for the search to end."""

    cells: tuple[Cell, ...]
    undecided: int = 0


def check_scope(scope: Scope) -> None:
    """Refuse arms that no preset in question has.

    Raises:
        ConfigError: an unknown arm; the message names a close one.
    """
    arms = {cell.arm: None for preset in _presets(scope) for cell in cells_of(preset)}
    for arm in scope.arms:
        if arm not in arms:
            raise ConfigError(
                f"--arms: no arm '{arm}' in {' or '.join(_presets(scope))}; {suggestion(arm, list(arms))}"
            )


def make_plan(scope: Scope, fresh: Mapping[Cell, Row]) -> Plan:
    """Every cell of the scope, done or not, in the order in which they run."""
    cells: list[Cell] = []
    undecided = 0
    best = best_fixed(list(fresh.values()))
    if scope.table or scope.full:
        for seed in _seeds(scope, preset_settings(TABLE).seeds):
            arms, waiting = _table_arms(scope, seed, best)
            cells += [Cell(TABLE, arm, seed) for arm in arms]
            undecided += waiting
    if scope.sweep or scope.full:
        seeds = preset_settings(TABLE if scope.full else SWEEP).seeds
        cells += [
            Cell(SWEEP, arm, seed)
            for seed in _seeds(scope, seeds)
            for arm in preset_settings(SWEEP).arms
            if not scope.arms or arm in scope.arms
        ]
    return Plan(tuple(cells), undecided)


def _table_arms(scope: Scope, seed: int, best: BestFixed | None) -> tuple[list[str], int]:
    """(arms of one seed in order, how many more will follow once the best weight is known)."""
    arms = list(preset_settings(TABLE).arms)
    if scope.arms:
        return [arm for arm in arms if arm in scope.arms], 0
    moving = [arm for arm in arms if not Cell(TABLE, arm, seed).is_fixed]
    fixed = [arm for arm in arms if arm not in moving]
    if scope.full or seed == preset_settings(TABLE).seeds[0]:
        return moving + fixed, 0
    return (moving, 1) if best is None else ([*moving, best.arm], 0)


def next_cell(plan: Plan, fresh: Collection[Cell]) -> Cell | None:
    """The first cell without a fresh row."""
    return next((cell for cell in plan.cells if cell not in fresh), None)


def best_fixed(rows: Sequence[Row]) -> BestFixed | None:
    """The best of the seven weights over the seeds on which all of them have rows; None while no seed has all.

    Among the weights that are certified on all these seeds the most helpful; with none, the one with the least harm.
    """
    weights = [arm for arm in preset_settings(TABLE).arms if Cell(TABLE, arm, 0).is_fixed]
    by_arm = {arm: {row.seed: row for row in rows if row.cell.is_fixed and row.arm == arm} for arm in weights}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in by_arm.values())))
    if not seeds:
        return None
    of = {arm: [by_seed[seed] for seed in seeds] for arm, by_seed in by_arm.items()}
    feasible = [arm for arm in weights if all(row.feasible for row in of[arm])]
    if feasible:
        arm = max(feasible, key=lambda candidate: math.fsum(row.overall["policy"] for row in of[candidate]))
    else:
        arm = min(weights, key=lambda candidate: math.fsum(_certified_rate(row) for row in of[candidate]))
    return BestFixed(arm, tuple(seeds), bool(feasible))


def _certified_rate(row: Row) -> float:
    return float(row.certified["value"]) if row.certified else 1.0


def seconds_left(plan: Plan, rows: Mapping[Cell, Row], fresh: Collection[Cell]) -> float | None:
    """About how long the missing cells take, from measured runs; None before the first row.

    An arm takes what it took on another seed, else the mean of its algorithm, else of all; the stages that arms share
    count once per seed that has no fresh row yet.
    """
    if not rows:
        return None
    missing = [cell for cell in plan.cells if cell not in fresh]
    arm_seconds = math.fsum(_own_estimate(cell, list(rows.values())) for cell in missing)
    fixed = [row for row in rows.values() if row.cell.is_fixed] or list(rows.values())
    arm_seconds += plan.undecided * _mean([own_seconds(row) for row in fixed])
    shared = _mean([shared_seconds(row) for row in rows.values()])
    return arm_seconds + shared * len({cell.seed for cell in missing} - {cell.seed for cell in fresh})


def own_seconds(row: Row) -> float:
    """The stages that this arm did itself."""
    return math.fsum(value for name, value in row.seconds.items() if name not in SHARED_STAGES and name != "total")


def shared_seconds(row: Row) -> float:
    """The stages that it shares with the arms of its seed."""
    return math.fsum(value for name, value in row.seconds.items() if name in SHARED_STAGES)


def _own_estimate(cell: Cell, rows: Sequence[Row]) -> float:
    algorithm = cell.settings().algorithm
    same_arm = [row for row in rows if (row.preset, row.arm) == (cell.preset, cell.arm)]
    alike = same_arm or [row for row in rows if row.algorithm == algorithm] or rows
    return _mean([own_seconds(row) for row in alike])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _seeds(scope: Scope, declared: Sequence[int]) -> Sequence[int]:
    return scope.seeds or declared


def _presets(scope: Scope) -> list[str]:
    return [*([TABLE] if scope.table or scope.full else []), *([SWEEP] if scope.sweep or scope.full else [])]
