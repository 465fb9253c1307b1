"""Losses of the policy, the critics, the reward and cost models and supervised fine-tuning. Pure torch.

Signs: a larger reward is more helpful; a positive cost is unsafe. Masks are true on valid tokens and come from
lengths, never from token ids. ``B`` rows, ``T`` tokens, ``V`` vocabulary. Log-probs in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Count = Tensor | float | int


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the valid tokens of each row, then over rows with at least one; no mask: mean of all elements."""
    return x.mean() if mask is None else reduce_tokens(x, mask)


def reduce_tokens(
    x: Tensor, mask: Tensor, *, token_count: Count | None = None, row_count: Count | None = None
) -> Tensor:
    """Reduce ``x`` ``[B, T]`` over its valid tokens to a scalar.

    Default: the token mean of each row, then the mean over rows (the reference); rows with no valid token count for
    nothing, and a batch of only such rows gives 0. With ``row_count`` the sum over rows is divided by that instead.
    With ``token_count`` the sum over tokens is divided by that: give the count over the whole optimiser step, all
    micro-batches and ranks, for a token mean that does not depend on how rows were dealt out.

    Raises:
        ValueError: both counts given.
    """
    if token_count is not None and row_count is not None:
        raise ValueError("give token_count (token mean) or row_count (row mean), not both")
    valid = mask.bool()
    valid_values = torch.where(valid, x, torch.zeros_like(x))
    if token_count is not None:
        return valid_values.sum() / token_count
    tokens = valid.sum(dim=-1)
    row_means = valid_values.sum(dim=-1) / tokens.clamp(min=1)
    if row_count is None:
        row_count = (tokens > 0).sum().clamp(min=1)
    return row_means.sum() / row_count


def truncated_importance_weights(proximal_log_probs: Tensor, behaviour_log_probs: Tensor, cap: float) -> Tensor:
    """w = min(cap, exp(proximal - behaviour)), ``[B, T]``, without gradient.

    Corrects for samples drawn by an older or differently rounded policy (truncated importance sampling, Ionides 2008).

    Raises:
        ValueError: cap not above 0.
    """
    if cap <= 0.0:
        raise ValueError(f"the cap of importance weights must be above 0, not {cap}")
    return torch.exp(proximal_log_probs.detach() - behaviour_log_probs.detach()).clamp(max=cap)


def policy_loss(
    current_log_probs: Tensor,
    proximal_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_ratio: float = 0.2,
    importance_weights: Tensor | None = None,
    token_count: Count | None = None,
    row_count: Count | None = None,
) -> Tensor:
    """Clipped surrogate: ``-reduce(w * min(A*q, A*clip(q, 1-eps, 1+eps)))`` with q = exp(current - proximal).

    Schulman et al. 2017, eq. 7; the reduction is ``reduce_tokens``'s. All tensors ``[B, T]``; only
    ``current_log_probs`` takes a gradient.
    """
    log_ratio = torch.where(
        mask.bool(), current_log_probs - proximal_log_probs.detach(), torch.zeros_like(current_log_probs)
    )
    ratio = torch.exp(log_ratio)
    advantages = advantages.detach()
    surrogate = torch.minimum(advantages * ratio, advantages * torch.clamp(ratio, 1.0 - clip_ratio, 1.0 + clip_ratio))
    if importance_weights is not None:
        surrogate = importance_weights.detach() * surrogate
    return -reduce_tokens(surrogate, mask, token_count=token_count, row_count=row_count)


def kl_loss(
    current_log_probs: Tensor,
    reference_log_probs: Tensor,
    mask: Tensor,
    *,
    token_count: Count | None = None,
    row_count: Count | None = None,
) -> Tensor:
    """``reduce(exp(d) - d - 1)`` with d = reference - current, nats: its value estimates KL(current || reference), never negative.

    Its gradient is another divergence's: over tokens drawn by the current policy its mean is (1 - reference/current) times the
    score function, which is the gradient of KL(reference || current).

    Schulman's k3 as a loss term (DeepSeekMath, arXiv 2402.03300, eq. 4), on tokens drawn by the current policy. All
    tensors ``[B, T]``; only ``current_log_probs`` takes a gradient.
    """
    gap = torch.where(
        mask.bool(), reference_log_probs.detach() - current_log_probs, torch.zeros_like(current_log_probs)
    )
    # expm1: at gaps near 0 the difference of exp(d) and 1 + d would be rounding.
    return reduce_tokens(torch.expm1(gap) - gap, mask, token_count=token_count, row_count=row_count)


