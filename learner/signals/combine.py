"""One advantage from one objective and any number of constraints.

A_i = (A_R,i - sum_k lambda_k m_ik A_Ck,i) / (1 + sum_k lambda_k m_ik)

Invariants: with no constraint, or for a prompt outside every subset, the result is the reward's advantage bit for bit;
and since every cost stream carries +beta*k where the reward's carries -beta*k, the net KL weight is beta whatever the
multipliers and masks (paper B's KL-regularised rewards and costs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def combine_advantages(
    reward_advantages: Tensor,
    cost_advantages: Mapping[str, Tensor],
    multipliers: Mapping[str, float],
    subset_masks: Mapping[str, Tensor],
) -> Tensor:
    """Scalarise advantages per sample, shape and dtype of ``reward_advantages``.

    Args:
        reward_advantages: ``[B, T]``, units of reward.
        cost_advantages: per constraint ``[B, T]``, units of g.
        multipliers: lambda_k >= 0 per constraint, reward per g.
        subset_masks: m_k ``[B]`` per constraint, true where it applies to the row's prompt; a constraint that is
            missing here applies to every row.

    Raises:
        ValueError: a constraint has no multiplier or the other way round, or a multiplier is negative or not finite.
    """
    if set(cost_advantages) != set(multipliers) or not set(subset_masks) <= set(multipliers):
        raise ValueError(
            f"constraints do not match: advantages for {sorted(cost_advantages)}, multipliers for {sorted(multipliers)}, "
            f"masks for {sorted(subset_masks)}"
        )
    numerator = reward_advantages
    rows = reward_advantages.shape[0]
    denominator = torch.ones((rows, 1), dtype=reward_advantages.dtype, device=reward_advantages.device)
    for name in sorted(multipliers):
        multiplier = multipliers[name]
        if not 0.0 <= multiplier < math.inf:
            raise ValueError(f"multiplier of {name} must be finite and at least 0, got {multiplier}")
        member = _column(subset_masks.get(name), denominator)
        zero = torch.zeros((), dtype=numerator.dtype, device=numerator.device)
        numerator = numerator - torch.where(member, multiplier * cost_advantages[name], zero)
        denominator = denominator + multiplier * member.to(denominator.dtype)
    return numerator / denominator


def _column(subset_mask: Tensor | None, values: Tensor) -> Tensor:
    if subset_mask is None:
        return torch.ones_like(values, dtype=torch.bool)
    return subset_mask.to(device=values.device, dtype=torch.bool).reshape(-1, 1)
