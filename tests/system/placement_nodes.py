"""Placement on a simulated cluster of 8 nodes, as a program of its own: prints what it found, as JSON.

`tests/system/test_placement_nodes.py` runs it; a Ray cluster of several nodes needs a process that has no other.
"""

from __future__ import annotations

import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import PlacementGroup

from cluster.resources import placement_groups as groups
from cluster.resources.placement import GENERATORS, LEARNER, SCORERS
from cluster.resources.placement_groups import RoleGroups, node_resources, wait_for_nodes
from cluster.run_folder.storage_probe import _ask_others, probe_storage
from configs.exits import ClusterError
from configs.schema.resources import GeneratorSettings, LearnerSettings, ResourceSettings, ScorerSettings

NODES = 8


class Light:
    def where(self) -> str:
        return ray.get_runtime_context().get_node_id()


def asked(placement: str, **more: Any) -> ResourceSettings:
    return ResourceSettings(
        placement=placement,
        generators=GeneratorSettings(count=8, cpus=0.5),
        learner=LearnerSettings(ranks=8, cpus=0.5),
        scorers=ScorerSettings(replicas=2, cpus=0.5),
        **more,
    )


def placed(placement: str) -> dict[str, list[str]]:
    """Node of each actor, by role, in the actors' order."""
    role_groups = RoleGroups(asked(placement))
    found = {}
    actors = []
    for role, count in ((GENERATORS, 8), (LEARNER, 8), (SCORERS, 2)):
        strategies = role_groups.strategies(role, count)
        own = [ray.remote(Light).options(num_cpus=0.5, scheduling_strategy=one).remote() for one in strategies]
        found[role] = ray.get([one.where.remote() for one in own], timeout=120)
        actors += own
    for actor in actors:
        ray.kill(actor)
    role_groups.close()
    return found


def error_of(call: Any) -> dict[str, Any]:
    begin = time.monotonic()
    try:
        call()
    except ClusterError as error:
        return {"error": str(error), "seconds": time.monotonic() - begin}
    return {"error": None, "seconds": time.monotonic() - begin}


def busy() -> dict[str, Any]:
    """Another job's actors hold every core."""
    groups.RESERVE_SECONDS = 2.0
    other: PlacementGroup = ray.util.placement_group([{"CPU": 2}] * NODES)
    other.wait(60)
    found = error_of(lambda: RoleGroups(asked("disaggregated")).strategies(GENERATORS, 8))
    ray.util.remove_placement_group(other)
    return found


def a_node_comes(cluster: Cluster) -> dict[str, Any]:
    """The run needs a node of 5 cores, which comes while it waits."""
    needs = ResourceSettings(wait_for_nodes_seconds=90, learner=LearnerSettings(ranks=1, cpus=5))
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:  # the node is added here: Ray starts nodes from a process's main thread only
        waiting = pool.submit(error_of, lambda: wait_for_nodes(needs, said.append))
        time.sleep(3.0)
        cluster.add_node(num_cpus=5, object_store_memory=80 * 2**20, wait=False)
        return waiting.result(timeout=120) | {"said": said}


def probes(folder: Path) -> dict[str, Any]:
    good = error_of(lambda: probe_storage(folder))
    (folder / "not-the-drivers").mkdir()
    bad = error_of(lambda: _ask_others(folder / "not-the-drivers", "token", folder, "storage"))
    return {"good": good, "bad": bad, "left": sorted(path.name for path in folder.glob(".probe-*"))}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sy-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
        try:
            for _ in range(NODES):
                cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20, wait=False)
            cluster.wait_for_nodes(timeout=120)
            ray.init(address=cluster.address, log_to_driver=False)
            print(
                json.dumps(
                    {
                        "nodes": len(node_resources()),
                        "too_much": error_of(
                            lambda: wait_for_nodes(ResourceSettings(learner=LearnerSettings(cpus=99)), print)
                        ),
                        "no_room": error_of(
                            lambda: wait_for_nodes(ResourceSettings(learner=LearnerSettings(ranks=1, cpus=4)), print)
                        ),
                        "disaggregated": placed("disaggregated"),
                        "colocated": placed("colocated"),
                        "mixed": placed("mixed"),
                        "busy": busy(),
                        "probes": probes(Path(folder)),
                        "a_node_comes": a_node_comes(cluster),
                    }
                )
            )
        finally:
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main()
