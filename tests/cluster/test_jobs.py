"""What is uploaded with a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.crowd.world import DEFAULT_WORLD_PATH
from cluster.job import main
from cluster.jobs import (
    CONFIG_NAME,
    CONFIG_VARIABLE,
    FROM_ENVIRONMENT,
    ROOMS,
    WORLD_NAME,
    next_attempt,
    stage_working_dir,
    submit,
)
from configs.exits import ConfigError, Exit
from configs.load import load_settings


def test_a_job_gets_the_rooms_and_its_configuration_and_nothing_else(tmp_path: Path):
    settings = load_settings("quickstart")
    stage_working_dir(tmp_path / "job", settings, local=True)
    assert {path.name for path in (tmp_path / "job").iterdir()} == {*ROOMS, CONFIG_NAME}
    assert load_settings(tmp_path / "job" / CONFIG_NAME) == settings
    assert not list((tmp_path / "job").rglob("__pycache__"))
    assert (tmp_path / "job" / "configs" / "presets" / "quickstart.yaml").is_file()


def test_a_remote_job_takes_its_world_along(tmp_path: Path):
    settings = load_settings("quickstart", [f"sandbox.world={DEFAULT_WORLD_PATH}"])
    stage_working_dir(tmp_path / "job", settings, local=False)
    assert (tmp_path / "job" / WORLD_NAME).read_bytes() == DEFAULT_WORLD_PATH.read_bytes()
    assert f"world: {WORLD_NAME}" in (tmp_path / "job" / CONFIG_NAME).read_text()


def test_an_attempt_comes_after_those_in_the_folder_and_on_the_cluster():
    taken = ["helpful-attempt-2", "helpful-attempt-10", "other-attempt-40", "helpful-attempt-x", "raysubmit_1"]
    assert next_attempt("helpful", [], 0) == 1
    assert next_attempt("helpful", taken, 3) == 11
    assert next_attempt("helpful", taken, 12) == 13


class Recorder:
    """Takes what would be submitted."""

    def __init__(self) -> None:
        self.sent: dict = {}

    def list_jobs(self) -> list:
        return []

    def submit_job(self, **sent) -> None:
        self.sent = sent


def test_a_cluster_with_the_image_gets_the_configuration_and_no_files(tmp_path: Path, monkeypatch, capsys):
    client, settings = Recorder(), load_settings("quickstart", ["ppo.steps=3"])
    job = submit(client, settings, storage=tmp_path, local=False, upload=False)
    assert job.id == "quickstart-attempt-1"
    assert set(client.sent["runtime_env"]) == {"env_vars"}
    assert client.sent["entrypoint"] == f"python -m cluster.job {FROM_ENVIRONMENT}"
    monkeypatch.setenv(CONFIG_VARIABLE, client.sent["runtime_env"]["env_vars"][CONFIG_VARIABLE])
    assert main([FROM_ENVIRONMENT, "--dry-run"]) == 0
    assert "run 'quickstart'" in capsys.readouterr().out


def test_a_world_file_needs_an_upload(tmp_path: Path):
    settings = load_settings("quickstart", [f"sandbox.world={DEFAULT_WORLD_PATH}"])
    with pytest.raises(ConfigError, match=r"sandbox\.world: the file would have to be uploaded"):
        submit(Recorder(), settings, storage=tmp_path, local=False, upload=False)


def test_without_a_configuration_in_the_environment_the_job_says_how_to_submit(monkeypatch, capsys):
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    assert main([FROM_ENVIRONMENT]) == Exit.USAGE
    assert "steelyard submit --image" in capsys.readouterr().err
