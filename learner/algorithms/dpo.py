"""DPO: the policy is its own reward model, learned from which answer is better (Rafailov et al. 2023, arXiv 2305.18290).

With the optimum of the KL-regularised objective solved for the reward, r(x, y) = beta * log(pi(y|x) / pi_ref(y|x)) up to
a constant of the prompt (eq. 5), and the reward model's own loss trains the policy (eq. 7). Nothing in it knows of harm.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class DirectLoss(NamedTuple):
    """Loss (scalar with gradient) and what it implies of each pair, without gradient."""

    loss: Tensor
    better_rewards: Tensor
    """beta * log(pi / pi_ref) of the better responses ``[B]``, nats."""
    worse_rewards: Tensor
    """``[B]``."""
    accuracy: Tensor
    """Share of pairs whose better response has the higher implicit reward; a tie is wrong. Float32 scalar."""


class Comparison(NamedTuple):
    """What one labelled pair teaches."""

    better: int
    """Which response (0 or 1) the policy learns to prefer."""
    margin_weight: float = 0.0
    """By how many margins it must win; `safe_dpo` only."""


def dpo_losses(
    policy_better: Tensor,
    policy_worse: Tensor,
    reference_better: Tensor,
    reference_worse: Tensor,
    *,
    beta: float,
    margin: Tensor | float = 0.0,
) -> DirectLoss:
    """``-LS(beta * ((pi_b - ref_b) - (pi_w - ref_w)) - margin)``, mean over pairs.

    Args:
        policy_better, policy_worse, reference_better, reference_worse: summed response log-probs ``[B]``, nats.
        beta: strength of the implicit KL penalty.
        margin: by how many nats of implicit reward the better response must win; scalar or ``[B]``. DPO has none.
    """
    better = beta * (policy_better - reference_better)
    worse = beta * (policy_worse - reference_worse)
    loss = -F.logsigmoid(better - worse - margin).mean()
    better, worse = better.detach(), worse.detach()
    return DirectLoss(loss, better, worse, (better > worse).float().mean())


def compare(better_response_id: int, safe: tuple[bool | None, bool | None]) -> Comparison | None:
    """The more helpful response is better; safety labels are not looked at."""
    return Comparison(better_response_id)
