"""One PPO, PPO-Lag or reward-shaping step exactly as the papers' reference computes it.

1. Whole sequences: prompts padded on the left to one width S, responses on the right; losses see columns S - 1 onwards of
   the shifted axis, where index t belongs to token t + 1.
2. Log-probs of the raw logits, without the temperature; the ratio's denominator is the sampling policy's.
3. The dual moves first, on the window that holds the new costs already; the actor's loss uses the new lambda.
4. J is the float32 mean of each rank's window, then the mean over ranks, whatever their counts.
5. ``lambda_max`` 0 means no maximum.
6. Shaping runs over all columns, prompt and padding too; only the response's count later.
7. No centring, no whitening, row means. Reward shaping is plain PPO on r - lambda*c, not divided by 1 + lambda.

Advantages come from the estimator that training uses, ``learner/algorithms/estimators/ppo_lag.py``, and the losses are those that
``learner/algorithms/update.py`` calls.
Shapes: ``B`` rows, ``T`` tokens, ``L = T - 1``, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.schema.ppo import PpoSettings
from learner.algorithms.advantages import shape_costs, shape_rewards
from learner.algorithms.estimators import ppo_lag
from learner.algorithms.estimators.base import Scored
from learner.algorithms.experience import REWARD, cost_signal
from learner.algorithms.losses import critic_loss, masked_mean, policy_loss
from learner.engine.collective import OneRank
from learner.models.log_probs import gather_log_probs
from learner.signals.multiplier import LogMultiplier

NO_MAXIMUM = 1e6
"""Stands for the reference's absent cap on lambda, far above what its logged runs reach."""


def reference_episode_cost(rank_windows: Sequence[Sequence[float]]) -> float:
    """The reference's J: the float32 mean of each rank's window, then the mean over ranks, whatever their counts."""
    means = [np.mean(np.asarray(window, dtype=np.float32), dtype=np.float32) for window in rank_windows]
    return float(np.mean(np.asarray(means, dtype=np.float32), dtype=np.float32))


def reference_multiplier(initial: float, *, lr: float, maximum: float | None, delay: int = 0) -> LogMultiplier:
    """The reference's dual, the product's `log` form; ``maximum`` None or 0 is none, ``delay`` counts steps.

    An initial value above the maximum is taken as the maximum, where the reference's first update would put it.
    """
    cap = maximum or NO_MAXIMUM
    return LogMultiplier(min(initial, cap), lr=lr, cap=cap, delay=delay)


def shaped_reward(reward: Tensor, cost: Tensor, multiplier: float) -> Tensor:
    """Reward shaping's one scalar r - lambda*c ``[B]``; the sum is not divided by 1 + lambda."""
    return reward - multiplier * cost


@dataclass(frozen=True)
class ReferenceConstants:
    """The reference's constants of one step."""

    kl_coefficient: float
    clip_ratio: float = 0.2
    clip_score: float = 50.0
    clip_value: float = 5.0
    gamma: float = 1.0
    gae_lambda: float = 0.95

    def of_training(self) -> PpoSettings:
        """The same as a run's settings: fact 7."""
        return PpoSettings(
            kl_coefficient=self.kl_coefficient,
            clip_ratio=self.clip_ratio,
            clip_score=self.clip_score,
            clip_value=self.clip_value,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            loss="row_mean",
            advantages="raw",
        )


@dataclass(frozen=True)
class ReferenceBatch:
    """A batch after the rollout, on the shifted axis."""

    input_ids: Tensor
    """Int64 ``[B, T]``."""
    attention_mask: Tensor
    """``[B, T]``, 1 on real tokens."""
    prompt_length: int
    """Width of the left-padded prompt, tokens."""
    log_probs: Tensor
    """``[B, L]`` of the policy that sampled."""
    reference_log_probs: Tensor
    """``[B, L]``."""
    terminal: Mapping[str, Tensor]
    """Terminal scores ``[B]``: ``reward`` and, for PPO-Lag, ``cost``."""
    values: Mapping[str, Tensor]
    """Old critic values ``[B, L]`` for the same signals."""


@dataclass(frozen=True)
class ReferenceStep:
    """Losses (scalars with gradient) and logged metrics of one step."""

    actor_loss: Tensor
    critic_losses: Mapping[str, Tensor]
    metrics: Mapping[str, float]


