"""What one rank learns from in one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from learner.algorithms.estimators.base import Estimate
from learner.algorithms.experience import (
    Samples,
)


@dataclass(frozen=True)
class Experience:
    """One rank's samples with everything the losses need; all ``[B, R]``, zero outside the mask."""

    samples: Samples
    mask: Tensor
    proximal_logprobs: Tensor
    importance_weights: Tensor
    values: Mapping[str, Tensor]
    estimate: Estimate
    """Advantages and returns per signal, before combination."""
    advantages: Tensor
    """Combined: what the actor sees."""
