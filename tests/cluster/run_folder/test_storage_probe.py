"""What a node says of the run's folder; with real nodes in tests/system/test_placement_nodes.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.run_folder.storage_probe import look, probe_storage
from configs.exits import ClusterError


def test_a_node_that_sees_the_folder_writes_into_it(tmp_path: Path):
    (tmp_path / "driver").write_text("token")
    assert look(str(tmp_path), "token", "node-1") is None
    assert (tmp_path / "node-1").read_text() == "token"


def test_a_node_with_another_folder_or_none_says_so(tmp_path: Path):
    unseen = "it does not see what the job's node wrote there"
    assert look(str(tmp_path / "none"), "token", "n") == unseen
    assert look(str(tmp_path), "token", "n") == unseen
    (tmp_path / "driver").write_text("another cluster's")
    assert look(str(tmp_path), "token", "n") == unseen


def test_a_folder_that_cannot_be_written_is_named_by_its_reason(tmp_path: Path):
    (tmp_path / "driver").write_text("token")
    (tmp_path / "node-1").mkdir()  # stands in for any refusal: a test may run as root, whom modes do not stop
    said = look(str(tmp_path), "token", "node-1")
    assert said is not None and said.startswith("it cannot use it (")


@pytest.mark.parametrize("setting", ["storage", "scratch"])
def test_the_advice_names_the_setting_that_says_where_nodes_work(tmp_path: Path, setting: str):
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=f"cannot write there .*: give {setting}=/a/folder that every node mounts"):
        probe_storage(tmp_path / "file" / "run", setting=setting)
