"""Roles that share a GPU by `resources.placement`: who, how many GPUs the loop then takes, and whether both fit on one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.resources.planning.hardware import Cluster
from cluster.resources.planning.memory import GRAPHS, RoleMemory, Shortage, usable
from configs.schema.resources import ResourceSettings

CONTEXT = 0.5e9
"""What the CUDA context of a second process takes on the GPU it shares (assumed)."""
BETWEEN_STEPS = ("weights", "gradients", "optimiser", "buffers")
"""What a learner rank holds on its GPU while it does nothing."""
_GUESTS = {"colocated": "generators", "mixed": "scorers"}
TRAINERS = "supervised workers"
RANKS = "learner ranks"


@dataclass(frozen=True)
class Pair:
    """The two roles of `placement: colocated` or `mixed`."""

    guest: RoleMemory
    ranks: RoleMemory
    sleeps: bool
    """Whether the guest gives its memory back while the rank works."""

    @property
    def name(self) -> str:
        """Of both."""
        return f"{self.guest.role} and {self.ranks.role} together"

    @property
    def gpus(self) -> float:
        """Of all their bundles: a rank without a guest has a GPU to itself, and the other way round."""
        return max(self.guest.actors, self.ranks.actors) * max(self.guest.gpus, self.ranks.gpus)

    @property
    def device_bytes(self) -> float:
        """The most that both need of one GPU at once."""
        guest, ranks = self.guest.device_bytes, self.ranks.device_bytes
        if not self.sleeps:
            return CONTEXT + guest + ranks
        idle = sum(self.ranks.device.get(name, 0.0) for name in BETWEEN_STEPS)
        return CONTEXT + max(guest + idle, GRAPHS + ranks)

    @property
    def host_bytes(self) -> float:
        """Weights that a sleeping engine keeps on its host (vLLM's sleep mode, level 1)."""
        return self.guest.device.get("weights", 0.0) if self.sleeps else 0.0


def pair_of(resources: ResourceSettings, roles: Sequence[RoleMemory]) -> Pair | None:
    """Who shares GPUs; None where every actor has its own, or where there are none to share."""
    guest = _GUESTS.get(resources.placement)
    guest_and_ranks = [next((role for role in roles if role.role == name), None) for name in (guest, RANKS)]
    if (
        guest is None
        or guest_and_ranks[0] is None
        or guest_and_ranks[1] is None
        or not (guest_and_ranks[0].gpus and guest_and_ranks[1].gpus)
    ):
        return None
    return Pair(guest_and_ranks[0], guest_and_ranks[1], sleeps=guest == "generators")


def loop_gpus(resources: ResourceSettings, roles: Sequence[RoleMemory]) -> float:
    """GPUs that the loop's actors take."""
    pair = pair_of(resources, roles)
    shared = () if pair is None else (pair.guest.role, pair.ranks.role)
    alone = sum(role.gpus * role.actors for role in roles if role.role not in (TRAINERS, *shared))
    return alone + (pair.gpus if pair else 0.0)


def trainers_gpus(resources: ResourceSettings, roles: Sequence[RoleMemory]) -> float:
    """GPUs taken before the loop: by the trainers, and by generators unless those share the ranks' (`cluster.resources.placement`)."""
    return sum(role.gpus * role.actors for role in roles if role.role in before_the_loop(resources))


def before_the_loop(resources: ResourceSettings) -> tuple[str, ...]:
    """Roles that are there while score models train."""
    return (TRAINERS,) if resources.placement == "colocated" else ("generators", TRAINERS)


def pair_shortage(pair: Pair | None, cluster: Cluster) -> Shortage | None:
    """What two roles lack on the GPU that they share."""
    if pair is None:
        return None
    available = usable(cluster) * min(1.0, max(pair.guest.gpus, pair.ranks.gpus))
    if pair.device_bytes <= available:
        return None
    return Shortage(pair.name, f"one {cluster.hardware.kind}", pair.device_bytes, available)


def sleepers_of_a_node(pair: Pair | None, cluster: Cluster) -> float:
    """Host bytes that sleeping engines take on the fullest node."""
    return 0.0 if pair is None else pair.host_bytes * math.ceil(pair.guest.actors / cluster.nodes)
