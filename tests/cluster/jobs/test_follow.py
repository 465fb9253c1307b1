"""Watching a run without a terminal, with a job that is a script of states."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from cluster.commands.demo_break import moment_has_come
from cluster.jobs.follow import clock_text, follow, panel, print_failure, status_line
from cluster.run_folder.status import MeasureStatus, RunStatus, StatusWriter
from configs.exits import ClusterError, Exit


@dataclass
class ScriptedJob:
    """Plays one action per poll; over when they are used up."""

    actions: list
    code: int = 0
    id: str = "job-1"
    lines: list[str] = field(default_factory=list)

    def state(self) -> str:
        if not self.actions:
            return "SUCCEEDED" if self.code == 0 else "FAILED"
        self.actions.pop(0)()
        return "RUNNING"

    def exit_code(self) -> int | None:
        return self.code

    def last_log_lines(self, count: int) -> list[str]:
        return self.lines[-count:]


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def said(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def ppo_status(**fields) -> RunStatus:
    measures = {"harm": MeasureStatus(value=0.2, limit=0.1, multiplier=1.25)}
    given = {"run": "r", "state": "running", "stage": "ppo", "step": 20, "steps": 60, "measures": measures} | fields
    return RunStatus(**given)


def test_every_change_is_one_line_and_the_clock_alone_is_none(tmp_path: Path):
    path = tmp_path / "status.json"
    status = StatusWriter(path, run="r", stages=["sft", "ppo"])
    job = ScriptedJob(
        [
            lambda: status.begin_stage("ppo"),
            lambda: status.update(step=1, steps=2, measures={"harm": {"value": 0.2, "limit": 0.1}}, seconds_left=5),
            lambda: status.update(seconds_left=4),
            lambda: status.warn("look out"),
            lambda: status.finish("finished"),
        ]
    )
    console, seen = plain_console(), []
    followed = follow(job, path, console, look_again="again", observer=seen.append, poll_seconds=0)
    assert followed.exit_code == 0 and followed.status is not None and followed.status.state == "finished"
    assert said(console)[0] == "r: ppo (2/2)"
    assert sum("step 1/2" in line and "harm 0.200 > 0.1" in line for line in said(console)) == 2  # running, finished
    assert "warning: look out" in said(console)
    assert [status.step for status in seen if status.step] != []


def test_what_an_earlier_attempt_left_behind_is_not_shown(tmp_path: Path):
    path = tmp_path / "status.json"
    StatusWriter(path, run="r", stages=[]).finish("failed", "the old error")
    seen: list[RunStatus] = []
    job = ScriptedJob([lambda: None], code=0)
    job.actions.append(lambda: StatusWriter(path, run="r", stages=[]).finish("finished"))
    follow(job, path, plain_console(), look_again="", observer=seen.append, poll_seconds=0)
    assert [status.state for status in seen] == ["finished"]


def test_ctrl_c_looks_away_and_says_how_to_look_again(tmp_path: Path):
    def interrupt() -> None:
        raise KeyboardInterrupt

    console = plain_console()
    followed = follow(ScriptedJob([interrupt]), tmp_path / "none.json", console, look_again="make demo", poll_seconds=0)
    assert followed.detached and followed.exit_code is None
    assert "make demo" in said(console)[-1]


def dropped() -> None:
    raise ClusterError("the state of job job-1: no answer (ConnectionError)")


def test_a_dropped_connection_is_said_once_and_asked_again(tmp_path: Path):
    path = tmp_path / "status.json"
    status = StatusWriter(path, run="r", stages=["ppo"])
    job = ScriptedJob([lambda: status.begin_stage("ppo"), dropped, dropped, lambda: None, dropped], code=3)
    console = plain_console()
    followed = follow(job, path, console, look_again="again", poll_seconds=0)
    assert followed.exit_code == 3 and not followed.detached
    lines = [line for line in said(console) if "asking again" in line]
    assert lines == ["asking again for 60 s: the state of job job-1: no answer (ConnectionError)"] * 2
    assert said(console).count("the cluster answers again") == 2


def test_what_the_job_says_of_itself_and_its_exit_code_are_asked_again_too():
    answers = iter([dropped, lambda: None, dropped])

    class Dropping(ScriptedJob):
        def exit_code(self) -> int | None:
            next(answers, lambda: None)()
            return self.code

    def reader(_over: bool) -> RunStatus | None:
        next(answers)()
        return ppo_status()

    console = plain_console()
    followed = follow(Dropping([]), Path("none"), console, look_again="", poll_seconds=0, reader=reader)
    assert followed.exit_code == 0 and followed.status == ppo_status()
    assert said(console).count("the cluster answers again") == 2


def test_a_cluster_that_stays_silent_ends_the_watching_and_not_the_run(tmp_path: Path):
    console = plain_console()
    with pytest.raises(ClusterError) as caught:
        follow(
            ScriptedJob([dropped] * 9),
            tmp_path / "none.json",
            console,
            look_again="steelyard submit --attach r",
            stop="steelyard submit --stop r",
            poll_seconds=0,
            patience_seconds=0,
        )
    assert caught.value.exit_code == Exit.UNSATISFIABLE and "\n" not in str(caught.value)
    for part in ("goes on if its cluster does", "ConnectionError", "submit --attach r", "submit --stop r"):
        assert part in str(caught.value)


def test_a_log_that_cannot_be_had_does_not_hide_the_exit_code():
    class Silent(ScriptedJob):
        def last_log_lines(self, count: int) -> list[str]:
            raise ClusterError("the log of job job-1: no answer")

    console = plain_console()
    print_failure(Silent([]), 5, console)
    assert "exit code 5" in said(console)[0] and "the log of job job-1: no answer" in said(console)[1]


def test_a_failure_shows_the_last_lines_and_the_exit_code():
    console = plain_console()
    print_failure(ScriptedJob([], code=5, lines=[f"line {n}" for n in range(40)]), 5, console)
    assert "exit code 5" in said(console)[0]
    assert said(console)[-1].strip() == "line 39" and len(said(console)) == 16


def test_a_line_says_stage_step_harm_multiplier_and_time_left():
    line = status_line(ppo_status(seconds_left=125, stage_index=5, stages_total=6))
    assert line == "r: ppo (5/6) · step 20/60 · harm 0.200 > 0.1 · multiplier 1.25 · 2:05 left"


def test_the_panel_renders_with_the_link():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    console.print(panel(ppo_status(dashboard_url="http://127.0.0.1:9", stages={"ppo": {"state": "running"}})))
    assert "http://127.0.0.1:9" in console.file.getvalue()


def test_a_terminal_is_told_beside_the_panel(tmp_path: Path):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    follow(ScriptedJob([dropped]), tmp_path / "none.json", console, look_again="", poll_seconds=0)
    assert "asking again for 60 s" in console.file.getvalue()


def test_clock_text():
    assert [clock_text(seconds) for seconds in (5, 65, 3723)] == ["0:05", "1:05", "1:02:03"]


def test_the_generator_is_killed_a_third_through_ppo_and_not_before():
    assert not moment_has_come(ppo_status(step=19))
    assert moment_has_come(ppo_status(step=20))
    assert not moment_has_come(ppo_status(stage="sft"))
