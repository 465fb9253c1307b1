"""Log-probs of given tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gather_log_probs(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probs ``[B, T]`` of ``labels`` ``[B, T]`` under ``logits`` ``[B, T, V]`` divided by the temperature.

    Computed in float32 at least, whatever the model's dtype. Every model's logits must use the sampling temperature,
    the reference's too, or the KL is not 0 at step 0.

    Raises:
        ValueError: temperature not above 0.
    """
    if temperature <= 0.0:
        raise ValueError(
            f"temperature must be above 0, not {temperature}: greedy samples have no log-probs to learn from"
        )
    exact = logits if logits.dtype == torch.float64 else logits.float()
    if temperature != 1.0:
        exact = exact / temperature
    return F.log_softmax(exact, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
