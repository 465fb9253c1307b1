"""Which tokens of a pair the reference counts: from where the two sequences differ, not from where the response starts.

1. The divergence index is the first position whose token ids differ, padding included.
2. Token-wise preference losses compare both rows from there to the later of the two ends; the shorter row's padding is
   scored too. The mean over tokens, then over pairs.
3. DPO's log-probs are on the shifted axis (index t is token t + 1), but the reference sums from the divergence index to
   the end index as they are: the first differing token is left out, and in a padded row the first pad is counted.
   The textbook span is one index earlier on both sides.

The product sums a whole response and scores its last token only (``learner/algorithms/dpo.py``, ``learner/algorithms/losses.py``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.algorithms.losses import PreferenceLoss, pair_accuracy, sign_accuracy


def divergence_index(first_ids: Tensor, second_ids: Tensor) -> Tensor:
    """Int64 ``[B]``: the first column in which rows of token ids ``[B, T]`` differ.

    Raises:
        ValueError: two rows are the same; names the row.
    """
    differs = first_ids != second_ids
    identical_rows = (~differs.any(dim=1)).nonzero().flatten().tolist()
    if identical_rows:
        raise ValueError(f"rows {identical_rows} are the same on both sides: such a pair has no preference")
    return differs.int().argmax(dim=1)


def span_sum(x: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """``[B]``: the sum of ``x`` ``[B, T]`` over columns ``first`` to ``last`` ``[B]``, both included."""
    columns = torch.arange(x.shape[1], device=x.device)[None, :]
    inside = (columns >= first[:, None]) & (columns <= last[:, None])
    return torch.where(inside, x, torch.zeros_like(x)).sum(dim=1)


def dpo_span(diverges: Tensor, ends: Tensor, *, quirk: bool) -> tuple[Tensor, Tensor]:
    """First and last column ``[B]`` of the shifted axis that DPO sums; ``quirk`` as the reference does (fact 3).

    Args:
        diverges, ends: positions of tokens ``[B]``.
    """
    return (diverges, ends) if quirk else (diverges - 1, ends - 1)


def token_wise_reward_loss(
    better_scores: Tensor,
    worse_scores: Tensor,
    first: Tensor,
    better_ends: Tensor,
    worse_ends: Tensor,
    *,
    regularisation: float,
) -> PreferenceLoss:
    """The reward model's loss over the span of fact 2, from scores ``[B, T]``; accuracy by the end scores."""
    last = torch.maximum(better_ends, worse_ends)
    losses = []
    for row in range(better_scores.shape[0]):
        better, worse = (side[row, first[row] : last[row] + 1] for side in (better_scores, worse_scores))
        loss = -F.logsigmoid(better - worse).mean()
        losses.append(loss + regularisation * torch.stack([better, worse]).square().mean())
    accuracy = pair_accuracy(at(better_scores, better_ends), at(worse_scores, worse_ends))
    return PreferenceLoss(torch.stack(losses).mean(), accuracy)


def token_wise_cost_loss(
    safer_scores: Tensor,
    less_safe_scores: Tensor,
    safer_signs: Tensor,
    less_safe_signs: Tensor,
    first: Tensor,
    safer_ends: Tensor,
    less_safe_ends: Tensor,
    *,
    regularisation: float,
) -> PreferenceLoss:
    """The cost model's loss over the span of fact 2; signs z ``[B]``: +1 unsafe, -1 safe; accuracies by the end scores."""
    last = torch.maximum(safer_ends, less_safe_ends)
    losses = []
    for row in range(safer_scores.shape[0]):
        safer, less_safe = (side[row, first[row] : last[row] + 1] for side in (safer_scores, less_safe_scores))
        pair = -F.logsigmoid(less_safe - safer).mean()
        signs = -F.logsigmoid(safer_signs[row] * safer).mean() - F.logsigmoid(less_safe_signs[row] * less_safe).mean()
        losses.append(pair + signs + regularisation * torch.stack([safer, less_safe]).square().mean())
    ends = torch.stack([at(safer_scores, safer_ends), at(less_safe_scores, less_safe_ends)])
    return PreferenceLoss(
        torch.stack(losses).mean(),
        pair_accuracy(ends[1], ends[0]),
        sign_accuracy(ends, torch.stack([safer_signs, less_safe_signs])),
    )


def at(scores: Tensor, columns: Tensor) -> Tensor:
    """``[B]``: one column of each row of ``[B, T]``."""
    return scores.gather(1, columns[:, None]).squeeze(1)
