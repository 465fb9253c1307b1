"""One PPO, PPO-Lag or reward-shaping step exactly as the papers' reference computes it.

For golden checks and the ``reference`` mode only: full sequences with left-padded prompts, log-probs without
temperature, windows per rank. The product's own step composes the same functions in ``learner/policy.py``.
Shapes: ``B`` rows, ``T`` tokens, ``L = T - 1`` the shifted axis (index t belongs to token t + 1), ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learner.advantages import generalised_advantages, shape_costs, shape_rewards
from learner.losses import critic_loss, gather_log_probs, masked_mean, policy_loss
from learner.signals.combine import combine_advantages


def reference_episode_cost(rank_windows: Sequence[Sequence[float]]) -> float:
    """The reference's J: the float32 mean of each rank's window, then the mean over ranks, whatever their counts."""
    means = [np.mean(np.asarray(window, dtype=np.float32), dtype=np.float32) for window in rank_windows]
    return float(np.mean(np.asarray(means, dtype=np.float32), dtype=np.float32))


@dataclass(frozen=True)
class ReferenceSettings:
    """The reference's constants of one step."""

    kl_coefficient: float
    clip_ratio: float = 0.2
    clip_score: float = 50.0
    clip_value: float = 5.0
    gamma: float = 1.0
    gae_lambda: float = 0.95


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
    settings: ReferenceSettings,
    multiplier: float = 0.0,
) -> ReferenceStep:
    """Shaping, GAE per signal, the actor's loss and each critic's loss.

    Args:
        new_logits: ``[B, T, V]`` of the policy being trained.
        new_critic_scores: ``[B, T]`` per signal.
        multiplier: lambda after this step's dual update; unused without a ``cost`` signal.
    """
    start = batch.prompt_length - 1
    shifted_mask = batch.attention_mask[:, 1:].bool()
    mask = shifted_mask[:, start:]
    shaped: dict[str, Tensor] = {}
    advantages: dict[str, Tensor] = {}
    returns: dict[str, Tensor] = {}
    for name, terminal in batch.terminal.items():
        shape = shape_costs if name == "cost" else shape_rewards
        shaped[name] = shape(
            batch.log_probs, batch.reference_log_probs, terminal, shifted_mask,
            kl_coefficient=settings.kl_coefficient, clip=settings.clip_score,
        )[:, start:]  # fmt: skip
        advantages[name], returns[name] = generalised_advantages(
            shaped[name], batch.values[name][:, start:], mask, gamma=settings.gamma, gae_lambda=settings.gae_lambda
        )
    costs = {name: value for name, value in advantages.items() if name == "cost"}
    combined = combine_advantages(advantages["reward"], costs, dict.fromkeys(costs, multiplier), {})
    new_log_probs = gather_log_probs(new_logits[:, :-1], batch.input_ids[:, 1:])
    actor_loss = policy_loss(
        new_log_probs[:, start:], batch.log_probs[:, start:], combined, mask, clip_ratio=settings.clip_ratio
    )
    new_values = {name: scores[:, :-1][:, start:] for name, scores in new_critic_scores.items()}
    critic_losses = {
        name: critic_loss(value, batch.values[name][:, start:], returns[name], mask, clip_value=settings.clip_value)
        for name, value in new_values.items()
    }
    metrics = _metrics(batch, mask, start, shaped, advantages, returns, new_values)
    metrics["actor_loss"] = float(actor_loss.detach())
    metrics.update({f"{name}_critic_loss": float(loss.detach()) for name, loss in critic_losses.items()})
    return ReferenceStep(actor_loss, critic_losses, metrics)


@torch.no_grad()
def _metrics(
    batch: ReferenceBatch,
    mask: Tensor,
    start: int,
    shaped: Mapping[str, Tensor],
    advantages: Mapping[str, Tensor],
    returns: Mapping[str, Tensor],
    new_values: Mapping[str, Tensor],
) -> dict[str, float]:
    lengths = mask.sum(dim=-1).double()
    kl = ((batch.log_probs - batch.reference_log_probs)[:, start:] * mask).sum(dim=-1).mean()
    metrics = {
        "kl_divergence": float(kl),
        "mean_generated_length": float(lengths.mean()),
        "max_generated_length": float(lengths.max()),
    }
    for name, terminal in batch.terminal.items():
        metrics[name] = float(terminal.mean())
        metrics[f"{name}_with_kl_penalty"] = float((shaped[name] * mask).sum(dim=-1).mean())
        metrics[f"{name}_advantage"] = float(masked_mean(advantages[name], mask))
        metrics[f"{name}_return"] = float(masked_mean(returns[name], mask))
        metrics[f"{name}_value"] = float(masked_mean(new_values[name], mask))
    return metrics
