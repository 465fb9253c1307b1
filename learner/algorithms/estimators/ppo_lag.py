"""PPO-Lag: KL-shaped streams, GAE against critics, one combined advantage per token (paper B, section 3.3 and B.2).

``docs/algorithms/ppo_lag.md`` numbers the details.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from configs.schema.ppo import PpoSettings
from learner.algorithms.advantages import (
    advantage_moments,
    generalised_advantages,
    mean_and_std,
    shape_costs,
    shape_rewards,
    whiten,
)
from learner.algorithms.estimators.base import Estimate, Scored
from learner.algorithms.experience import REWARD, cost_signal
from learner.engine.collective import Ranks
from learner.signals.combine import combine_advantages


def estimate(scored: Scored, settings: PpoSettings, ranks: Ranks) -> Estimate:
    """Per signal: shape the stream, GAE, returns; then combine by the multipliers and centre over all ranks."""
    mask, terminal = scored.mask, scored.terminal
    streams = {
        REWARD: shape_rewards(
            scored.proximal_logprobs,
            scored.reference_logprobs,
            terminal[REWARD],
            mask,
            kl_coefficient=settings.kl_coefficient,
            clip=settings.clip_score,
        )
    }
    for name, member in scored.subset.items():
        streams[cost_signal(name)] = shape_costs(
            scored.proximal_logprobs,
            scored.reference_logprobs,
            terminal[cost_signal(name)],
            mask,
            kl_coefficient=settings.kl_coefficient,
            subset_mask=member,
            clip=settings.clip_score,
        )
    advantages: dict[str, Tensor] = {}
    returns: dict[str, Tensor] = {}
    for signal, stream in streams.items():
        advantages[signal], returns[signal] = generalised_advantages(
            stream, scored.values[signal], mask, gamma=settings.gamma, gae_lambda=settings.gae_lambda
        )

    def combine(multipliers: Mapping[str, float]) -> Tensor:
        costs = {name: advantages[cost_signal(name)] for name in scored.subset}
        combined = combine_advantages(advantages[REWARD], costs, multipliers, scored.subset)
        mean, std = mean_and_std(ranks.sum(advantage_moments(combined, mask)))
        if settings.advantages == "raw":
            return combined
        return whiten(combined, mask, mean, std if settings.advantages == "whitened" else None)

    return Estimate(advantages, combine, returns)
