"""A stopped job ends within its grace, also where something swallows the request. Real signals, no Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.status import RunStatus, read_status, replace_text
from cluster.stopping import GRACE_VARIABLE, grace_seconds
from configs.exits import Exit

ROOT = Path(__file__).resolve().parents[2]
JOB = """
import sys, time
from pathlib import Path
from cluster.stopping import stop_on_sigterm
from configs.exits import StoppedError
stop_on_sigterm(Path(sys.argv[1]))
try:
    print("ready", flush=True)
    time.sleep(60)
except StoppedError as error:
    print(error, flush=True)
    if sys.argv[2] == "hangs":
        time.sleep(60)
    raise SystemExit(error.exit_code)
"""


@pytest.mark.parametrize("way", ["ends", "hangs"])
def test_a_job_ends_by_itself_within_its_grace(tmp_path: Path, way: str):
    status = tmp_path / "status.json"
    replace_text(status, RunStatus(run="r", state="running").model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, str(status), way],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), GRACE_VARIABLE: "2"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # asked again, it does not break off its tidying up
    assert process.wait(20) == Exit.STOPPED
    assert "the same command goes on where it stopped" in process.stdout.read()
    left = read_status(status)
    assert left is not None and left.state == ("stopped" if way == "hangs" else "running")
    assert way == "ends" or time.monotonic() - begin > 1


def test_the_grace_is_rays_unless_the_job_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(GRACE_VARIABLE, raising=False)
    assert grace_seconds() == 3.0
    monkeypatch.setenv(GRACE_VARIABLE, "15")
    assert grace_seconds() == 15.0
