"""Whether every node sees the run's folder: each reads what the driver wrote there, and writes something of its own."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import ray

from configs.exits import ClusterError
from learner.deadlines import Deadline, RemoteFailure, RemoteTimeout, fetch

PROBE_SECONDS = 60.0
"""Of all nodes together: a first task may have to unpack the job's working directory there."""


def probe_storage(folder: Path, *, setting: str = "storage") -> None:
    """Write and read a small file from every node that lives.

    Args:
        folder: of the run; made where it is not.
        setting: which says where nodes work; ``scratch`` for a run that is kept in a store.

    Raises:
        ClusterError: names the first node that cannot, and why.
    """
    probe = folder / f".probe-{uuid.uuid4().hex[:8]}"
    token = uuid.uuid4().hex
    try:
        probe.mkdir(parents=True)
        (probe / "driver").write_text(token, encoding="utf-8")
    except OSError as error:
        raise ClusterError(
            f"storage: {folder}: the job's own node cannot write there ({error.strerror}): give {setting}=/a/folder that every node mounts"
        ) from error
    try:
        _ask_others(probe, token, folder, setting)
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _ask_others(probe: Path, token: str, folder: Path, setting: str) -> None:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = ray.get_runtime_context().get_node_id()
    other_nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != this_node]
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    calls: list[tuple[str, Any]] = []
    for node in other_nodes:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        call = task.options(scheduling_strategy=on_node, name="probe storage").remote(str(probe), token, node["NodeID"])
        calls.append((name, call))
    deadline = Deadline(PROBE_SECONDS)
    for (name, call), node in zip(calls, other_nodes, strict=True):
        try:
            problem = fetch(
                call, deadline_seconds=deadline.remaining(), operation=f"node {name}: the probe of {folder}"
            )
        except (RemoteFailure, RemoteTimeout) as error:
            raise ClusterError(f"storage: {error}") from error
        if problem is None and not (probe / node["NodeID"]).is_file():
            problem = "what it writes there is not seen here: it has another folder of that name"
        if problem is not None:
            raise ClusterError(
                f"storage: {folder}: node {name}: {problem}: give {setting}=/a/folder that every node mounts"
            )


def look(probe: str, token: str, node: str) -> str | None:
    """On a node: read the driver's file and write one; what went wrong, or None."""
    folder = Path(probe)
    try:
        written = folder / "driver"
        if not written.is_file() or written.read_text(encoding="utf-8") != token:
            return "it does not see what the job's node wrote there"
        (folder / node).write_text(token, encoding="utf-8")
    except OSError as error:
        return f"it cannot use it ({error.strerror})"
    return None
