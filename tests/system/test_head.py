"""One real head: start, a job through its API, stop; nothing of it listens off loopback and nothing stays."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.jobs.submission import JOB_OVER, RayJob, connect
from cluster.resources.local_head import ensure_head, find_head, own_cluster_only, remove_head_files, stop_head

pytestmark = pytest.mark.system


def listening_addresses(main: int) -> set[str]:
    processes = [psutil.Process(main), *psutil.Process(main).children(recursive=True)]
    connections = [each for process in processes for each in process.net_connections(kind="inet")]
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


def test_our_head_starts_runs_a_job_and_stops_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # another cluster's: must not be asked
    state = tmp_path / "with space" / ".steelyard"
    head = ensure_head(state)
    try:
        print(f"head started in {head.started_seconds:.1f} s")
        assert ensure_head(state) == head
        assert listening_addresses(head.main.pid) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        client = connect(head.dashboard_url, head.token())
        with own_cluster_only():
            script = "import ray; ray.init(address='auto'); raise SystemExit(3)"
            job = RayJob(client, client.submit_job(entrypoint=f'"{sys.executable}" -c "{script}"'))
        deadline = time.monotonic() + 30
        while job.state() not in JOB_OVER and time.monotonic() < deadline:
            time.sleep(0.2)
        assert (job.state(), job.exit_code()) == ("FAILED", 3), job.last_log_lines(20)
        ours = [head.main, *head.children]
    finally:
        assert stop_head(state)
    assert find_head(state) is None
    assert not [record for record in ours if record.process()]
    assert not stop_head(state)
    remove_head_files(state)
    assert not head.temp_dir.exists()
