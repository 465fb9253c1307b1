"""Placement on 8 simulated nodes, real Ray: who lies where, and what a cluster that cannot serve says."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.paths import ROOT

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]


def run(script: str, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run("tests/system/placement_nodes.py").splitlines()[-1])
    return answer


def test_the_cluster_has_eight_nodes_and_a_head(found: dict[str, Any]):
    assert found["nodes"] == 9


def test_what_it_can_never_hold_is_refused_at_once(found: dict[str, Any]):
    assert found["too_much"]["error"].startswith("the run asks for")
    assert "the cluster has 16" in found["too_much"]["error"]
    assert "no node has room for one more of learner" in found["no_room"]["error"]
    assert max(found["too_much"]["seconds"], found["no_room"]["seconds"]) < 5


@pytest.mark.parametrize("placement", ["disaggregated", "colocated", "mixed"])
def test_neighbours_lie_on_the_same_node(found: dict[str, Any], placement: str):
    for role, nodes in found[placement].items():
        blocks = [node for node, _ in itertools.groupby(nodes)]
        assert len(blocks) == len(set(blocks)), f"{role} goes back to a node it had left: {nodes}"


def test_partners_share_a_bundle(found: dict[str, Any]):
    assert found["colocated"]["generators"] == found["colocated"]["learner"]
    assert found["mixed"]["scorers"] == found["mixed"]["learner"][:2]


def test_a_busy_cluster_says_so(found: dict[str, Any]):
    assert "another job holds the rest" in found["busy"]["error"]
    assert found["busy"]["seconds"] < 10


def test_every_node_is_asked_for_the_storage_and_a_bad_one_is_named(found: dict[str, Any]):
    probes = found["probes"]
    assert probes["good"]["error"] is None and probes["left"] == []
    assert "it does not see what the job's node wrote there" in probes["bad"]["error"]
    assert ": node " in probes["bad"]["error"]


def test_a_run_waits_for_a_node_that_comes_and_says_that_it_waits(found: dict[str, Any]):
    waited = found["a_node_comes"]
    assert waited["error"] is None and waited["seconds"] > 2
    assert waited["said"][0].startswith("waiting for nodes, 90 s left: the run asks for")


def test_the_drivers_work_per_sample_stays_flat_from_64_to_256_generators():
    lines = run("tests/bench/control_path.py", "--batches", "3").splitlines()
    small, large = (json.loads(line) for line in lines if line.startswith("{"))
    assert (small["generators"], large["generators"]) == (64, 256)
    assert large["driver_cpu_ms_per_sample"] < 1.5 * small["driver_cpu_ms_per_sample"]
