"""What Ray shows of a job, and what is read back from it."""

from __future__ import annotations

from cluster.job_card import card_of, status_of, submission_id
from cluster.status import RunStatus


def running() -> RunStatus:
    return RunStatus.model_validate(
        {
            "run": "helpful", "state": "running", "stage": "round-2/ppo", "stage_index": 9, "stages_total": 12, "step": 7,
            "steps": 30, "attempt": 3, "measures": {"harm": {"value": 0.08, "limit": 0.1, "multiplier": 1.5}},
            "generators": [{"name": "generator-0", "state": "serving", "weight_version": 7}],
        }
    )  # fmt: skip


def test_a_card_says_run_round_stage_step_and_generators_in_texts():
    assert card_of(running()) == {
        "run": "helpful", "job_name": "helpful", "run_attempt": "3", "state": "running", "stage": "ppo", "stages": "9/12", "round": "2",
        "step": "7/30", "constraint harm": "harm 0.080 ≤ 0.1 · multiplier 1.50",
        "generator-0": "serving, weight version 7",
    }  # fmt: skip


def test_a_follower_who_sees_no_folder_reads_the_card():
    status = status_of(card_of(running()))
    assert status is not None
    assert (status.run, status.state, status.stage, status.step, status.steps) == (
        "helpful", "running", "round-2/ppo", 7, 30,
    )  # fmt: skip
    assert "harm 0.080" in status.message
    assert status_of({"run": "helpful", "attempt": "1"}) is None


def test_a_process_that_nobody_submitted_has_no_record(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission_id() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "helpful-attempt-3"}}')
    assert submission_id() == "helpful-attempt-3"
