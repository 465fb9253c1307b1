"""A stage counts as complete only while its key and its outputs stand."""

from pathlib import Path

import pytest

from cluster.run_folder.digests import digest, folder_digest
from cluster.run_folder.manifest import Manifest, StageRecord, output_digest


def record(root: Path, key: str = "k") -> StageRecord:
    (root / "sft").mkdir(exist_ok=True)
    (root / "sft" / "weights").write_text("1")
    return StageRecord("sft", key, {}, {"sft": output_digest(root / "sft")}, 1.5, {"loss": 0.1})


def test_a_recorded_stage_is_complete_after_reading_the_file_again(tmp_path: Path) -> None:
    Manifest(tmp_path / "manifest.json")
    manifest = Manifest(tmp_path / "manifest.json")
    manifest.header = {"run": "x"}
    manifest.record(record(tmp_path))
    again = Manifest(tmp_path / "manifest.json")
    found = again.complete("sft", "k")
    assert found is not None and found.facts == {"loss": 0.1} and again.header == {"run": "x"}


@pytest.mark.parametrize("change", ["other key", "output gone", "output changed", "output grown"])
def test_anything_that_changed_makes_a_stage_incomplete(tmp_path: Path, change: str) -> None:
    manifest = Manifest(tmp_path / "manifest.json")
    manifest.record(record(tmp_path))
    if change == "output gone":
        (tmp_path / "sft" / "weights").unlink()
    elif change == "output changed":
        (tmp_path / "sft" / "weights").write_text("2")
    elif change == "output grown":
        (tmp_path / "sft" / "more").write_text("2")
    assert manifest.complete("sft", "other" if change == "other key" else "k") is None


def test_digests_do_not_depend_on_order(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    before = folder_digest(tmp_path)
    (tmp_path / "a").write_text("c")
    assert folder_digest(tmp_path) != before
