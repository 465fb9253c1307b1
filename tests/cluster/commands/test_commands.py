"""The command line: help, one-line errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.commands.guard import guarded
from configs.exits import ClusterError, Exit
from tests.paths import ROOT


def steelyard(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.commands.main", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_lists_every_verb(tmp_path: Path):
    done = steelyard("--help", cwd=tmp_path)
    assert done.returncode == 0
    for verb in (
        "demo",
        "run",
        "submit",
        "report",
        "why",
        "chat",
        "label",
        "doctor",
        "config",
        "data",
        "eval",
        "redteam",
        "results",
        "certify",
        "threshold",
        "monitor",
        "export",
        "metrics",
    ):
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize("arguments", [("config", "check", "quickstart"), ("config", "list"), ("doctor",)])
def test_a_terminal_of_another_encoding_gets_replacements(tmp_path: Path, arguments: tuple[str, ...]):
    command = [sys.executable, "-m", "cluster.commands.main", *arguments]
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONIOENCODING": "latin-1",
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode != Exit.BUG and done.stdout
    assert b"bug of Steelyard" not in done.stderr


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(tmp_path: Path):
    done = steelyard("run", "quickstart", "ppo.steps=3", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("valid — quickstart: maximise helpfulness subject to rate of harm")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_key_is_one_line_and_exit_2(tmp_path: Path):
    done = steelyard("submit", "quickstart", "ppo.stepz=3", "--dry-run", cwd=tmp_path)
    assert done.returncode == Exit.USAGE
    assert done.stderr == "error: command line: ppo.stepz: unknown key; did you mean 'steps'?\n"


def test_a_remote_cluster_needs_a_shared_folder(tmp_path: Path):
    done = steelyard("submit", "quickstart", "--address", "http://192.0.2.1:8265", "--dry-run", cwd=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "storage: a remote cluster needs a folder" in done.stderr


def test_config_show_is_json_for_a_script(tmp_path: Path):
    done = steelyard("config", "show", "quickstart", "seed=4", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["seed"] == 4


def test_doctor_speaks_json(tmp_path: Path):
    done = steelyard("doctor", "--json", cwd=tmp_path)
    findings = json.loads(done.stdout)
    assert {"python", "packages", "disk", "ports"} <= {finding["subject"] for finding in findings}
    assert done.returncode == (Exit.UNSATISFIABLE if any(f["verdict"] == "missing" for f in findings) else 0)


def test_an_expected_error_is_one_line_with_its_exit_code(capsys: pytest.CaptureFixture[str]):
    def command() -> None:
        raise ClusterError("no cluster\nat all")

    assert guarded(command) == Exit.UNSATISFIABLE
    assert capsys.readouterr().err == "error: no cluster at all\n"


def test_a_bug_is_one_line_and_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert guarded(lambda: 1 // 0) == Exit.BUG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ZeroDivisionError:")
    (log,) = (tmp_path / ".steelyard" / "logs").iterdir()
    assert str(log) in line and "Traceback" in log.read_text()
