"""Ray placement groups of a run's roles: reserved when a role first starts, given back when it ends.

Ray numbers bundles as they were asked for, not by where they are placed: here they are handed out node by node, so that
neighbouring learner ranks, and the generator or scorer that shares a rank's GPU, are where their numbers suggest.
"""

from __future__ import annotations

import ipaddress
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import ray

from cluster.resources.placement import Bundles, bundles_of, describe, require_resources, unmet
from configs.exits import ClusterError
from configs.schema.resources import ResourceSettings

RESERVE_SECONDS = 30.0
"""For nodes that have what is asked: another job's actors may be just leaving."""
LOOK_SECONDS = 1.0
SAY_SECONDS = 30.0
SOON_SECONDS = 5.0
"""A reservation that takes no longer is nothing to speak of."""

OnWait = Callable[[str], None]
"""Is told what a run waits for, and nothing ("") when it goes on."""


def say_waiting(text: str) -> None:
    """Into the job's log."""
    if text:
        print(text, file=sys.stderr, flush=True)


class _Wait:
    """Until it is `over`, tells who listens every `SAY_SECONDS` what is waited for."""

    def __init__(self, seconds: float, on_wait: OnWait, *, say_after: float = 0.0) -> None:
        now = time.monotonic()
        self._end, self._next, self._on_wait, self._said = now + seconds, now + say_after, on_wait, False

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def say(self, awaited: str, why: str) -> None:
        if time.monotonic() >= self._next:
            self._next, self._said = time.monotonic() + SAY_SECONDS, True
            self._on_wait(f"waiting for {awaited}, {self.left():.0f} s left: {why}")

    def over(self) -> None:
        if self._said:
            self._on_wait("")


def node_resources() -> list[Mapping[str, float]]:
    """What each living node has, used or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def wait_for_nodes(settings: ResourceSettings, on_wait: OnWait) -> None:
    """Return once the cluster's nodes can hold the run; with `wait_for_nodes_seconds` 0 that is now or never.

    Where an autoscaler runs, it is asked for what is missing.

    Raises:
        ClusterError: they cannot; says what is asked, what there is, and what to change.
    """
    wait = _Wait(settings.wait_for_nodes_seconds, on_wait)
    has_asked = False
    try:
        while (problem := unmet(settings, node_resources())) is not None and wait.left():
            if not has_asked:
                has_asked = True  # before it is: a stop may come between
                _ask_autoscaler(
                    [bundle.resources() for bundles in bundles_of(settings) for bundle in [bundles] * bundles.count]
                )
            wait.say("nodes", problem)
            time.sleep(LOOK_SECONDS)
    finally:
        if has_asked:  # what the cluster is asked for outlives the job
            _ask_autoscaler([])
    wait.over()
    require_resources(settings, node_resources())


def _ask_autoscaler(bundles: list[dict[str, float]]) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[bundle for bundle in bundles if bundle])


class RoleGroups:
    """The placement groups of one run.

    Args:
        on_wait: is told what the run waits for; may be set again.
    """

    def __init__(self, settings: ResourceSettings, on_wait: OnWait = say_waiting) -> None:
        self._settings, self.on_wait = settings, on_wait
        self._groups: dict[tuple[str, ...], Any] = {}
        self._order: dict[tuple[str, ...], list[int]] = {}

    def strategies(self, role: str, count: int) -> list[Any]:
        """A scheduling strategy for each of `count` actors of a role; empty where they ask for no resources.

        Raises:
            ClusterError: other work holds what is asked for.
        """
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundles = next(candidate for candidate in bundles_of(self._settings) if role in candidate.roles)
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
        """Give a role's bundles back; actors that are still in them end."""
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
        try:
            self._wait_free(group, bundles)
        except BaseException:  # a stop too: what is asked for must not come later
            ray.util.remove_placement_group(group)
            raise
        self._groups[bundles.roles] = group
        self._order[bundles.roles] = by_node(ray.util.placement_group_table(group)["bundles_to_node_id"])

    def _wait_free(self, group: Any, bundles: Bundles) -> None:
        """In slices: Ray's own wait is one call that no signal interrupts."""
        seconds = max(RESERVE_SECONDS, self._settings.wait_for_nodes_seconds)
        wait = _Wait(seconds, self.on_wait, say_after=SOON_SECONDS)
        while not group.wait(timeout_seconds=LOOK_SECONDS):
            free = describe([ray.available_resources()])
            free_text = f"of {describe(node_resources())} the cluster has {free} left: another job holds the rest"
            if not wait.left():
                raise ClusterError(
                    f"{bundles}: not free within {seconds:g} s; {free_text}; wait for it with "
                    "resources.wait_for_nodes_seconds, or stop it"
                )
            wait.say(str(bundles), free_text)
        wait.over()


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
