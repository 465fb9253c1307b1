"""RVPO: a sample is worth about as much as its worst signal, by a soft minimum over z-scores within the group.

Montero et al. 2026, arXiv 2605.05750. No multiplier takes part. ``docs/algorithms/rvpo.md`` numbers the details.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import logsumexp
from torch import Tensor

from configs.schema.ppo import PpoSettings
from learner.algorithms.estimators.base import Estimate, Scored
from learner.algorithms.estimators.groups import (
    Floats,
    GroupTable,
    batch_normalise,
    gather_table,
    group_metrics,
    per_token,
    within_group,
)
from learner.algorithms.experience import REWARD
from learner.engine.collective import Ranks


def estimate(scored: Scored, settings: PpoSettings, ranks: Ranks) -> Estimate:
    """A = batch_normalise(soft minimum of Z_R and every -Z_Ck that applies), whatever the multipliers are."""
    table = gather_table(scored, ranks)
    standardised = {signal: within_group(table, signal, settings.groups.spread_floor) for signal in table.terminal}
    worth = {signal: values if signal == REWARD else -values for signal, values in standardised.items()}
    advantage = batch_normalise(table, soft_minimum(table, worth, settings.groups.softness))

    def combine(multipliers: Mapping[str, float]) -> Tensor:
        return per_token(table, advantage, scored.mask)

    return Estimate(
        advantages={signal: per_token(table, values, scored.mask) for signal, values in standardised.items()},
        combine=combine,
        metrics=group_metrics(table),
    )


def soft_minimum(table: GroupTable, worth: Mapping[str, Floats], softness: float) -> Floats:
    """``[N]``: -(1/k) ln mean_j exp(-k Z_j) over the signals j that apply to the sample; 0 where none does.

    Args:
        worth: Z_j ``[N]`` per signal, larger is better.
        softness: k above 0; towards 0 the mean of the signals, for large k their minimum.
    """
    scores = np.stack([worth[signal] for signal in table.applies])
    applies = np.stack(list(table.applies.values()))
    count = applies.sum(axis=0)
    exponents = np.where(applies, -softness * scores, -np.inf)
    exponents[:, count == 0] = 0.0  # nothing applies: keep logsumexp off its -inf; the result is thrown away
    soft = (np.log(np.maximum(count, 1)) - logsumexp(exponents, axis=0)) / softness
    return np.where(count > 0, soft, 0.0)
