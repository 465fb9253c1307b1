"""What is uploaded with a job."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from actors.crowd.world import DEFAULT_WORLD_PATH
from cluster.job import _settings, main
from cluster.jobs.submission import (
    CONFIG_NAME,
    CONFIG_VARIABLE,
    FROM_ENVIRONMENT,
    RESUME,
    ROOMS,
    WORLD_NAME,
    any_job_active,
    next_attempt,
    stage_working_dir,
    submit,
    submit_resumed,
)
from cluster.resources.connection import STORAGE_VARIABLE
from cluster.resources.stopping import GRACE_VARIABLE
from configs.exits import ClusterError, ConfigError, Exit
from configs.layout import RunLayout
from configs.load import dump_settings, load_settings


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
        folder = sent["runtime_env"].get("working_dir")
        self.uploaded = set() if folder is None else {path.name for path in Path(folder).iterdir()}


def test_a_cluster_with_the_image_gets_the_configuration_and_no_files(tmp_path: Path, monkeypatch, capsys):
    client, settings = Recorder(), load_settings("quickstart", ["ppo.steps=3"])
    job = submit(client, settings, storage=tmp_path, local=False, upload=False)
    assert job.id == "quickstart-attempt-1"
    assert set(client.sent["runtime_env"]) == {"env_vars"}
    assert client.sent["entrypoint"] == f"python -m cluster.job {FROM_ENVIRONMENT}"
    monkeypatch.setenv(CONFIG_VARIABLE, client.sent["runtime_env"]["env_vars"][CONFIG_VARIABLE])
    assert main([FROM_ENVIRONMENT, "--dry-run"]) == 0
    assert "run 'quickstart'" in capsys.readouterr().out


def test_a_job_has_time_for_its_checkpoint_unless_the_submitter_says_otherwise(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(GRACE_VARIABLE, raising=False)
    found = []
    for said in (None, "300"):
        if said is not None:
            monkeypatch.setenv(GRACE_VARIABLE, said)
        client = Recorder()
        submit(client, load_settings("quickstart"), storage=tmp_path, local=False, upload=False)
        found.append(client.sent["runtime_env"]["env_vars"][GRACE_VARIABLE])
    assert found == ["120", "300"]


def test_the_driver_is_put_where_whoever_submits_wants_it(tmp_path: Path):
    for cpus in (None, 2.0):
        client = Recorder()
        submit(client, load_settings("quickstart"), storage=tmp_path, local=False, upload=False, driver_cpus=cpus)
        assert client.sent["entrypoint_num_cpus"] == cpus


@pytest.mark.parametrize("place", ["/storage/my runs/helpful", "s3://bucket/runs/helpful"])
@pytest.mark.parametrize("upload", [True, False])
def test_a_job_reads_by_itself_what_a_run_elsewhere_was_configured_with(place: str, upload: bool):
    client = Recorder()
    job = submit_resumed(client, place, ["ppo.steps=3"], upload=upload, driver_cpus=1.0)
    storage = place.removesuffix("/helpful")
    assert job.id == "helpful-attempt-1" and client.sent["metadata"]["storage"] == storage
    command = shlex.split(client.sent["entrypoint"])
    assert command == ["python", "-m", "cluster.job", RESUME, place, "ppo.steps=3"]
    assert client.sent["runtime_env"]["env_vars"][STORAGE_VARIABLE] == storage
    assert GRACE_VARIABLE in client.sent["runtime_env"]["env_vars"]
    assert client.uploaded == (set(ROOMS) if upload else set()) and client.sent["entrypoint_num_cpus"] == 1.0


def a_run(folder: Path, name: str = "quickstart") -> Path:
    layout = RunLayout(folder / name)
    layout.root.mkdir(parents=True)
    layout.config.write_text(dump_settings(load_settings("quickstart", [f"storage={folder}/elsewhere", "seed=7"])))
    return layout.root


def test_a_resumed_job_has_the_runs_settings_and_the_storage_where_it_is(tmp_path: Path, capsys):
    for storage, place in ((tmp_path, str(a_run(tmp_path))), (f"file://{tmp_path}", f"file://{tmp_path}/quickstart")):
        settings = _settings([RESUME, place, "ppo.steps=3"])
        assert (settings.storage, settings.seed, settings.ppo.steps) == (storage, 7, 3)
        assert main([RESUME, place, "--dry-run"]) == 0
    assert "run 'quickstart'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--resume: no run is named"),
        (["runs/quickstart"], "--resume runs/quickstart: is relative"),
        (["/nowhere/quickstart"], "--resume /nowhere/quickstart: no config.resolved.yaml of a run is there"),
        (["file:///nowhere/quickstart"], "no config.resolved.yaml of a run is there"),
        (["/quickstart"], "names no run in a folder"),
        (["s3://bucket"], "names no run in a folder"),
    ],
)
def test_a_job_without_a_run_to_go_on_with_says_so_in_one_line(words: list[str], said: str, capsys):
    assert main([RESUME, *words]) == Exit.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_a_run_in_a_folder_of_another_name_does_not_begin_anew(tmp_path: Path, capsys):
    assert main([RESUME, str(a_run(tmp_path, "copy"))]) == Exit.USAGE
    assert "holds the run 'quickstart'" in capsys.readouterr().err


def test_a_world_file_needs_an_upload(tmp_path: Path):
    settings = load_settings("quickstart", [f"sandbox.world={DEFAULT_WORLD_PATH}"])
    with pytest.raises(ConfigError, match=r"sandbox\.world: the file would have to be uploaded"):
        submit(Recorder(), settings, storage=tmp_path, local=False, upload=False)


def test_without_a_configuration_in_the_environment_the_job_says_how_to_submit(monkeypatch, capsys):
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    assert main([FROM_ENVIRONMENT]) == Exit.USAGE
    assert "steelyard submit --image" in capsys.readouterr().err


class _WithoutAgent:
    """A cluster whose head's agent found its port taken, as Ray's client says it."""

    def list_jobs(self):
        raise RuntimeError(
            "Request failed with status code 500: No available agent to submit job, please try again later.."
        )


def test_a_head_whose_agent_does_not_listen_says_what_to_do():
    with pytest.raises(
        ClusterError, match=r"No available agent .* start the head with another --dashboard-agent-listen-port"
    ):
        any_job_active(_WithoutAgent())
