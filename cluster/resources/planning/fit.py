"""Whether what the roles need is there: on each GPU, on the cluster, and in the nodes' memory."""

from __future__ import annotations

import math

from cluster.resources.planning.hardware import Cluster
from cluster.resources.planning.memory import HOST_RESERVE, RoleMemory, Shortage, dtype_bytes, usable
from cluster.resources.planning.sharing import (
    TRAINERS,
    before_the_loop,
    loop_gpus,
    pair_of,
    pair_shortage,
    sleepers_of_a_node,
    trainers_gpus,
)
from cluster.resources.planning.sizes import ModelShape
from cluster.resources.planning.workload import Workload
from configs.schema.resources import ResourceSettings


def shortages(
    roles: list[RoleMemory], resources: ResourceSettings, shape: ModelShape, work: Workload, cluster: Cluster
) -> list[Shortage]:
    """Everything that does not fit, the most basic first."""
    missing: list[Shortage] = []
    kind = cluster.hardware.kind
    for role in roles:
        share = usable(cluster) * min(role.gpus, 1.0) if role.gpus else math.inf
        if role.device_bytes > share:
            where = f"one {kind}" if role.gpus >= 1 else f"{role.gpus:g} of a {kind}"
            missing.append(Shortage(role.role, where, role.device_bytes, share))
    one_row = float(work.longest_row * shape.kv_bytes_per_token(dtype_bytes(resources.generators.dtype)))
    if one_row > resources.generators.kv_cache_bytes:
        missing.append(
            Shortage(
                "one sequence", "resources.generators.kv_cache_bytes", one_row, resources.generators.kv_cache_bytes
            )
        )
    pair = pair_of(resources, roles)
    together = pair_shortage(pair, cluster)
    if pair and together and not any(shortage.role in (pair.guest.role, pair.ranks.role) for shortage in missing):
        missing.append(together)
    loop = [role for role in roles if role.role != TRAINERS]
    before = [role for role in roles if role.role in before_the_loop(resources)]
    asleep = sleepers_of_a_node(pair, cluster)
    for phase, busy, gpus, more in (
        ("the loop", loop, loop_gpus(resources, roles), asleep),
        ("training before the loop", before, trainers_gpus(resources, roles), 0.0),
    ):
        if gpus > cluster.gpus:
            missing.append(Shortage(f"{phase}'s actors", "the cluster", gpus, cluster.gpus, "GPUs"))
        needed = _host_bytes(busy, cluster) + more
        if needed > cluster.hardware.host_memory_bytes:
            missing.append(Shortage(phase, "a node's memory", needed, cluster.hardware.host_memory_bytes))
    return missing


def _host_bytes(roles: list[RoleMemory], cluster: Cluster) -> float:
    """Of the fullest node, were actors spread evenly."""
    return HOST_RESERVE + sum(role.host_bytes * math.ceil(role.actors / cluster.nodes) for role in roles)
