"""The reference's normalisers of end scores: running moments that its score heads carry.

1. Moments are per column over the rows of a batch; the batch's variance is the unbiased one (n - 1).
2. Both start at mean 0, variance 1, count 0.
3. ``MovingAverage`` mixes each batch in with weight 1 - momentum, its size ignored; the start is not corrected for.
4. ``RunningMoments`` merges by counts, and takes variance * count as the sum of squares on both sides, though the
   variance is the unbiased one: a small error that stays.
5. ``affine`` is (x - mean)/(std + eps), ``scale`` x/(std + eps), ``translate`` x - mean, ``identity`` x.

The product has none of this: score heads stay as they were trained, and the reward is normalised once by the preference
set (``learner/supervised/preference.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from learner.models.score_models.beaver_layout import EPSILON

Mode = Literal["affine", "scale", "translate", "identity"]


class Normaliser(ABC):
    """Moments ``[D]`` of the rows ``[n, D]`` seen so far, and the normalisation by them."""

    def __init__(self, mean: Tensor, var: Tensor, epsilon: float = EPSILON) -> None:
        self.mean, self.var, self.epsilon = mean, var, epsilon
        self.count = 0

    @property
    def std(self) -> Tensor:
        """Standard deviation ``[D]``."""
        return self.var.sqrt()

    def update(self, rows: Tensor) -> None:
        """Take in a batch ``[n, D]``.

        Raises:
            ValueError: fewer than two rows, which have no unbiased variance.
        """
        if rows.shape[0] < 2:
            raise ValueError(f"a batch of {rows.shape[0]} rows has no unbiased variance: give two or more")
        rows = rows.detach()
        self._merge(rows.mean(dim=0), rows.var(dim=0, unbiased=True), rows.shape[0])
        self.count += rows.shape[0]

    @abstractmethod
    def _merge(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the moments by those of a batch."""

    def normalise(self, rows: Tensor, mode: Mode) -> Tensor:
        """``[…, D]`` by the present moments."""
        if mode == "identity":
            return rows
        if mode == "translate":
            return rows - self.mean
        centred = rows - self.mean if mode == "affine" else rows
        return centred / (self.std + self.epsilon)


class MovingAverage(Normaliser):
    """Exponential moving averages of the batches' means and variances (facts 1 to 3)."""

    def __init__(self, mean: Tensor, var: Tensor, momentum: float, epsilon: float = EPSILON) -> None:
        super().__init__(mean, var, epsilon)
        self.momentum = momentum

    def _merge(self, mean: Tensor, var: Tensor, count: int) -> None:
        self.mean = self.momentum * self.mean + (1.0 - self.momentum) * mean
        self.var = self.momentum * self.var + (1.0 - self.momentum) * var


class RunningMoments(Normaliser):
    """Mean and variance over all rows seen, merged batch by batch (facts 1, 2 and 4)."""

    def _merge(self, mean: Tensor, var: Tensor, count: int) -> None:
        total = self.count + count
        delta = mean - self.mean
        between = delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.var = (self.var * self.count + var * count + between) / total


def fresh_moments(columns: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Fact 2: mean 0 and variance 1, each ``[columns]``."""
    return torch.zeros(columns, dtype=dtype), torch.ones(columns, dtype=dtype)
