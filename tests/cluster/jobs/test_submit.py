"""`steelyard submit` on a cluster that is made up: what is refused here, what is left to the job, which commands are told."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cluster.commands.main import app
from cluster.jobs import submission as jobs
from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from configs.load import dump_settings, load_settings

ADDRESS = "http://head.invalid:8265"
UNSEEN = "/storage-of-no-machine/runs"


class Cluster:
    """Its job API, with at most one job that runs until it is told to stop."""

    def __init__(self) -> None:
        self.sent: dict = {}
        self.jobs: list[SimpleNamespace] = []

    def running(self, run: str, **metadata: str) -> None:
        status = SimpleNamespace(value="RUNNING", is_terminal=lambda: False)
        self.jobs.append(
            SimpleNamespace(submission_id=f"{run}-attempt-1", metadata={"run": run, **metadata}, status=status)
        )

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def get_job_info(self, _name: str) -> SimpleNamespace:
        return self.jobs[0]

    def stop_job(self, _name: str) -> None:
        self.jobs[0].status = SimpleNamespace(value="STOPPED", is_terminal=lambda: True)

    def submit_job(self, **sent) -> None:
        self.sent = sent


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    found = Cluster()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "connect", lambda _url: found)
    return found


def submit(*arguments: str) -> str:
    """What it says; an error comes out."""
    result = CliRunner().invoke(app, ["submit", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def a_run(folder: Path) -> None:
    layout = RunLayout(folder / "quickstart")
    layout.root.mkdir(parents=True)
    layout.config.write_text(dump_settings(load_settings("quickstart", ["seed=7"])))


@pytest.mark.parametrize("storage", [UNSEEN, "s3://bucket/runs", "/my storage"])
def test_a_stopped_run_goes_on_by_the_command_that_is_told(cluster: Cluster, storage: str, monkeypatch):
    cluster.running("quickstart", storage=storage)
    told = submit("--stop", "quickstart", "--address", ADDRESS).split("go on later: ")[1]
    words = shlex.split(told)
    assert words == ["steelyard", "submit", "--resume", f"{storage}/quickstart", "--address", ADDRESS]
    monkeypatch.setattr("cluster.jobs.resume.read_config", lambda _place: None)  # nor is the store to be reached
    submit(*words[2:], "--no-follow")
    command = shlex.split(cluster.sent["entrypoint"])
    assert command == ["python", "-m", "cluster.job", "--resume", f"{storage}/quickstart"]
    assert cluster.sent["metadata"]["storage"] == storage


def test_a_job_that_others_sent_says_no_folder(cluster: Cluster):
    cluster.running("quickstart")
    assert "the command that started it, or steelyard submit --resume FOLDER" in submit(
        "--stop", "quickstart", "--address", ADDRESS
    )


def test_on_our_own_head_the_runs_name_is_enough(cluster: Cluster, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        "cluster.resources.local_head.find_head", lambda _folder: SimpleNamespace(dashboard_url=ADDRESS)
    )
    cluster.running("quickstart", storage=str(tmp_path / "runs"))
    assert submit("--stop", "quickstart").endswith("steelyard submit --resume quickstart\n")
    a_run(tmp_path / "runs")
    assert submit("--resume", "quickstart", "--dry-run").startswith("valid")


def test_that_a_job_was_asked_to_stop_is_told_also_where_the_connection_drops(cluster: Cluster, monkeypatch):
    def drop(_name: str) -> None:
        monkeypatch.setattr(cluster, "get_job_info", lambda _name: (_ for _ in ()).throw(ConnectionError()))

    cluster.running("quickstart", storage=UNSEEN)
    monkeypatch.setattr(cluster, "stop_job", drop)
    said = submit("--stop", "quickstart", "--address", ADDRESS)
    assert "was asked to stop, and whether it has ended is not known" in said and f"--resume {UNSEEN}" in said


def test_a_folder_that_only_the_cluster_sees_is_read_by_the_job(cluster: Cluster):
    arguments = ("--resume", f"{UNSEEN}/quickstart", "--address", ADDRESS, "--no-follow", "--image")
    said = submit(*arguments, "--entrypoint-num-cpus", "2", "--", "ppo.steps=3")
    assert f"note: {UNSEEN}/quickstart cannot be read on this machine" in said and "quickstart-attempt-1" in said
    assert shlex.split(cluster.sent["entrypoint"])[-3:] == ["--resume", f"{UNSEEN}/quickstart", "ppo.steps=3"]
    assert cluster.sent["entrypoint_num_cpus"] == 2 and "working_dir" not in cluster.sent["runtime_env"]


def test_a_folder_that_is_seen_here_is_read_here(cluster: Cluster, tmp_path: Path):
    a_run(tmp_path / "shared")
    submit("--resume", f"{tmp_path}/shared/quickstart", "--address", ADDRESS, "--no-follow", "--image")
    assert cluster.sent["entrypoint"].endswith("--from-environment") and cluster.sent["entrypoint_num_cpus"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", f"{UNSEEN}/quickstart"], "no configuration of a run is at"),
        (["--resume", "quickstart", "--address", ADDRESS], "as the nodes of --address see it"),
        (["--resume", "shared/quickstart", "--address", ADDRESS], "no configuration of a run is at"),
        (
            ["--resume", f"{UNSEEN}/quickstart", "--address", ADDRESS, "--dry-run"],
            "nothing to check; leave --dry-run out",
        ),
        (["ppo.steps", "--resume", f"{UNSEEN}/quickstart", "--address", ADDRESS], "give one of"),
        (["a.b=1", "=3", "--resume", f"{UNSEEN}/quickstart", "--address", ADDRESS], "'=3' is no override"),
        (["quickstart", "--entrypoint-num-cpus", "inf", "--dry-run"], "give a finite number"),
    ],
)
def test_what_cannot_be_is_refused_here(cluster: Cluster, arguments: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        submit(*arguments)
    assert cluster.sent == {}


def test_data_of_the_cluster_is_a_note_with_an_address_and_an_error_without(cluster: Cluster):
    here = [f"data.{name}=[{{source: packaged:helpfulness}}]" for name in ("demonstrations", "harmlessness")]
    data = ("hh_rlhf", *here, f"data.helpfulness=[{{source: {UNSEEN}/pairs.jsonl}}]", f"storage={UNSEEN}")
    said = submit(*data, "--address", ADDRESS, "--dry-run")
    assert said.startswith(f"note: data.helpfulness.0: {UNSEEN}/pairs.jsonl is not on this machine") and "valid" in said
    submit(*data, "--address", ADDRESS, "--no-follow", "--image")
    assert f"{UNSEEN}/pairs.jsonl" in cluster.sent["runtime_env"]["env_vars"][jobs.CONFIG_VARIABLE]
    with pytest.raises(DataError, match=r"pairs\.jsonl: no such file"):
        submit(*data, "--dry-run")
