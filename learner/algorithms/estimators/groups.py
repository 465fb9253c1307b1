"""Statistics of groups: responses to one prompt, judged against each other instead of against a critic.

Invariant: rows of one group may be on different ranks, so every rank holds the scalars of the whole batch in the order
of the request ids and computes the same float64 numbers: ranks and row order change nothing, not even a bit.
Shapes: ``N`` samples of the batch over all ranks, ``B`` of this rank, ``R`` response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.algorithms.estimators.base import Scored
from learner.algorithms.experience import REWARD, cost_signal
from learner.engine.collective import Ranks
from learner.signals.combine import combine_advantages

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_EPSILON = 1e-8
"""Of the batch normalisation: a batch without any spread gives 0, not 0/0."""


@dataclass(frozen=True)
class GroupTable:
    """The terminal scores of a batch, ordered by request id."""

    group: NDArray[np.int64]
    """``[N]``: the group of each sample, from 0."""
    terminal: Mapping[str, Floats]
    """``[N]`` per signal."""
    applies: Mapping[str, Flags]
    """``[N]`` per signal: whether it says anything of the sample; the reward does where something is maximised."""
    local_rows: NDArray[np.int64]
    """``[B]``: where this rank's rows are."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """``[N]``: members of the sample's group."""
        return np.bincount(self.group)[self.group]


def gather_table(scored: Scored, ranks: Ranks) -> GroupTable:
    """Exchange this batch's scalars among the ranks."""
    signals = [REWARD, *map(cost_signal, scored.subset)]
    scores = torch.stack([scored.terminal[signal].double() for signal in signals], dim=1).tolist()
    all_rows = torch.ones(len(scores), dtype=torch.bool)
    reward_applies = all_rows if scored.maximises else ~all_rows
    flags = torch.stack([reward_applies, *(scored.subset[name].bool() for name in scored.subset)], dim=1).tolist()
    local_rows = list(zip(scored.request_ids, scored.prompt_ids, scores, flags, strict=True))
    gathered_rows = sorted(row for rank in ranks.gather_objects(local_rows) for row in rank)
    place = {request_id: index for index, (request_id, *_) in enumerate(gathered_rows)}
    _, group = np.unique([prompt_id for _, prompt_id, *_ in gathered_rows], return_inverse=True)
    columns = np.array([row for *_, row, _ in gathered_rows], dtype=np.float64).reshape(
        len(gathered_rows), len(signals)
    )
    applies = np.array([row for *_, row in gathered_rows], dtype=bool).reshape(len(gathered_rows), len(signals))
    return GroupTable(
        group=group.astype(np.int64),
        terminal={signal: columns[:, index] for index, signal in enumerate(signals)},
        applies={signal: applies[:, index] for index, signal in enumerate(signals)},
        local_rows=np.array([place[request_id] for request_id in scored.request_ids], dtype=np.int64),
    )


def within_group(table: GroupTable, signal: str, spread_floor: float | None) -> Floats:
    """``[N]``: a signal less its group's mean, over its spread; 0 where it does not apply or the group has one member.

    Args:
        spread_floor: the population standard deviation counts as at least this, so that noise between all but equal
            answers is not blown up to unit size. None centres only.
    """
    applies = table.applies[signal]
    centred, spread = _centred_and_spread(table, signal)
    if spread_floor is not None:
        centred = centred / np.maximum(spread, spread_floor)[table.group]
    return np.where(applies, centred, 0.0)


def _centred_and_spread(table: GroupTable, signal: str) -> tuple[Floats, Floats]:
    """A signal less its group's mean ``[N]``, and each group's population standard deviation ``[groups]``."""
    applies, group = table.applies[signal], table.group
    groups = int(group.max()) + 1
    members = np.maximum(np.bincount(group, weights=applies, minlength=groups), 1.0)
    # From the group's lowest value, and not from 0: equal scores then have no spread at all, without rounding.
    lowest = np.full(groups, np.inf)
    np.minimum.at(lowest, group[applies], table.terminal[signal][applies])
    above = np.where(applies, table.terminal[signal] - np.where(np.isfinite(lowest), lowest, 0.0)[group], 0.0)
    centred = above - (np.bincount(group, weights=above, minlength=groups) / members)[group]
    centred = np.where(applies, centred, 0.0)
    return centred, np.sqrt(np.bincount(group, weights=centred**2, minlength=groups) / members)


def scalarise(table: GroupTable, standardised: Mapping[str, Floats], multipliers: Mapping[str, float]) -> Floats:
    """``[N]``: (Z_R - sum_k lambda_k m_k Z_Ck) / (1 + sum_k lambda_k m_k) of standardised signals, never of raw scores."""
    names = [signal.removeprefix("cost/") for signal in standardised if signal != REWARD]
    combined = combine_advantages(
        torch.from_numpy(standardised[REWARD])[:, None],
        {name: torch.from_numpy(standardised[cost_signal(name)])[:, None] for name in names},
        multipliers,
        {name: torch.from_numpy(table.applies[cost_signal(name)]) for name in names},
    )
    return combined[:, 0].numpy()


def batch_normalise(table: GroupTable, advantages: Floats) -> Floats:
    """``[N]``: centred and scaled over the batch's samples; a sample that nothing was compared with stays at 0."""
    compared = (table.sizes > 1) & np.logical_or.reduce(list(table.applies.values()))
    if not compared.any():
        return np.zeros_like(advantages)
    counted = advantages[compared]
    return np.where(compared, (advantages - counted.mean()) / (counted.std() + _EPSILON), 0.0)


def per_token(table: GroupTable, values: Floats, mask: Tensor) -> Tensor:
    """This rank's samples' numbers on every one of their valid tokens, float32 ``[B, R]``."""
    rank_values = torch.from_numpy(values[table.local_rows]).float()
    return torch.where(mask, rank_values[:, None], 0.0)


def group_metrics(table: GroupTable) -> dict[str, float]:
    """``group_spread/<signal>``, the mean spread within groups of two or more; ``groups_degenerate``, the share that teaches nothing."""
    groups = int(table.group.max()) + 1
    metrics: dict[str, float] = {}
    teaches = np.zeros(groups, dtype=bool)
    for signal, applies in table.applies.items():
        _, spread = _centred_and_spread(table, signal)
        several = np.bincount(table.group, weights=applies, minlength=groups) > 1
        if several.any():
            metrics[f"group_spread/{signal}"] = float(spread[several].mean())
        teaches |= several & (spread > 0.0)
    metrics["groups_degenerate"] = float(1.0 - teaches.mean())
    return metrics
