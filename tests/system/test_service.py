"""A real job on a real head with a token: refused without it, seen while it runs, stopped within its grace, gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.jobs.submission import RayJob, connect, jobs_of_run, submit
from cluster.resources import auth
from cluster.resources.local_head import Head, ensure_head, remove_head_files, stop_head
from cluster.resources.stopping import GRACE_SECONDS
from cluster.run_folder.status import read_status
from configs.exits import ClusterError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings
from tests.paths import ROOT

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]
TINY = [
    "name=tiny-service",
    "model.hidden_size=64",
    "model.layers=2",
    "model.heads=2",
    "model.intermediate_size=128",
    "sft.steps=40",
    "preferences.pairs=120",
    "splits.holdout=0.15",
    "splits.calibration=0.15",
    "reward_model.epochs=1",
    "cost_model.epochs=1",
    "constraints={}",
    "ppo.steps=40",
    "ppo.batch_size=32",
    "ppo.minibatch_size=16",
    "ppo.checkpoint_every=40",
    "ppo.max_response_tokens=24",
    "evaluation.samples_per_cell=5",
    "evaluation.samples_per_minor_cell=5",
    "evaluation.samples_unknown=5",
    "resources.generators.count=1",
    "resources.supervised.workers=1",
    "resources.learner.ranks=1",
]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head of its own folder, which is where this test then works."""
    folder, before = tmp_path_factory.mktemp("service"), Path.cwd()
    os.chdir(folder)
    try:
        yield ensure_head(folder / ".steelyard")
    finally:
        stop_head(folder / ".steelyard")
        remove_head_files(folder / ".steelyard")
        os.chdir(before)


def wait_for(what: Callable[[], bool], seconds: float, job: RayJob) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end and job.state() in ("PENDING", "RUNNING"), job.last_log_lines(20)
        time.sleep(0.3)


def busy_workers(head: Head) -> set[str]:
    """Ray's workers that do something for a job."""
    names = set()
    for process in psutil.Process(head.main.pid).children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if (line.startswith("ray::") and not line.startswith("ray::IDLE")) or "cluster.job" in line:
            names.add(line.split()[0] if line.startswith("ray::") else "driver")
    rays_own = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::JobSupervisor", "ray::_")
    return {name for name in names if not name.startswith(rays_own)}


def test_without_the_token_nobody_gets_in(head: Head, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # from here it is no head of ours
    with pytest.raises(ClusterError, match="asks for a token"):
        connect(head.dashboard_url)
    monkeypatch.setenv(auth.TOKEN, "wrong")
    with pytest.raises(ClusterError, match="refuses this token"):
        connect(head.dashboard_url)


def test_a_driver_without_the_token_is_told_what_may_be_wrong(head: Head, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_ADDRESS": head.gcs_address, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # stay on loopback, where the head is (`clean_environment`)
    command = [sys.executable, "-m", "cluster.job", "quickstart", f"storage={tmp_path}"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 6
    assert "or it asks for a token: then set RAY_AUTH_MODE=token" in done.stderr.splitlines()[-1]


def test_a_job_shows_where_it_is_stops_in_time_and_goes_on(head: Head, tmp_path: Path):
    settings: RunSettings = load_settings("quickstart", TINY)
    client = connect(head.dashboard_url)
    job = submit(client, settings, storage=tmp_path, local=True)
    assert job.id == "tiny-service-attempt-1"
    layout = RunLayout(tmp_path / settings.name)

    wait_for(lambda: job.metadata().get("step", "").endswith("/40"), 400, job)
    wait_for(lambda: layout.metrics.exists() and bool(layout.metrics.read_text()), 120, job)
    card = job.metadata()
    assert (card["run"], card["round"], card["stage"], card["state"]) == ("tiny-service", "1", "ppo", "running")
    assert card["generator-0"].startswith("serving, weight version ")
    assert "step" in job.message()
    assert [each.id for each in jobs_of_run(client, settings.name)] == [job.id]

    begin = time.monotonic()
    job.stop()
    assert job.wait_over(GRACE_SECONDS)
    assert (job.state(), time.monotonic() - begin < GRACE_SECONDS) == ("STOPPED", True)
    status = read_status(layout.status)
    assert status is not None and status.state == "stopped"
    wait_gone = time.monotonic() + 10
    while busy_workers(head) and time.monotonic() < wait_gone:
        time.sleep(0.3)
    assert not busy_workers(head)
    (newest,) = layout.checkpoints.glob("ppo-*/step-*")  # written because it was stopped
    done = int(newest.name.removeprefix("step-"))
    assert done == len(layout.metrics.read_text().splitlines()) < 40
    assert status.message.startswith(f"step {done} is done and kept")

    again = submit(client, settings, storage=tmp_path, local=True)
    assert again.id == "tiny-service-attempt-2"
    wait_for(lambda: len(layout.metrics.read_text().splitlines()) > done + 1, 300, again)
    steps = [json.loads(line)["step"] for line in layout.metrics.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    stages = read_status(layout.status)
    assert stages is not None and stages.stages["sft"].state == "skipped"
    again.stop()
    assert again.wait_over(GRACE_SECONDS)
