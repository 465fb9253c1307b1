"""The bucket plan: the wire contract of both sides of a weight broadcast.

Parameters travel in the order of the plan, packed into buckets. A bucket is one uint8 buffer: the parameters' bytes, each
begun at a multiple of 16, then a trailer of six int64 (`Trailer`). Invariant: two sides with the same `digest` cut the same
buckets from the same names, shapes and dtypes.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.exits import StoppedError

ALIGNMENT = 16
"""Bytes; a received parameter can be viewed in its dtype without a copy."""

TRAILER_BYTES = 48

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_SAFETENSORS_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")


class TransportError(StoppedError):
    """Weights did not reach a generator, or not the right ones."""


class PlanMismatch(TransportError):
    """The learner would send other parameters than the generators' engine holds; the message lists them."""


@dataclass(frozen=True)
class Parameter:
    """One parameter as it travels."""

    name: str
    """As in the model's Hugging Face folder, without a trainer's wrapper prefix."""
    shape: tuple[int, ...]
    dtype: str
    """On the wire: ``float32``, ``bfloat16`` or ``float16``."""

    @property
    def size_bytes(self) -> int:
        """Without padding."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def padded_bytes(self) -> int:
        """Up to where the next one may begin."""
        return -(-self.size_bytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Bucket:
    """Parameters ``[first, last)`` of the plan."""

    first: int
    last: int
    payload_bytes: int

    @property
    def buffer_bytes(self) -> int:
        """Payload and trailer."""
        return self.payload_bytes + TRAILER_BYTES


@dataclass(frozen=True)
class BucketPlan:
    """What is sent, in which order, cut where. Small and picklable: it travels to every generator."""

    parameters: tuple[Parameter, ...]
    bucket_bytes: int
    buckets: tuple[Bucket, ...] = field(init=False)
    digest: int = field(init=False)
    """63 bits over names, shapes, dtypes and cuts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", _cut(self.parameters, self.bucket_bytes))
        text = json.dumps(
            [[p.name, p.shape, p.dtype] for p in self.parameters] + [[b.first, b.last] for b in self.buckets]
        )
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        object.__setattr__(self, "digest", int.from_bytes(digest, "big") >> 1)

    @property
    def total_bytes(self) -> int:
        """Of all payloads."""
        return sum(bucket.payload_bytes for bucket in self.buckets)

    def of_bucket(self, bucket: Bucket) -> list[tuple[Parameter, int]]:
        """Its parameters, each with its offset in the buffer in bytes."""
        offset, placed = 0, []
        for parameter in self.parameters[bucket.first : bucket.last]:
            placed.append((parameter, offset))
            offset += parameter.padded_bytes
        return placed


def plan_buckets(named_shapes: Iterable[tuple[str, Sequence[int]]], *, dtype: str, bucket_bytes: int) -> BucketPlan:
    """The plan for named parameters, in their order.

    Args:
        named_shapes: (name, whole shape); under ZeRO 3 the shape is the parameter's ``ds_shape``. Wrapper prefixes are
            stripped from the names.
        dtype: the engine's; the sender casts to it.
        bucket_bytes: payload of one bucket at most; a larger parameter is a bucket of its own.
    """
    parameters = tuple(
        Parameter(strip_wrappers(name), tuple(int(n) for n in shape), dtype) for name, shape in named_shapes
    )
    names = [parameter.name for parameter in parameters]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise PlanMismatch(f"parameters named twice: {_listed(twice)}; tied parameters are sent once")
    return BucketPlan(parameters, bucket_bytes)


def strip_wrappers(name: str) -> str:
    """A parameter's name without what trainers wrap around a module (``module.`` and the like)."""
    for wrapper in _WRAPPERS:
        while name.startswith(wrapper):
            name = name[len(wrapper) :]
    return name


def _cut(parameters: Sequence[Parameter], bucket_bytes: int) -> tuple[Bucket, ...]:
    buckets, first, size = [], 0, 0
    for index, parameter in enumerate(parameters):
        if index > first and size + parameter.padded_bytes > bucket_bytes:
            buckets.append(Bucket(first, index, size))
            first, size = index, 0
        size += parameter.padded_bytes
    if parameters:
        buckets.append(Bucket(first, len(parameters), size))
    return tuple(buckets)


def folder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a Hugging Face folder's safetensors files, read from their headers only."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    if not shapes:
        raise TransportError(f"{folder} holds no safetensors file: save the model with safetensors")
    return shapes


def check_against(plan: BucketPlan, expected: dict[str, tuple[int, ...]], *, dtype: str, receiver: str) -> None:
    """Compare what will be sent with what an engine was loaded from.

    Args:
        expected: name to shape, from `folder_shapes`.
        dtype: the engine's.
        receiver: the receiving actor, for the error.

    Raises:
        PlanMismatch: lists the names that are missing, unknown, or differ in shape.
    """
    sent = {parameter.name: parameter.shape for parameter in plan.parameters}
    missing = sorted(expected.keys() - sent.keys())
    unknown = sorted(sent.keys() - expected.keys())
    reshaped = [
        f"{name} {sent[name]} for {expected[name]}"
        for name in sorted(sent.keys() & expected.keys())
        if sent[name] != expected[name]
    ]
    complaints = [
        f"{label}: {_listed(names)}"
        for label, names in (("not sent", missing), ("unknown to the engine", unknown), ("other shape", reshaped))
        if names
    ]
    other_dtypes = sorted({parameter.dtype for parameter in plan.parameters} - {dtype})
    if other_dtypes:
        complaints.append(f"sent as {', '.join(other_dtypes)} to an engine in {dtype}")
    if complaints:
        raise PlanMismatch(
            f"{receiver} cannot take the learner's weights: {'; '.join(complaints)}; start both from the same model"
        )


def _listed(names: Sequence[str], limit: int = 8) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Trailer:
    """The last bytes of a bucket: what it is, so that a lost, late or damaged one is noticed."""

    epoch: int
    version: int
    bucket: int
    digest: int
    checksum: int
    """CRC-32 of the payload."""

    def pack(self) -> np.ndarray:
        """uint8 ``[TRAILER_BYTES]``."""
        values = [self.epoch, self.version, self.bucket, self.digest, self.checksum, 0]
        return np.asarray(values, dtype="<i8").view(np.uint8)

    @classmethod
    def unpack(cls, trailer: np.ndarray) -> Trailer:
        """From uint8 ``[TRAILER_BYTES]``."""
        values = [int(value) for value in np.ascontiguousarray(trailer).view("<i8")]
        return cls(*values[:5])


def checksum(payload: np.ndarray) -> int:
    """CRC-32 of a uint8 array."""
    return zlib.crc32(np.ascontiguousarray(payload).data)


def check_bucket(buffer: np.ndarray, *, epoch: int, version: int, index: int, plan: BucketPlan) -> None:
    """Check a received buffer against what was to come.

    Raises:
        TransportError: another bucket, version, epoch or plan than expected, or damaged bytes.
    """
    trailer = Trailer.unpack(buffer[-TRAILER_BYTES:])
    expected = Trailer(epoch, version, index, plan.digest, trailer.checksum)
    if trailer != expected:
        raise TransportError(
            f"expected bucket {index} of weight version {version} in epoch {epoch}, got {trailer}: a bucket was lost"
        )
    actual = checksum(buffer[:-TRAILER_BYTES])
    if actual != trailer.checksum:
        raise TransportError(
            f"bucket {index} of weight version {version} arrived damaged: checksum {actual:08x}, sent {trailer.checksum:08x}"
        )
