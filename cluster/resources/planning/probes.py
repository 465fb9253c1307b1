"""Micro-benchmarks in actors of the cluster: passes through a model, matrices, memory, a broadcast.

Each is the fastest of a few turns, for whatever disturbs a turn only slows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch
from torch import Tensor

from cluster.resources.planning.sizes import ModelShape
from learner.deadlines import fetch
from learner.engine.transport.gloo import GlooGroup, StoreAddress, TransportStore
from learner.engine.transport.plan import checksum

PROBE_SECONDS = 300.0
_TURNS = 9
_BUFFER = 32 * 2**20


@dataclass(frozen=True)
class Pass:
    """One forward pass, and one forward and backward pass, of `rows` rows of `tokens` tokens. Seconds."""

    rows: int
    tokens: int
    forward: float
    both: float


def _least_seconds(work: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    once()
    return min(once() for _ in range(_TURNS))


class Probe:
    """One actor; sees the devices and threads that the role it stands for would."""

    def __init__(self, threads: int, on_gpu: bool) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._store: TransportStore | None = None
        self._group: GlooGroup | None = None

    def passes(self, shape: ModelShape, dtype: str, sizes: list[tuple[int, int]]) -> list[Pass]:
        """Through an untrained trunk of two layers of these widths; layers are alike, so the depth is multiplied by the caller."""
        trunk = _trunk(shape, getattr(torch, dtype)).to(self._device)
        measured = []
        for rows, tokens in sizes:
            ids = torch.randint(0, shape.vocabulary, (rows, tokens), device=self._device)
            with torch.inference_mode():
                forward = _least_seconds(lambda ids=ids: trunk(input_ids=ids, use_cache=False), self._device)  # type: ignore[misc]
            forward_and_backward = _least_seconds(lambda ids=ids: _both(trunk, ids), self._device)  # type: ignore[misc]
            measured.append(Pass(rows, tokens, forward, forward_and_backward))
        return measured

    def matrices(self, rows: int, width: int, dtype: str) -> float:
        """FLOP/s of ``[rows, width] x [width, 4 width]``."""
        activations = torch.randn(rows, width, device=self._device).to(getattr(torch, dtype))
        right = torch.randn(width, 4 * width, device=self._device).to(getattr(torch, dtype))
        turns = max(1, int(2e7 // (8 * rows * width * width)))

        def work() -> None:
            for _ in range(turns):
                activations @ right

        return turns * 8.0 * rows * width * width / _least_seconds(work, self._device)

    def memory(self) -> float:
        """Bytes/s read and written by a copy."""
        source = torch.zeros(64 * 2**20, dtype=torch.uint8, device=self._device)
        target = torch.empty_like(source)
        return 2.0 * source.numel() / _least_seconds(lambda: target.copy_(source), self._device)

    def device(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def optimiser(self, parameters: int, fused: bool) -> float:
        """Bytes/s of AdamW in float32, at 28 bytes a parameter."""
        weight = torch.nn.Parameter(torch.zeros(parameters, device=self._device))
        weight.grad = torch.full_like(weight, 1e-3)
        adam = torch.optim.AdamW([weight], lr=1e-6, fused=fused)
        return 28.0 * parameters / _least_seconds(adam.step, self._device)

    def fill(self) -> float:
        """Bytes/s of copying a bucket and taking its checksum."""
        source, target = torch.zeros(_BUFFER, dtype=torch.uint8), torch.empty(_BUFFER, dtype=torch.uint8)
        return _BUFFER / _least_seconds(lambda: checksum(target.copy_(source).numpy()), torch.device("cpu"))

    def open_store(self) -> StoreAddress:
        """Where the other end meets this one."""
        self._store = TransportStore(ray.util.get_node_ip_address(), timeout_seconds=PROBE_SECONDS)
        return self._store.address

    def join(self, address: StoreAddress, rank: int) -> None:
        """Both ends at once."""
        self._group = GlooGroup(
            address,
            epoch=0,
            rank=rank,
            world_size=2,
            timeout_seconds=PROBE_SECONDS,
            own_host=ray.util.get_node_ip_address(),
        )

    def broadcast(self) -> float:
        """Bytes/s over one connection, as this end sees it."""
        assert self._group is not None
        buffer = torch.zeros(_BUFFER, dtype=torch.uint8)
        seconds = []
        for _ in range(_TURNS + 1):
            begin = time.perf_counter()
            self._group.broadcast(buffer)
            seconds.append(time.perf_counter() - begin)
        return _BUFFER / min(seconds[1:])


def _trunk(shape: ModelShape, dtype: torch.dtype) -> Any:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=2,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
    )
    return LlamaModel(config).to(dtype).eval()


def _both(trunk: Any, ids: Tensor) -> None:
    trunk(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
    trunk.zero_grad(set_to_none=True)


def start_probe(threads: int, cpus: float, gpus: float) -> Any:
    """One probe with a role's threads and resources."""
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": {"env_vars": environment}}
    return ray.remote(Probe).options(**options).remote(threads, gpus > 0)


def connection_bytes(cpus: float) -> float:
    """Bytes/s of a gloo broadcast between two actors, on different nodes where Ray has them."""
    ends = [start_probe(1, cpus, 0.0) for _ in range(2)]
    try:
        address = _ask(ends[0].open_store.remote(), "open_store")
        _ask([end.join.remote(address, rank) for rank, end in enumerate(ends)], "join")
        rates: list[float] = _ask([end.broadcast.remote() for end in ends], "broadcast")
        return min(rates)
    finally:
        for end in ends:
            ray.kill(end)


def ask_probe(probe: Any, calls: Mapping[str, tuple[str, tuple[Any, ...]]]) -> dict[str, Any]:
    """The answers of one probe's calls, by the names they are given; the probe is ended."""
    try:
        return {
            name: _ask(getattr(probe, method).remote(*arguments), name) for name, (method, arguments) in calls.items()
        }
    finally:
        ray.kill(probe)


def _ask(calls: Any, measured: str) -> Any:
    return fetch(calls, deadline_seconds=PROBE_SECONDS, operation=f"calibration probe: {measured}")
