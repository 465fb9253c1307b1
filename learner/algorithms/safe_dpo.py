"""SafeDPO: DPO on pairs whose order the safety labels correct (Kim et al. 2025, arXiv 2505.20065).

No cost model, no multiplier and no second phase: under the hard constraint that an unsafe answer has probability 0, the
optimal policy is DPO's on reordered pairs. There is no limit to set; the margin only says how fast unsafe answers go.
"""

from __future__ import annotations

from torch import Tensor

from learner.algorithms.dpo import Comparison, DirectLoss, dpo_losses


def safe_dpo_losses(
    policy_better: Tensor,
    policy_worse: Tensor,
    reference_better: Tensor,
    reference_worse: Tensor,
    *,
    beta: float,
    margin: float,
    margin_weights: Tensor,
) -> DirectLoss:
    """``-LS(beta * gap - Delta * [worse is unsafe and better is safe])``, mean over pairs.

    Args:
        policy_better, policy_worse, reference_better, reference_worse: as in `dpo_losses`, of reordered pairs.
        margin: Delta, nats of implicit reward; 0 leaves only the reordering.
        margin_weights: ``[B]``, 1 where the pair is (safe, unsafe), else 0.
    """
    return dpo_losses(
        policy_better, policy_worse, reference_better, reference_worse, beta=beta, margin=margin * margin_weights
    )


def compare(better_response_id: int, safe: tuple[bool | None, bool | None]) -> Comparison | None:
    """Safe beats unsafe whatever helps more; of two safe responses the more helpful one is better.

    None where the pair teaches nothing: both are unsafe (preferring either would teach harm), or a label is missing.
    """
    first, second = safe
    if first is None or second is None or not (first or second):
        return None
    if first and second:
        return Comparison(better_response_id)
    return Comparison(0 if first else 1, margin_weight=1.0)
