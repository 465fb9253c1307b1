"""What the head's module decides without starting anything."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from cluster.resources.local_head import (
    SESSION_PATH_LENGTH,
    SOCKET_PATH_LIMIT,
    Head,
    ProcessRecord,
    clean_environment,
    find_head,
    own_cluster_only,
    stop_head,
    temp_dir_for,
)


def recorded_head(folder: Path, record: ProcessRecord) -> Path:
    head = Head(
        main=record,
        gcs_address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:2",
        temp_dir=folder / "ray",
        log=folder / "head.log",
        started_seconds=1.0,
    )
    (folder / "head.json").write_text(head.model_dump_json())
    return folder / "head.json"


def test_sockets_fit_whatever_the_project_path(tmp_path: Path):
    for state in (Path("/p/.steelyard"), tmp_path / ("long" * 20), tmp_path / "with space" / ".steelyard"):
        folder = temp_dir_for(state)
        assert len(os.fsencode(folder)) + SESSION_PATH_LENGTH <= SOCKET_PATH_LIMIT
        assert " " not in str(folder)
    assert temp_dir_for(Path("/p/.steelyard")) == Path("/p/.steelyard/ray")


def test_two_projects_with_long_paths_do_not_share_a_folder(tmp_path: Path):
    first, second = tmp_path / ("a" * 90), tmp_path / ("b" * 90)
    assert temp_dir_for(first) != temp_dir_for(second)


def test_another_clusters_address_is_not_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://10.0.0.1:8265")
    monkeypatch.setenv("no_proxy", "corp.example")
    with own_cluster_only():
        assert "RAY_ADDRESS" not in os.environ and "RAY_API_SERVER_ADDRESS" not in os.environ
        assert os.environ["no_proxy"] == "corp.example,127.0.0.1,localhost"
    assert os.environ["RAY_ADDRESS"] == "10.0.0.1:6379"


def test_the_heads_path_starts_with_our_python():
    first = clean_environment({"PATH": "/usr/bin"})["PATH"].split(os.pathsep)[0]
    assert (Path(first) / "python").exists()


def test_a_pid_that_is_now_somebody_elses_is_neither_found_nor_signalled(tmp_path: Path):
    me = psutil.Process()
    record = recorded_head(tmp_path, ProcessRecord(pid=me.pid, created=me.create_time() - 1000))
    assert find_head(tmp_path) is None
    assert not record.exists()
    assert not stop_head(tmp_path)
    assert me.is_running()


def test_a_live_record_is_found_and_a_torn_one_is_not(tmp_path: Path):
    me = psutil.Process()
    record = recorded_head(tmp_path, ProcessRecord(pid=me.pid, created=me.create_time()))
    assert find_head(tmp_path) is not None
    record.write_text(record.read_text()[:40])
    assert find_head(tmp_path) is None
