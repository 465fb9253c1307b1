"""The reference's score head: linear with a bias, then a normaliser.

1. Every token has a score; the end score is the one at the last position that the mask keeps.
2. In train mode the normaliser takes the batch's end scores in first, and the same forward pass is then normalised by the
   new moments.
3. A reward is normalised ``affine``; a cost only by ``scale``, which keeps its sign; a critic not at all (and its moments
   still move).

The product's heads have no bias and no normaliser, so that plain transformers gives the same scores
(``learner/models/modules.py:forward_end_scores``).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import linear

from learner.algorithms.advantages import last_valid_index
from tests.golden.papers_reference.normaliser import Mode, Normaliser

ScoreType = Literal["reward", "cost", "critic"]
MODES: dict[ScoreType, Mode] = {"reward": "affine", "cost": "scale", "critic": "identity"}


class HeadScores(NamedTuple):
    """What a head says of a batch."""

    scores: Tensor
    """``[B, T]``."""
    end_index: Tensor
    """Int64 ``[B]``."""
    end_scores: Tensor
    """``[B]``."""


def head_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    mask: Tensor,
    *,
    normaliser: Normaliser | None = None,
    score_type: ScoreType = "critic",
    train: bool = False,
) -> HeadScores:
    """Scores of hidden states ``[B, T, H]`` by a head ``[1, H]`` with bias ``[1]``; ``mask`` is ``[B, T]``.

    With ``train`` the normaliser's moments move before they are used.
    """
    scores = linear(hidden, weight, bias)
    end = last_valid_index(mask)
    end_scores = scores[range(len(end)), end]
    if normaliser is not None:
        if train:
            normaliser.update(end_scores)
        scores = normaliser.normalise(scores, MODES[score_type])
        end_scores = normaliser.normalise(end_scores, MODES[score_type])
    return HeadScores(scores.squeeze(-1), end, end_scores.squeeze(-1))
