"""A stopped job ends within its grace, in the loop with a checkpoint where there is room for one. Real signals, no Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.resources.stopping import (
    CHECKPOINT_GRACE_SECONDS,
    GRACE_SECONDS,
    GRACE_VARIABLE,
    grace_seconds,
    grace_to_send,
)
from cluster.run_folder.status import RunStatus, read_status, replace_text
from configs.exits import Exit
from tests.paths import ROOT

JOB = """
import sys, time
from pathlib import Path
from cluster.resources.stopping import stop_on_sigterm
from configs.exits import StopRequested
stop_on_sigterm(Path(sys.argv[1]))
try:
    print("ready", flush=True)
    time.sleep(60)
except StopRequested as error:
    print(error, flush=True)
    if sys.argv[2] == "hangs":
        time.sleep(60)
    raise SystemExit(error.exit_code)
"""
LOOP = """
import sys, time
from pathlib import Path
from cluster.resources import stopping
from configs.exits import StopRequested
stopping.CHECKPOINT_GRACE_SECONDS = float(sys.argv[2])
seconds, last, fails, tidying = float(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "fails", float(sys.argv[6])
stopping.stop_on_sigterm(Path(sys.argv[1]))
try:
    with stopping.finishing_steps() as is_asked_to_stop:
        for step in range(1, last + 1):
            print("step", step, flush=True)
            time.sleep(seconds)
            if fails:
                raise ValueError("odd")
            print("done", step, flush=True)
            if step < last and is_asked_to_stop():
                print("checkpoint", step, flush=True)
                raise StopRequested("kept")
    print("after", flush=True)
    time.sleep(60)
except (StopRequested, ValueError) as error:
    print(type(error).__name__, flush=True)
    time.sleep(tidying)
    print("tidy", flush=True)
    raise SystemExit(5)
"""


@contextmanager
def started(script: str, grace: int, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A job of its own process, from where it has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), GRACE_VARIABLE: str(grace)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() in ("ready\n", "step 1\n")
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def rest(process: subprocess.Popen[str]) -> list[str]:
    """What it still says to its end, which is that of a stopped run."""
    said, _ = process.communicate(timeout=30)
    assert process.returncode == Exit.STOPPED
    return said.splitlines()


@pytest.mark.parametrize("way", ["ends", "hangs"])
def test_a_job_ends_by_itself_within_its_grace(tmp_path: Path, way: str):
    status = tmp_path / "status.json"
    replace_text(status, RunStatus(run="r", state="running").model_dump_json())
    with started(JOB, 2, status, way) as process:
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # asked again, it does not break off its tidying up
        assert "the same command goes on where it stopped" in rest(process)[0]
        assert way == "ends" or time.monotonic() - begin > 1
    left = read_status(status)
    assert left is not None and left.state == ("stopped" if way == "hangs" else "running")


def test_the_grace_is_rays_unless_the_job_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(GRACE_VARIABLE, raising=False)
    assert (grace_seconds(), grace_to_send()) == (3.0, str(GRACE_SECONDS))
    monkeypatch.setenv(GRACE_VARIABLE, "300")
    assert (grace_seconds(), grace_to_send()) == (300.0, "300")
    assert GRACE_SECONDS >= CHECKPOINT_GRACE_SECONDS


# --- in the loop ------------------------------------------------------------------------------------------------------


def test_with_room_for_it_the_step_is_ended_and_a_checkpoint_written(tmp_path: Path):
    with started(LOOP, 60, tmp_path / "status.json", 60, 1, 9, "works", 0) as process:
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["done 1", "checkpoint 1", "StopRequested", "tidy"]


def test_without_room_the_step_is_broken_off_at_once(tmp_path: Path):
    with started(LOOP, 59, tmp_path / "status.json", 60, 25, 9, "works", 0) as process:
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["StopRequested", "tidy"]


def test_a_second_request_does_not_wait_for_the_step(tmp_path: Path):
    with started(LOOP, 60, tmp_path / "status.json", 60, 25, 9, "works", 0) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["StopRequested", "tidy"]


def test_a_step_that_takes_half_of_the_grace_is_broken_off_and_there_is_time_to_tidy_up(tmp_path: Path):
    with started(LOOP, 8, tmp_path / "status.json", 1, 60, 9, "works", 0.5) as process:
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["StopRequested", "tidy"]
        assert time.monotonic() - begin > 3.5


def test_nothing_breaks_off_the_tidying_up_of_a_step_that_failed_meanwhile(tmp_path: Path):
    with started(LOOP, 8, tmp_path / "status.json", 1, 1, 9, "fails", 4) as process:
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["ValueError", "tidy"]  # half of the grace is over in the tidying up


def test_a_loop_in_its_last_step_is_through_with_it_and_the_run_ends_later(tmp_path: Path):
    with started(LOOP, 8, tmp_path / "status.json", 1, 0.5, 1, "works", 0) as process:
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["done 1", "after", "StopRequested", "tidy"]
