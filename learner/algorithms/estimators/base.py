"""What an algorithm is given and what it answers; each algorithm's module has one function `estimate`.

Shapes: ``B`` rows of this rank, ``R`` response tokens. Log-probs in nats. Every function is collective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from configs.schema.ppo import PpoSettings
from learner.engine.collective import Ranks


@dataclass(frozen=True)
class Scored:
    """One rank's samples after scoring and before anything is learned."""

    request_ids: Sequence[str]
    prompt_ids: Sequence[str]
    """Responses to one prompt share its id: they are a group, whichever ranks hold them."""
    terminal: Mapping[str, Tensor]
    """Per signal ``[B]``: the normalised reward, and g of each constraint's measure, divided by its scale."""
    subset: Mapping[str, Tensor]
    """Bool ``[B]`` per constraint: m_ik."""
    mask: Tensor
    proximal_logprobs: Tensor
    reference_logprobs: Tensor
    """``[B, R]``."""
    values: Mapping[str, Tensor]
    """Per signal ``[B, R]``; empty without critics."""
    maximises: bool = True
    """False: no objective; the reward is 0 everywhere."""


@dataclass(frozen=True)
class Estimate:
    """What a batch's signals say, before and after they become one advantage."""

    advantages: Mapping[str, Tensor]
    """Per signal ``[B, R]``; of a cost, positive is costlier."""
    combine: Callable[[Mapping[str, float]], Tensor]
    """lambda_k per constraint → the advantage ``[B, R]`` of the policy's loss, zero outside the mask."""
    returns: Mapping[str, Tensor] = field(default_factory=dict)
    """The critics' targets ``[B, R]``; empty without critics."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the whole batch; the same on every rank."""


class Estimator(Protocol):
    """A module of this package."""

    def estimate(self, scored: Scored, settings: PpoSettings, ranks: Ranks) -> Estimate:
        """Estimate every signal's advantage and say how they combine."""
        ...
