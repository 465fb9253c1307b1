"""The bucket plan, and a broadcast between two threads over real gloo."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from learner.engine.transport.gloo import GlooGroup, GlooSender, TransportStore, receive_buckets
from learner.engine.transport.plan import (
    ALIGNMENT,
    TRAILER_BYTES,
    PlanMismatch,
    Trailer,
    TransportError,
    check_against,
    check_bucket,
    checksum,
    folder_shapes,
    plan_buckets,
)

SHAPES = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=2), min_size=1, max_size=20)


def named(shapes: list[list[int]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"layer.{index}", tuple(shape)) for index, shape in enumerate(shapes)]


@given(shapes=SHAPES, bucket_bytes=st.integers(1, 5000), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_every_parameter_is_in_exactly_one_bucket_and_none_overlap(
    shapes: list[list[int]], bucket_bytes: int, dtype: str
) -> None:
    plan = plan_buckets(named(shapes), dtype=dtype, bucket_bytes=bucket_bytes)
    seen = []
    for bucket in plan.buckets:
        end = 0
        placed = plan.of_bucket(bucket)
        for parameter, offset in placed:
            assert offset % ALIGNMENT == 0 and offset >= end
            end = offset + parameter.size_bytes
            seen.append(parameter.name)
        assert end <= bucket.payload_bytes
        assert bucket.payload_bytes <= bucket_bytes or len(placed) == 1
    assert seen == [name for name, _ in named(shapes)]


def test_the_digest_tells_plans_apart_by_name_shape_dtype_and_cut() -> None:
    base = plan_buckets([("a", (4, 4)), ("b", (4,))], dtype="float32", bucket_bytes=1000)
    same = plan_buckets([("module.a", (4, 4)), ("_orig_mod.b", (4,))], dtype="float32", bucket_bytes=1000)
    assert same.digest == base.digest
    others = [
        plan_buckets([("a", (4, 4)), ("c", (4,))], dtype="float32", bucket_bytes=1000),
        plan_buckets([("a", (2, 8)), ("b", (4,))], dtype="float32", bucket_bytes=1000),
        plan_buckets([("a", (4, 4)), ("b", (4,))], dtype="bfloat16", bucket_bytes=1000),
        plan_buckets([("a", (4, 4)), ("b", (4,))], dtype="float32", bucket_bytes=8),
        plan_buckets([("b", (4,)), ("a", (4, 4))], dtype="float32", bucket_bytes=1000),
    ]
    assert len({plan.digest for plan in [base, *others]}) == 6


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(PlanMismatch, match="twice: a"):
        plan_buckets([("a", (1,)), ("module.a", (1,))], dtype="float32", bucket_bytes=10)


def test_a_mismatch_lists_what_differs(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2), "b": torch.zeros(3, 2), "lm_head": torch.zeros(1)}, tmp_path / "model.safetensors")
    expected = folder_shapes(tmp_path)
    assert expected == {"a": (2,), "b": (3, 2), "lm_head": (1,)}
    plan = plan_buckets([("a", (2,)), ("b", (2, 3)), ("extra", (1,))], dtype="bfloat16", bucket_bytes=10)
    with pytest.raises(PlanMismatch) as caught:
        check_against(plan, expected, dtype="float32", receiver="generator-0")
    text = str(caught.value)
    for part in (
        "generator-0",
        "not sent: lm_head",
        "unknown to the engine: extra",
        "b (2, 3) for (3, 2)",
        "bfloat16 to an engine in float32",
    ):
        assert part in text
    good = plan_buckets(expected.items(), dtype="float32", bucket_bytes=10)
    check_against(good, expected, dtype="float32", receiver="generator-0")


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="no safetensors"):
        folder_shapes(tmp_path)


@pytest.mark.parametrize("field", ["epoch", "version", "bucket", "digest"])
def test_a_bucket_that_is_not_the_expected_one_is_noticed(field: str) -> None:
    plan = plan_buckets([("a", (4,))], dtype="float32", bucket_bytes=100)
    payload = np.arange(16, dtype=np.uint8)
    values = {"epoch": 1, "version": 2, "bucket": 0, "digest": plan.digest}
    right = Trailer(**values, checksum=checksum(payload))
    check_bucket(np.concatenate([payload, right.pack()]), epoch=1, version=2, index=0, plan=plan)
    values[field] += 1
    wrong = Trailer(**values, checksum=checksum(payload))
    with pytest.raises(TransportError, match="was lost"):
        check_bucket(np.concatenate([payload, wrong.pack()]), epoch=1, version=2, index=0, plan=plan)


def test_a_damaged_byte_is_noticed() -> None:
    plan = plan_buckets([("a", (4,))], dtype="float32", bucket_bytes=100)
    payload = np.arange(16, dtype=np.uint8)
    trailer = Trailer(1, 2, 0, plan.digest, checksum(payload)).pack()
    payload[5] ^= 1
    assert len(trailer) == TRAILER_BYTES
    with pytest.raises(TransportError, match="damaged"):
        check_bucket(np.concatenate([payload, trailer]), epoch=1, version=2, index=0, plan=plan)


class Received:
    """What a receiving thread got, or the error it met."""

    def __init__(self, run: Callable[[], dict[str, torch.Tensor]]) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._work, args=(run,))
        self._thread.start()

    def _work(self, run: Callable[[], dict[str, torch.Tensor]]) -> None:
        try:
            self.tensors = run()
        except TransportError as error:
            self.error = error

    def join(self) -> Received:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self


WEIGHTS = [(f"module.layer.{index}", torch.full((7, index + 1), float(index))) for index in range(9)]
PLAN = plan_buckets(((name, tensor.shape) for name, tensor in WEIGHTS), dtype="float32", bucket_bytes=300)


def receiver(store: TransportStore, rank: int, world_size: int, versions: list[int], epoch: int = 1) -> Received:
    def run() -> dict[str, torch.Tensor]:
        group = GlooGroup(store.address, epoch=epoch, rank=rank, world_size=world_size, timeout_seconds=3)
        tensors: dict[str, torch.Tensor] = {}
        for version in versions:
            for bucket in receive_buckets(group, PLAN, version):
                tensors.update(bucket)
        return tensors

    return Received(run)


def test_two_receivers_get_every_tensor_of_every_version() -> None:
    store = TransportStore("127.0.0.1", timeout_seconds=10)
    receivers = [receiver(store, rank, 3, [1, 2]) for rank in (1, 2)]
    sender = GlooSender(store.address, world_size=3, epoch=1, timeout_seconds=10)
    sender.broadcast(((name, tensor - 1) for name, tensor in WEIGHTS), PLAN, 1)
    report = sender.broadcast(WEIGHTS, PLAN, 2)
    assert report.version == 2 and len(report.checksums) == len(PLAN.buckets) > 3 and report.size_bytes >= 7 * 45 * 4
    for one in receivers:
        assert one.join().error is None
        assert all(torch.equal(one.tensors[name.removeprefix("module.")], tensor) for name, tensor in WEIGHTS)


class SkippingSender(GlooSender):
    """Never sends its second bucket."""

    def _send(self, index: int, buffer: torch.Tensor) -> None:
        if index != 1:
            super()._send(index, buffer)


def test_a_bucket_that_is_never_sent_is_noticed() -> None:
    store = TransportStore("127.0.0.1", timeout_seconds=10)
    one = receiver(store, 1, 2, [1])
    sender = SkippingSender(store.address, world_size=2, epoch=1, timeout_seconds=2)
    try:
        sender.broadcast(WEIGHTS, PLAN, 1)
    except TransportError:
        pass  # the receiver left, and the sender may have seen it
    assert isinstance(one.join().error, TransportError) and "bucket 1 of weight version 1" in str(one.error)


def test_a_receiver_that_expects_another_version_does_not_take_the_weights() -> None:
    store = TransportStore("127.0.0.1", timeout_seconds=10)
    one = receiver(store, 1, 2, [4])
    sender = GlooSender(store.address, world_size=2, epoch=1, timeout_seconds=2)
    try:
        sender.broadcast(WEIGHTS, PLAN, 3)
    except TransportError:
        pass
    assert "weight version 4" in str(one.join().error)


def test_tensors_in_another_order_are_refused_and_the_iterator_is_still_exhausted() -> None:
    store = TransportStore("127.0.0.1", timeout_seconds=10)
    one = receiver(store, 1, 2, [1])
    sender = GlooSender(store.address, world_size=2, epoch=1, timeout_seconds=10)
    stream = iter(list(reversed(WEIGHTS)))
    with pytest.raises(TransportError, match="bucket plan's order"):
        sender.broadcast(stream, PLAN, 1)
    assert next(stream, None) is None
    del sender
    assert one.join().error is not None


def test_a_member_that_does_not_come_is_an_error_within_the_timeout() -> None:
    store = TransportStore("127.0.0.1", timeout_seconds=10)
    with pytest.raises(TransportError, match=r"rank 0 of 2 could not join within 0\.5 s"):
        GlooSender(store.address, world_size=2, epoch=1, timeout_seconds=0.5)


def test_a_group_is_built_anew_as_the_next_epoch() -> None:
    store = TransportStore("127.0.0.1", timeout_seconds=10)
    first = receiver(store, 1, 2, [])
    sender = GlooSender(store.address, world_size=2, epoch=1, timeout_seconds=10)
    first.join()
    with pytest.raises(TransportError):  # noqa: PT012 - its only receiver has left; a send into a buffer may pass
        for _ in range(50):
            sender.broadcast(WEIGHTS, PLAN, 1)
    second = receiver(store, 1, 2, [1], epoch=2)
    GlooSender(store.address, world_size=2, epoch=2, timeout_seconds=10).broadcast(WEIGHTS, PLAN, 1)
    assert second.join().error is None
