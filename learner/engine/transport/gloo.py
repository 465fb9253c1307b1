"""Weight broadcast over gloo: rank 0 is the sender inside a learner rank, ranks 1.. are generators.

The group has its own TCPStore and is separate from DeepSpeed's and vLLM's groups. Rank contract: every member joins epoch
``e`` with the same world size, then all take part in every broadcast, bucket by bucket in the plan's order. When a member is
lost, others fail at once or at the timeout; the group cannot be used any more and is built again as epoch ``e + 1``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from learner.engine.transport.plan import (
    TRAILER_BYTES,
    Bucket,
    BucketPlan,
    Trailer,
    TransportError,
    check_bucket,
    checksum,
    strip_wrappers,
)


@dataclass(frozen=True)
class StoreAddress:
    """Where a group's members meet."""

    host: str
    port: int


class TransportStore:
    """The TCPStore that every epoch's members meet at; lives as long as the sender's process.

    Args:
        host: this node's address as the generators see it.
    """

    def __init__(self, host: str, *, timeout_seconds: float) -> None:
        timeout = timedelta(seconds=timeout_seconds)
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        self.address = StoreAddress(host, self._store.port)


class GlooGroup:
    """One member of one epoch's group. Building it blocks until all `world_size` members have come.

    Args:
        own_host: this process's node as the others see it; none means the store's host (one machine).

    Raises:
        TransportError: not all came within `timeout_seconds`.
    """

    def __init__(
        self,
        address: StoreAddress,
        *,
        epoch: int,
        rank: int,
        world_size: int,
        timeout_seconds: float,
        own_host: str | None = None,
    ) -> None:
        self.epoch, self.rank, self.world_size = epoch, rank, world_size
        self._timeout = timedelta(seconds=timeout_seconds)
        try:
            store = dist.TCPStore(address.host, address.port, is_master=False, timeout=self._timeout)
            options = dist.ProcessGroupGloo._Options()
            options._timeout = self._timeout
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_host or address.host)]
            prefixed = dist.PrefixStore(f"weights/{epoch}", store)
            self._group = dist.ProcessGroupGloo(prefixed, rank, world_size, options)
        except RuntimeError as error:
            raise TransportError(
                f"weight group epoch {epoch}: rank {rank} of {world_size} could not join within {timeout_seconds:g} s ({error})"
            ) from error

    def broadcast(self, buffer: Tensor) -> None:
        """Send (rank 0) or receive (others) one contiguous host buffer.

        Raises:
            TransportError: a member is gone or silent.
        """
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = 0, 0, self._timeout
        try:
            self._group.broadcast([buffer], options).wait()
        except RuntimeError as error:
            raise TransportError(
                f"weight broadcast failed in epoch {self.epoch} at rank {self.rank}: {error}"
            ) from error


@dataclass(frozen=True)
class SendReport:
    """What one broadcast did."""

    version: int
    size_bytes: int
    seconds: float
    checksums: tuple[int, ...]
    """CRC-32 per bucket."""


class GlooSender:
    """Rank 0 of one epoch's group.

    Args:
        address: of the `TransportStore`, which the same process holds.
        world_size: 1 + generators.
    """

    def __init__(
        self, address: StoreAddress, *, world_size: int, epoch: int, timeout_seconds: float, own_host: str | None = None
    ) -> None:
        self._group = GlooGroup(
            address, epoch=epoch, rank=0, world_size=world_size, timeout_seconds=timeout_seconds, own_host=own_host
        )
        self.epoch = epoch

    def broadcast(self, parameters: Iterable[tuple[str, Tensor]], plan: BucketPlan, version: int) -> SendReport:
        """Send all parameters of the plan.

        Args:
            parameters: (name, whole tensor) in the plan's order, on any device and in any float dtype. It is always exhausted,
                also after an error, because iterating may be a collective that other ranks wait in.

        Raises:
            TransportError: a member is gone, or the tensors are not the plan's.
        """
        begin = time.perf_counter()
        stream = iter(parameters)
        sums: list[int] = []
        try:
            for index, bucket in enumerate(plan.buckets):
                buffer = self._fill(bucket, index, stream, plan, version)
                sums.append(Trailer.unpack(buffer.numpy()[-TRAILER_BYTES:]).checksum)
                self._send(index, buffer)
            extra = next(stream, None)
            if extra is not None:
                raise TransportError(
                    f"parameter {extra[0]} is not in the bucket plan: build the plan from the same model"
                )
        finally:
            for _ in stream:
                pass
        return SendReport(version, plan.total_bytes, time.perf_counter() - begin, tuple(sums))

    def _send(self, index: int, buffer: Tensor) -> None:
        self._group.broadcast(buffer)

    def _fill(
        self, bucket: Bucket, index: int, stream: Iterator[tuple[str, Tensor]], plan: BucketPlan, version: int
    ) -> Tensor:
        buffer = torch.zeros(bucket.buffer_bytes, dtype=torch.uint8)
        for parameter, offset in plan.of_bucket(bucket):
            name, tensor = next(stream, ("nothing", torch.empty(0)))
            if strip_wrappers(name) != parameter.name or tuple(tensor.shape) != parameter.shape:
                raise TransportError(
                    f"expected {parameter.name} {parameter.shape} next, got {name} {tuple(tensor.shape)}: "
                    "the parameters must come in the bucket plan's order"
                )
            raw = tensor.detach().to(device="cpu", dtype=getattr(torch, parameter.dtype)).contiguous().reshape(-1)
            buffer[offset : offset + parameter.size_bytes] = raw.view(torch.uint8)
        sum_ = checksum(buffer.numpy()[:-TRAILER_BYTES])
        trailer = Trailer(self.epoch, version, index, plan.digest, sum_).pack()
        buffer[-TRAILER_BYTES:] = torch.from_numpy(trailer)
        return buffer


def receive_buckets(group: GlooGroup, plan: BucketPlan, version: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Receive one broadcast, bucket by bucket; tensors are views of a buffer that is not used again.

    Raises:
        TransportError: a bucket is lost, late or damaged, or the sender is gone.
    """
    for index, bucket in enumerate(plan.buckets):
        buffer = torch.empty(bucket.buffer_bytes, dtype=torch.uint8)
        group.broadcast(buffer)
        check_bucket(_bytes(buffer), epoch=group.epoch, version=version, index=index, plan=plan)
        yield [
            (
                parameter.name,
                buffer[offset : offset + parameter.size_bytes]
                .view(getattr(torch, parameter.dtype))
                .view(parameter.shape),
            )
            for parameter, offset in plan.of_bucket(bucket)
        ]


def _bytes(buffer: Tensor) -> np.ndarray:
    return buffer.numpy()
