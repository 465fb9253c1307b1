"""What the learner ranks tell each other besides gradients: a few float64 sums, maxima and gathered columns."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(Protocol):
    """Collective calls of one rank; all ranks make the same ones in the same order."""

    rank: int
    size: int

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks, float64 on the host, of the shape of `values`."""
        ...

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over ranks, float64 on the host, of the shape of `values`."""
        ...

    def gather(self, column: Tensor) -> Tensor:
        """All ranks' ``[n_r]`` in rank order, float64 on the host, ``[sum n_r]``."""
        ...

    def gather_objects(self, value: Any) -> list[Any]:
        """One small picklable value of every rank, in rank order."""
        ...


class OneRank:
    """A group of one: nothing to exchange."""

    rank = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks, float64 on the host."""
        return _host(values)

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over ranks, float64 on the host."""
        return _host(values)

    def gather(self, column: Tensor) -> Tensor:
        """All ranks' values in rank order, float64 on the host."""
        return _host(column)

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        return [value]


class TorchRanks:
    """Over torch.distributed's default group.

    Args:
        device: where the group's backend wants tensors (NCCL: the rank's GPU).
    """

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = device

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks, float64 on the host."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over ranks, float64 on the host."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        copy = _host(values).clone().to(self._device)
        dist.all_reduce(copy, op=operation)
        return copy.cpu()

    def gather(self, column: Tensor) -> Tensor:
        """All ranks' values in rank order, float64 on the host."""
        width = int(self.max(torch.tensor(float(column.numel()))))
        padded = torch.full((width + 1,), 0.0, dtype=torch.float64)
        padded[0] = column.numel()
        padded[1 : 1 + column.numel()] = _host(column)
        padded_columns = [torch.empty_like(padded, device=self._device) for _ in range(self.size)]
        dist.all_gather(padded_columns, padded.to(self._device))
        return torch.cat([padded_column[1 : 1 + int(padded_column[0])].cpu() for padded_column in padded_columns])

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, value)
        return everyone


def _host(values: Tensor) -> Tensor:
    return values.detach().to(device="cpu", dtype=torch.float64)
