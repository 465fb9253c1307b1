"""The machines a plan is made for: data-sheet figures from ``hardware.json``, and how many of them there are."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from configs.exits import ConfigError
from configs.explain import suggestion

TABLE = Path(__file__).with_name("hardware.json")
BYTES_PER_CORE = 8 * 2**30
"""Host memory that a machine of `cpu:N` is taken to have, where it is not set."""
_ASKED = re.compile(r"([a-z0-9]+)(?::([1-9][0-9]*))?")


@dataclass(frozen=True)
class Hardware:
    """One kind of device and the node it sits in. Bytes, bytes/s one way, FLOP/s."""

    kind: str
    title: str
    memory_bytes: float
    """Of one device; 0 of a core, which has the host's."""
    bandwidth: float
    flops_bfloat16: float
    flops_float32: float
    """Without TF32, which PyTorch leaves off."""
    link: float
    """Between the devices of one node."""
    host_link: float
    """Between a device and its host."""
    host_memory_bytes: float
    """Of one node."""
    cores: int
    """Of one node."""
    network: float
    """Of one node."""
    source: str

    @property
    def is_cpu(self) -> bool:
        """Whether the roles share cores and host memory."""
        return self.kind == "cpu"

    def flops(self, dtype: str) -> float:
        """Dense peak of one device in a dtype."""
        return self.flops_float32 if dtype == "float32" else self.flops_bfloat16


@dataclass(frozen=True)
class Cluster:
    """Equal nodes."""

    hardware: Hardware
    nodes: int
    per_node: int
    """Devices of one node; cores of a `cpu` node."""

    @property
    def gpus(self) -> int:
        """Of all nodes; 0 on CPUs."""
        return 0 if self.hardware.is_cpu else self.nodes * self.per_node

    @property
    def devices(self) -> int:
        """GPUs or cores, over all nodes."""
        return self.nodes * self.per_node

    def describe(self) -> str:
        """``1 node of 8 x H100 SXM 80 GB``."""
        return f"{self.nodes} node{'s' * (self.nodes > 1)} of {self.per_node} x {self.hardware.title}"


@cache
def _table() -> dict[str, dict[str, Any]]:
    document: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return document


def kinds() -> list[str]:
    """Names of the devices there are figures for."""
    return list(_table()["kinds"])


def named_models() -> dict[str, dict[str, Any]]:
    """Published sizes by name."""
    return _table()["models"]


def find_hardware(kind: str) -> Hardware:
    """The figures of one kind.

    Raises:
        ConfigError: there are none.
    """
    if kind not in kinds():
        raise ConfigError(f"--gpu: no figures for '{kind}'; {suggestion(kind, kinds())}")
    return Hardware(kind=kind, **_table()["kinds"][kind])


def read_cluster(name: str, nodes: int, *, host_memory: float | None = None, network: float | None = None) -> Cluster:
    """A cluster as the command line gives it.

    Args:
        asked: ``h100:8``, the kind and how many a node has; without a number 8, of `cpu` 2.
        host_memory: bytes of a node.
        network: bytes/s of a node.

    Raises:
        ConfigError: the form is wrong, or the kind unknown.
    """
    match = _ASKED.fullmatch(name.strip().lower())
    if match is None:
        raise ConfigError(
            f"--gpu: '{name}' is no kind and number; write h100:8, or cpu:2 for cores ({', '.join(kinds())})"
        )
    hardware = find_hardware(match[1])
    per_node = int(match[2] or (2 if hardware.is_cpu else 8))
    if hardware.is_cpu:
        hardware = replace(hardware, cores=per_node, host_memory_bytes=per_node * BYTES_PER_CORE)
    if host_memory is not None:
        hardware = replace(hardware, host_memory_bytes=host_memory)
    if network is not None:
        hardware = replace(hardware, network=network)
    return Cluster(hardware, nodes, per_node)
