"""Ray placement groups of a run's roles: reserved when a role first starts, given back when it ends.

Ray numbers bundles as they were asked for, not by where they came to lie: here they are handed out node by node, so that
neighbouring learner ranks, and the generator or scorer that shares a rank's GPU, are where their numbers suggest.
"""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import ray

from cluster.placement import Bundles, bundles_of, describe, require_resources, unmet
from configs.exits import ClusterError
from configs.schema.resources import ResourceSettings

RESERVE_SECONDS = 30.0
"""For nodes that have what is asked: another job's actors may be just leaving."""
LOOK_SECONDS = 1.0
SAY_SECONDS = 30.0

OnWait = Callable[[str], None]


def node_resources() -> list[Mapping[str, float]]:
    """What each living node has, used or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def wait_for_nodes(settings: ResourceSettings, on_wait: OnWait) -> None:
    """Return once the cluster's nodes can hold the run; with `wait_for_nodes_seconds` 0 that is now or never.

    Where an autoscaler runs, it is asked for what is missing.

    Raises:
        ClusterError: they cannot; says what is asked, what there is, and what to change.
    """
    end = time.monotonic() + settings.wait_for_nodes_seconds
    said = 0.0
    asked = False
    while (problem := unmet(settings, node_resources())) is not None and time.monotonic() < end:
        if not asked:
            _ask_autoscaler([one.resources() for bundles in bundles_of(settings) for one in [bundles] * bundles.count])
            asked = True
        if said == 0.0 or time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            on_wait(f"waiting for nodes, {end - said:.0f} s left: {problem}")
        time.sleep(LOOK_SECONDS)
    if asked:
        _ask_autoscaler([])
    require_resources(settings, node_resources())


def _ask_autoscaler(bundles: list[dict[str, float]]) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[one for one in bundles if one])


class RoleGroups:
    """The placement groups of one run."""

    def __init__(self, settings: ResourceSettings) -> None:
        self._settings = settings
        self._groups: dict[tuple[str, ...], Any] = {}
        self._order: dict[tuple[str, ...], list[int]] = {}

    def strategies(self, role: str, count: int) -> list[Any]:
        """A scheduling strategy for each of `count` actors of a role; empty where they ask for no resources.

        Raises:
            ClusterError: other work holds what is asked for.
        """
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundles = next(one for one in bundles_of(self._settings) if role in one.roles)
        if not bundles.resources():
            return []
        if len(bundles.roles) == 1 and bundles.count != count:  # a scorer per signal: only its group knows how many
            bundles = Bundles(bundles.roles, count, bundles.cpus, bundles.gpus)
        if bundles.roles not in self._groups:
            self._reserve(bundles)
        group, order = self._groups[bundles.roles], self._order[bundles.roles]
        return [
            PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=order[index]) for index in range(count)
        ]

    def release(self, role: str) -> None:
        """Give a role's bundles back; actors that still lie in them end."""
        for roles in [roles for roles in self._groups if role in roles]:
            self._order.pop(roles)
            ray.util.remove_placement_group(self._groups.pop(roles))

    def close(self) -> None:
        """Give everything back."""
        for group in self._groups.values():
            ray.util.remove_placement_group(group)
        self._groups.clear()
        self._order.clear()

    def _reserve(self, bundles: Bundles) -> None:
        name = f"{'-'.join(bundles.roles)}-{uuid.uuid4().hex[:6]}"  # Ray wants every name once
        group = ray.util.placement_group([bundles.resources()] * bundles.count, strategy="PACK", name=name)
        seconds = max(RESERVE_SECONDS, self._settings.wait_for_nodes_seconds)
        if not group.wait(timeout_seconds=seconds):
            ray.util.remove_placement_group(group)
            free = describe([ray.available_resources()])
            raise ClusterError(
                f"{bundles}: not free within {seconds:g} s; of {describe(node_resources())} the cluster has {free} left: "
                "another job holds the rest; wait for it with resources.wait_for_nodes_seconds, or stop it"
            )
        self._groups[bundles.roles] = group
        self._order[bundles.roles] = by_node(ray.util.placement_group_table(group)["bundles_to_node_id"])


def by_node(homes: Mapping[int, str]) -> list[int]:
    """Bundle numbers in the order of their nodes' addresses, and within a node in their own."""
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    return sorted_by_address(homes, addresses)


def sorted_by_address(homes: Mapping[int, str], addresses: Mapping[str, str]) -> list[int]:
    """`by_node` with the nodes' addresses given; a name that is no IP address sorts after those that are."""

    def place(bundle: int) -> tuple[bool, int, str, str, int]:
        node = homes[bundle]
        address = addresses.get(node, "")
        try:
            number = int(ipaddress.ip_address(address))
        except ValueError:
            return True, 0, address, node, bundle
        return False, number, address, node, bundle

    return sorted(homes, key=place)
