"""GDPO: every signal's z-score within its group, their weighted sum, and a normalisation over the batch.

Liu et al. 2026, arXiv 2601.05242; the weights are the Lagrangian's. ``docs/algorithms/gdpo.md`` numbers the details.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from configs.schema.ppo import PpoSettings
from learner.algorithms.estimators.base import Estimate, Scored
from learner.algorithms.estimators.groups import (
    batch_normalise,
    gather_table,
    group_metrics,
    per_token,
    scalarise,
    within_group,
)
from learner.engine.collective import Ranks


def estimate(scored: Scored, settings: PpoSettings, ranks: Ranks) -> Estimate:
    """A = batch_normalise((Z_R - sum lambda m Z_C)/(1 + sum lambda m)), with z-scores of costs too."""
    table = gather_table(scored, ranks)
    standardised = {signal: within_group(table, signal, settings.groups.spread_floor) for signal in table.terminal}

    def combine(multipliers: Mapping[str, float]) -> Tensor:
        weighted = scalarise(table, standardised, multipliers)
        return per_token(table, batch_normalise(table, weighted), scored.mask)

    return Estimate(
        advantages={signal: per_token(table, values, scored.mask) for signal, values in standardised.items()},
        combine=combine,
        metrics=group_metrics(table),
    )
