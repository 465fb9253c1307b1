"""GRPO-Lag: each signal is standardised within its group, and the standardised signals are combined by the multipliers.

GRPO's advantage (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.1) per signal, and paper B's Lagrangian over
signals. ``docs/algorithms/grpo_lag.md`` numbers the details.
"""

from __future__ import annotations

from configs.schema.ppo import PpoSettings
from learner.algorithms.estimators.base import Estimate, Scored
from learner.algorithms.estimators.groups import gather_table, group_metrics, per_token, scalarise, within_group
from learner.algorithms.experience import REWARD
from learner.engine.collective import Ranks


def estimate(scored: Scored, settings: PpoSettings, ranks: Ranks) -> Estimate:
    """Z-scores of the reward, centred costs (or their z-scores), then A = (Z_R - sum lambda m Z_C)/(1 + sum lambda m)."""
    table, floor = gather_table(scored, ranks), settings.groups.spread_floor
    cost_floor = floor if settings.groups.costs == "z_score" else None
    standardised = {
        signal: within_group(table, signal, floor if signal == REWARD else cost_floor) for signal in table.terminal
    }
    return Estimate(
        advantages={signal: per_token(table, values, scored.mask) for signal, values in standardised.items()},
        combine=lambda multipliers: per_token(table, scalarise(table, standardised, multipliers), scored.mask),
        metrics=group_metrics(table),
    )