def clip_fraction(
    current_log_probs: Tensor, proximal_log_probs: Tensor, mask: Tensor, clip_ratio: float = 0.2
) -> Tensor:
    """Share of valid tokens whose ratio left [1 - eps, 1 + eps]; scalar in [0, 1]."""
    ratio = torch.exp((current_log_probs - proximal_log_probs).detach())
    outside = ((ratio - 1.0).abs() > clip_ratio).float()
    return reduce_tokens(outside, mask, token_count=mask.sum().clamp(min=1))


def log_prob_gap(first: Tensor, second: Tensor, mask: Tensor) -> dict[str, float]:
    """Quantiles of |first - second| over valid tokens, nats: ``p50``, ``p90``, ``p99``, ``max``; all 0 with none.

    Quantiles and never only a mean: one token sampled under wrong weights is what this must show.
    """
    gaps = (first - second).detach().abs()[mask.bool()].double()
    if gaps.numel() == 0:
        return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    ordered = gaps.sort().values  # torch.quantile refuses more than 2**24 elements
    last = ordered.numel() - 1
    return {
        name: float(ordered[round(share * last)])
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    }


def critic_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip_value: float = 5.0,
    token_count: Count | None = None,
    row_count: Count | None = None,
) -> Tensor:
    """``0.5 * reduce(max((V - G)^2, (clip(V, V_old +- clip_value) - G)^2))``; all ``[B, T]``.

    For a cost critic pass the mask with rows outside the constraint's subset set to false.
    """
    old_values, returns = old_values.detach(), returns.detach()
    clipped = torch.maximum(torch.minimum(values, old_values + clip_value), old_values - clip_value)
    squared = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * reduce_tokens(squared, mask, token_count=token_count, row_count=row_count)


class PreferenceLoss(NamedTuple):
    """A preference model's loss and accuracies, scalars; ``sign_accuracy`` only for cost models."""

    loss: Tensor
    accuracy: Tensor
    """Share of pairs ranked as labelled."""
    sign_accuracy: Tensor | None = None
    """Share of responses (two per pair) whose score has the labelled sign."""


def reward_model_loss(better_scores: Tensor, worse_scores: Tensor, *, regularisation: float = 1e-3) -> PreferenceLoss:
    """``-LS(r_better - r_worse) + rho * mean(r^2)``, mean over pairs; end scores ``[B]`` (paper B, section 3.2)."""
    loss = -F.logsigmoid(better_scores - worse_scores).mean()
    loss = loss + regularisation * torch.stack([better_scores, worse_scores]).square().mean()
    return PreferenceLoss(loss, pair_accuracy(better_scores, worse_scores))


def cost_model_loss(
    safer_scores: Tensor,
    less_safe_scores: Tensor,
    safer_signs: Tensor,
    less_safe_signs: Tensor,
    *,
    regularisation: float = 1e-3,
) -> PreferenceLoss:
    """``-LS(c_less - c_safer) - LS(z_safer*c_safer) - LS(z_less*c_less) + rho * mean(c^2)`` (paper B, section 3.2).

    Args:
        safer_scores, less_safe_scores: end scores ``[B]``.
        safer_signs, less_safe_signs: z ``[B]``, +1 for an unsafe response, -1 for a safe one.
    """
    z_safer, z_less = safer_signs.to(safer_scores.dtype), less_safe_signs.to(less_safe_scores.dtype)
    pairwise = -F.logsigmoid(less_safe_scores - safer_scores)
    signs = -F.logsigmoid(z_safer * safer_scores) - F.logsigmoid(z_less * less_safe_scores)
    scores = torch.stack([safer_scores, less_safe_scores])
    loss = (pairwise + signs).mean() + regularisation * scores.square().mean()
    return PreferenceLoss(
        loss, pair_accuracy(less_safe_scores, safer_scores), sign_accuracy(scores, torch.stack([z_safer, z_less]))
    )


def pair_accuracy(higher_scores: Tensor, lower_scores: Tensor) -> Tensor:
    """Share of pairs with higher > lower strictly (a tie is wrong); ``[B]`` each, float32 scalar."""
    return (higher_scores > lower_scores).float().mean()


def sign_accuracy(scores: Tensor, signs: Tensor) -> Tensor:
    """Share of scores with the sign of their label (+1 unsafe, -1 safe); a score of 0 is wrong. Float32 scalar."""
    return (scores * signs > 0).float().mean()


def sft_loss(log_probs: Tensor, mask: Tensor, *, token_count: Count | None = None) -> Tensor:
    """Negative log-likelihood of the response tokens, nats per token.

    Args:
        log_probs, mask: ``[B, T]``, the mask true on tokens to be learned.
        token_count: the denominator; None counts this batch's tokens (the reference's cross-entropy over a batch).
    """
    if token_count is None:
        token_count = mask.sum().clamp(min=1)
    return -reduce_tokens(log_probs, mask, token_count=token_count)
