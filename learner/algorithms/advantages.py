"""From terminal scores to per-token advantages: KL shaping, GAE, whitening.

Invariant: every signal is shaped and estimated apart (each has its own stream and values), and nothing outside a mask
reaches a number inside it. ``B`` rows, ``T`` tokens; masks are true on valid tokens. Log-probs in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCORE_CLIP = 50.0
"""Bound of every shaped per-token value (the reference's clip_range_score)."""


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """Bool ``[B, width]``, true on the first ``lengths[i]`` columns of row i."""
    return torch.arange(width, device=lengths.device)[None, :] < lengths[:, None]


def last_valid_index(mask: Tensor) -> Tensor:
    """Int64 ``[B]``: the last column of each row of ``mask`` ``[B, T]`` that is true; -1 in a row with none."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask.bool(), columns, columns.new_full((), -1)).amax(dim=1)


def shape_rewards(
    log_probs: Tensor,
    reference_log_probs: Tensor,
    reward: Tensor,
    mask: Tensor,
    *,
    kl_coefficient: float,
    clip: float = SCORE_CLIP,
) -> Tensor:
    """r_t = clip(-beta*k_t + [end]*R, +-clip), ``[B, T]``, with k_t = log p_t - log p_ref,t.

    Args:
        log_probs, reference_log_probs: ``[B, T]`` at the same temperature.
        reward: ``[B]`` terminal scores, added at the last valid column; a row with no valid token gets none.
        mask: ``[B, T]``. Columns outside it carry the KL term too and are left to GAE's mask, as in the reference.
    """
    return _shaped(log_probs - reference_log_probs, reward, mask, -kl_coefficient, clip)


def shape_costs(
    log_probs: Tensor,
    reference_log_probs: Tensor,
    cost: Tensor,
    mask: Tensor,
    *,
    kl_coefficient: float,
    subset_mask: Tensor | None = None,
    clip: float = SCORE_CLIP,
) -> Tensor:
    """c_t = m * clip(+beta*k_t + [end]*C, +-clip), ``[B, T]``.

    Args:
        cost: ``[B]`` terminal g(C) of the constraint's measure.
        subset_mask: m ``[B]``; rows outside the subset are zero, their KL part included. None means every row.
    """
    shaped = _shaped(log_probs - reference_log_probs, cost, mask, kl_coefficient, clip)
    if subset_mask is None:
        return shaped
    return torch.where(subset_mask.bool()[:, None], shaped, torch.zeros_like(shaped))


def _shaped(log_ratio: Tensor, score: Tensor, mask: Tensor, kl_weight: float, clip: float) -> Tensor:
    columns = torch.arange(mask.shape[1], device=mask.device)
    is_end = columns[None, :] == last_valid_index(mask)[:, None]
    terminal = torch.where(is_end, score.to(log_ratio.dtype)[:, None], torch.zeros_like(log_ratio))
    return torch.clamp(kl_weight * log_ratio + terminal, -clip, clip)


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
    """GAE of one signal (Schulman et al. 2016, eq. 16): advantages and returns, both ``[B, T]``, zero outside the mask.

    Rewards and values outside the mask count as zero, and the value after the last column is zero, so a response ends
    at its last valid token. Returns are advantages + values, the critic's targets.

    Args:
        rewards, values, mask: ``[B, T]`` on response tokens, valid ones contiguous.
    """
    valid = mask.bool()
    rewards = torch.where(valid, rewards, torch.zeros_like(rewards))
    values = torch.where(valid, values, torch.zeros_like(values))
    next_advantage = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(values[:, 0])
    columns: list[Tensor] = []
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = delta + gamma * gae_lambda * next_advantage
        next_value = values[:, t]
        columns.append(next_advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, advantages + values


def advantage_moments(advantages: Tensor, mask: Tensor) -> Tensor:
    """Float64 ``[3]``: sum, sum of squares and count over valid tokens; ranks add theirs before ``mean_and_std``."""
    valid = advantages[mask.bool()].double()
    return torch.stack([valid.sum(), valid.square().sum(), valid.new_tensor(valid.numel())])


def mean_and_std(moments: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation from added ``advantage_moments``.

    Raises:
        ValueError: no valid token on any rank.
    """
    total, total_square, count = (float(moment) for moment in moments)
    if count == 0:
        raise ValueError("no valid token on any rank: there is nothing to whiten, the batch is empty")
    mean = total / count
    return mean, max(total_square / count - mean * mean, 0.0) ** 0.5


def whiten(advantages: Tensor, mask: Tensor, mean: float, std: float | None, *, epsilon: float = 1e-8) -> Tensor:
    """Centre, and with ``std`` also scale, the combined advantage; ``[B, T]``, zero outside the mask.

    Only for the combined advantage: whitening one stream would change lambda's unit. ``std`` None centres only.

    Args:
        mean, std: over all valid tokens of all ranks.
    """
    whitened = advantages - mean
    if std is not None:
        whitened = whitened / (std + epsilon)
    return torch.where(mask.bool(), whitened, torch.zeros_like(whitened))
