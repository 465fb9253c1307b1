"""What Ray shows of a job, and what is read back from it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

import cluster.job
from cluster.inputs.sources import check_inputs
from cluster.jobs.job_metadata import Followers, card_of, shown, status_of, submission_id
from cluster.resources import placement_groups as groups
from cluster.run_folder.status import RunStatus, read_status
from configs.exits import ClusterError, StopRequested
from configs.layout import RunLayout
from configs.load import load_settings


def running() -> RunStatus:
    return RunStatus.model_validate(
        {
            "run": "helpful",
            "state": "running",
            "stage": "round-2/ppo",
            "stage_index": 9,
            "stages_total": 12,
            "step": 7,
            "steps": 30,
            "attempt": 3,
            "measures": {"harm": {"value": 0.08, "limit": 0.1, "multiplier": 1.5}},
            "generators": [{"name": "generator-0", "state": "serving", "weight_version": 7}],
        }
    )


def test_a_card_says_run_round_stage_step_and_generators_in_texts():
    assert card_of(running()) == {
        "run": "helpful",
        "job_name": "helpful",
        "run_attempt": "3",
        "state": "running",
        "stage": "ppo",
        "stages": "9/12",
        "round": "2",
        "step": "7/30",
        "message": "",
        "constraint harm": "harm 0.080 ≤ 0.1 · multiplier 1.50",
        "generator-0": "serving, weight version 7",
    }


def test_a_follower_who_sees_no_folder_reads_the_card():
    status = status_of(card_of(running()))
    assert status is not None
    assert (status.run, status.state, status.stage, status.step, status.steps) == (
        "helpful",
        "running",
        "round-2/ppo",
        7,
        30,
    )
    assert "harm 0.080" in status.message
    assert status_of({"run": "helpful", "attempt": "1"}) is None


def test_a_follower_who_sees_no_folder_reads_what_the_run_waits_for():
    status = status_of(card_of(RunStatus(run="helpful", message="waiting for nodes, 90 s left")))
    assert status is not None and (status.state, status.message) == ("starting", "waiting for nodes, 90 s left")


def test_a_process_that_nobody_submitted_has_no_record(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission_id() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "helpful-attempt-3"}}')
    assert submission_id() == "helpful-attempt-3"


# --- before the run begins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state"), [(ClusterError("the run asks for 12 GPU"), "failed"), (StopRequested("asked"), "stopped")]
)
def test_a_wait_is_shown_from_its_beginning_to_its_end(tmp_path: Path, monkeypatch, error: Exception, state: str):
    """With the whole way of a job but for Ray."""

    def wait_for_nodes(settings, on_wait) -> None:
        on_wait("waiting for nodes, 60 s left")
        assert read_status(layout.status) == seen[-1]
        raise error

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else the job would follow a token of this user
    monkeypatch.setattr(cluster.job, "joined", lambda settings, layout: nullcontext(""))
    monkeypatch.setattr(groups, "wait_for_nodes", wait_for_nodes)
    settings = load_settings("quickstart", [f"storage={tmp_path}"])
    layout, seen = RunLayout(tmp_path / settings.name), []
    with pytest.raises(type(error)):
        cluster.job._run(settings, check_inputs(settings), seen.append)
    assert [(one.state, one.message) for one in seen] == [
        ("starting", "waiting for nodes, 60 s left"),
        (state, str(error)),
    ]
    assert read_status(layout.status) == seen[-1]


def test_a_job_that_is_refused_leaves_the_status_of_the_attempt_before(tmp_path: Path):
    layout, seen = RunLayout(tmp_path), []
    with pytest.raises(ClusterError), shown("helpful", layout, seen.append):
        raise ClusterError("too small")
    assert [one.state for one in seen] == ["failed"] and not layout.status.exists()
    layout.status.write_text(RunStatus(run="helpful", state="finished").model_dump_json())
    with pytest.raises(ClusterError), shown("helpful", layout, seen.append):
        raise ClusterError("too small")
    before = read_status(layout.status)
    assert before is not None and before.state == "finished"


def test_a_run_that_has_come_to_its_own_end_is_not_ended_again(tmp_path: Path):
    seen: list[RunStatus] = []
    followers = Followers("helpful", RunLayout(tmp_path), seen.append)
    followers.show(RunStatus(run="helpful", state="failed", message="its own"))
    followers.end(StopRequested("while it tidied up"))
    assert [one.message for one in seen] == ["its own"]
