"""How the reference pads its batches.

1. The two sides of a pair share one width, that of the longest row of both; padded on the right.
2. Prompts alone are padded on the left, so that every response starts in one column.
3. Supervised rows are padded on the right, labels by -100.
4. Masks come from lengths for pairs and prompts, but are ``id != pad`` for supervised rows: a pad id inside a text is
   masked too.

The product pads on the right everywhere and keeps lengths, never masks from ids (``learner/models/modules.py:pad_right``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from learner.algorithms.advantages import length_mask
from learner.models.modules import pad_right

IGNORED_LABEL = -100

Rows = Sequence[Sequence[int]]


def pad_pairs(first: Rows, second: Rows, pad_id: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Ids and masks ``[B, T]`` of each side (fact 1); first is the better or safer side."""
    ids, lengths = pad_right([np.asarray(row, dtype=np.int64) for row in (*first, *second)], pad_id)
    mask = length_mask(lengths, ids.shape[1])
    n = len(first)
    return (ids[:n], mask[:n]), (ids[n:], mask[n:])


def pad_prompts(rows: Rows, pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and mask ``[B, S]``, padded on the left (fact 2)."""
    ids, lengths = pad_right([np.asarray(row, dtype=np.int64)[::-1] for row in rows], pad_id)
    return ids.flip(1), length_mask(lengths, ids.shape[1]).flip(1)


def pad_supervised(rows: Rows, labels: Rows, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels and mask ``[B, T]`` (facts 3 and 4)."""
    ids, _ = pad_right([np.asarray(row, dtype=np.int64) for row in rows], pad_id)
    padded_labels, _ = pad_right([np.asarray(row, dtype=np.int64) for row in labels], IGNORED_LABEL)
    return ids, padded_labels, torch.ne(ids, pad_id)
