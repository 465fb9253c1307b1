"""Checkpoints are complete or absent; damage is found before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.ranks.checkpoint import CheckpointError, begin, commit, keep_newest, latest, read_driver_state, verify


def _save(path: Path, step: int, content: str = "weights") -> None:
    staging = begin(path)
    (staging / "actor").mkdir()
    (staging / "actor" / "state.pt").write_text(content)
    commit(path, step=step, driver_state={"multipliers": {"harm": 1.5}}, facts={"ranks": 2})


def test_a_sealed_checkpoint_verifies_and_gives_back_the_drivers_state(tmp_path: Path) -> None:
    _save(tmp_path / "step-00003", 3)
    manifest = verify(tmp_path / "step-00003")
    assert manifest["step"] == 3 and manifest["facts"] == {"ranks": 2}
    assert set(manifest["files"]) == {"actor/state.pt", "driver.json"}
    assert read_driver_state(tmp_path / "step-00003") == {"multipliers": {"harm": 1.5}}


def test_an_interrupted_save_leaves_the_older_checkpoint_and_nothing_else_to_find(tmp_path: Path) -> None:
    _save(tmp_path / "step-00003", 3)
    (begin(tmp_path / "step-00004") / "actor.pt").write_text("half")
    assert latest(tmp_path) == tmp_path / "step-00003"
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        verify(tmp_path / "step-00004")


def test_saving_under_the_same_name_replaces_the_old_one_whole(tmp_path: Path) -> None:
    _save(tmp_path / "step-00003", 3, "old")
    _save(tmp_path / "step-00003", 3, "new")
    verify(tmp_path / "step-00003")
    assert (tmp_path / "step-00003" / "actor" / "state.pt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00003"]


@pytest.mark.parametrize("damage", ["change", "remove", "add"])
def test_a_changed_missing_or_added_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "step-00001"
    _save(path, 1)
    file = path / "actor" / "state.pt"
    if damage == "change":
        file.write_text("weighty")
    elif damage == "remove":
        file.unlink()
    else:
        file = path / "actor" / "stray.pt"
        file.write_text("x")
    with pytest.raises(CheckpointError, match=file.name):
        verify(path)


def test_only_the_newest_sealed_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        _save(tmp_path / f"step-{step:05d}", step)
    assert [path.name for path in keep_newest(tmp_path, 2)] == ["step-00001"]
    assert latest(tmp_path) == tmp_path / "step-00010"


def test_committing_what_was_never_begun_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="begin it first"):
        commit(tmp_path / "step-00001", step=1, driver_state={}, facts={})