def reference_step(
    batch: ReferenceBatch,
    new_logits: Tensor,
    new_critic_scores: Mapping[str, Tensor],
    settings: ReferenceConstants,
    multiplier: float = 0.0,
) -> ReferenceStep:
    """Shaping, GAE per signal, the actor's loss and each critic's loss.

    Args:
        new_logits: ``[B, T, V]`` of the policy being trained.
        new_critic_scores: ``[B, T]`` per signal.
        multiplier: lambda after this step's dual update; unused without a ``cost`` signal.
    """
    start = batch.prompt_length - 1
    mask = batch.attention_mask[:, 1:].bool()[:, start:]
    scored = _scored(batch, mask, start)
    estimate = ppo_lag.estimate(scored, settings.of_training(), OneRank())
    advantages = {name: estimate.advantages[signal_of(name)] for name in batch.terminal}
    returns = {name: estimate.returns[signal_of(name)] for name in batch.terminal}
    combined = estimate.combine(dict.fromkeys(scored.subset, multiplier))
    new_log_probs = gather_log_probs(new_logits[:, :-1], batch.input_ids[:, 1:])
    actor_loss = policy_loss(
        new_log_probs[:, start:], batch.log_probs[:, start:], combined, mask, clip_ratio=settings.clip_ratio
    )
    new_values = {name: scores[:, :-1][:, start:] for name, scores in new_critic_scores.items()}
    critic_losses = {
        name: critic_loss(value, batch.values[name][:, start:], returns[name], mask, clip_value=settings.clip_value)
        for name, value in new_values.items()
    }
    metrics = _metrics(batch, scored, settings, start, advantages, returns, new_values)
    metrics["actor_loss"] = float(actor_loss.detach())
    metrics.update({f"{name}_critic_loss": float(loss.detach()) for name, loss in critic_losses.items()})
    return ReferenceStep(actor_loss, critic_losses, metrics)


def signal_of(name: str) -> str:
    """The product's signal name of ``reward`` or ``cost``."""
    return REWARD if name == REWARD else cost_signal(name)


def _scored(batch: ReferenceBatch, mask: Tensor, start: int) -> Scored:
    """What training's estimator takes: the response's columns, and a constraint that holds everywhere."""
    rows = [str(row) for row in range(mask.shape[0])]
    return Scored(
        request_ids=rows,
        prompt_ids=rows,
        terminal={signal_of(name): scores for name, scores in batch.terminal.items()},
        subset={name: torch.ones(len(rows), dtype=torch.bool) for name in batch.terminal if name != REWARD},
        mask=mask,
        proximal_logprobs=batch.log_probs[:, start:],
        reference_logprobs=batch.reference_log_probs[:, start:],
        values={signal_of(name): values[:, start:] for name, values in batch.values.items()},
    )


@torch.no_grad()
def _metrics(
    batch: ReferenceBatch,
    scored: Scored,
    settings: ReferenceConstants,
    start: int,
    advantages: Mapping[str, Tensor],
    returns: Mapping[str, Tensor],
    new_values: Mapping[str, Tensor],
) -> dict[str, float]:
    mask = scored.mask
    lengths = mask.sum(dim=-1).double()
    kl = ((scored.proximal_logprobs - scored.reference_logprobs) * mask).sum(dim=-1).mean()
    metrics = {
        "kl_divergence": float(kl),
        "mean_generated_length": float(lengths.mean()),
        "max_generated_length": float(lengths.max()),
    }
    for name, terminal in batch.terminal.items():
        shape = shape_rewards if name == REWARD else shape_costs
        shaped = shape(
            batch.log_probs,
            batch.reference_log_probs,
            terminal,
            batch.attention_mask[:, 1:].bool(),
            kl_coefficient=settings.kl_coefficient,
            clip=settings.clip_score,
        )[:, start:]
        metrics[name] = float(terminal.mean())
        metrics[f"{name}_with_kl_penalty"] = float((shaped * mask).sum(dim=-1).mean())
        metrics[f"{name}_advantage"] = float(masked_mean(advantages[name], mask))
        metrics[f"{name}_return"] = float(masked_mean(returns[name], mask))
        metrics[f"{name}_value"] = float(masked_mean(new_values[name], mask))
    return metrics
