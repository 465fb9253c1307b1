"""status.json: what the job writes and a follower reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from cluster.run_folder.status import StatusWriter, read_status


def writer(path: Path, ticks: list[float] | None = None) -> StatusWriter:
    clock = (lambda: ticks[0]) if ticks else (lambda: 0.0)
    return StatusWriter(path, run="r", stages=["sft", "ppo"], dashboard_url="http://127.0.0.1:1", clock=clock)


def test_a_reader_sees_what_was_written(tmp_path: Path):
    ticks = [0.0]
    status = writer(tmp_path / "status.json", ticks)
    status.begin_stage("sft")
    ticks[0] = 12.5
    status.end_stage("sft")
    status.begin_stage("ppo")
    status.update(step=3, steps=60, measures={"harm": {"value": 0.2, "limit": 0.1, "multiplier": 1.5}}, seconds_left=80)
    seen = read_status(tmp_path / "status.json")
    assert seen == status.status
    assert seen is not None
    assert (seen.state, seen.stage, seen.stage_index, seen.stages_total) == ("running", "ppo", 2, 2)
    assert seen.stages["sft"].state == "done" and seen.stages["sft"].seconds == 12.5
    assert seen.measures["harm"].multiplier == 1.5 and seen.seconds_elapsed == 12.5


def test_a_warning_is_kept_once(tmp_path: Path):
    status = writer(tmp_path / "status.json")
    status.warn("mean met, harm high")
    status.warn("mean met, harm high")
    assert status.status.warnings == ("mean met, harm high",)


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_an_end_marks_the_running_stage_as_what_it_was(tmp_path: Path, state: Literal["failed", "stopped"]):
    status = writer(tmp_path / "status.json")
    status.begin_stage("sft")
    status.finish(state, "generator-0 died")
    assert status.status.stages["sft"].state == state
    assert status.status.message == "generator-0 died"


def test_an_unknown_field_is_a_bug_of_the_caller(tmp_path: Path):
    with pytest.raises(TypeError, match="stepp"):
        writer(tmp_path / "status.json").update(stepp=3)


def test_nothing_but_the_status_is_left_in_the_folder(tmp_path: Path):
    status = writer(tmp_path / "status.json")
    for step in range(20):
        status.update(step=step)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_no_status_and_a_foreign_one_read_as_none(tmp_path: Path):
    assert read_status(tmp_path / "status.json") is None
    (tmp_path / "status.json").write_text("{}")
    assert read_status(tmp_path / "status.json") is None


def test_a_newer_writer_may_say_more(tmp_path: Path):
    path = tmp_path / "status.json"
    writer(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"from_the_future": 1}))
    assert read_status(path) is not None
