"""How a run ends that is asked to stop, waits or fails: what the loop keeps, and what the status says. No Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import job
from cluster.inputs.sources import check_inputs
from cluster.resources import stopping
from cluster.resources.engines import Engines
from cluster.resources.placement_groups import say_waiting
from cluster.run_folder.status import read_status
from cluster.runs.loop.ppo_loop import PpoLoop
from cluster.runs.pipeline import _attempt
from cluster.runs.stages import labelling
from configs.exits import Exit, StoppedError, StopRequested, WaitsForPeople
from configs.layout import RunLayout
from configs.load import load_settings
from learner.deadlines import ActorDied, RemoteTimeout
from learner.supervised.session import TrainFailure


class FakeLoop(PpoLoop):
    """Steps that do nothing; somebody asks to stop in one of them."""

    def __init__(self, tmp_path: Path, asked_in: int, spent_in: int) -> None:
        self._settings = load_settings("quickstart", ["ppo.steps=5", "ppo.checkpoint_every=2", "selection.every=1"])
        self._ppo, self._group_size, self._inputs = (
            self._settings.ppo,
            1,
            {"normaliser": (0, 1), "test_normaliser": (0, 1)},
        )
        telemetry = SimpleNamespace(begin_round=lambda number, kept: None)
        self._context: Any = SimpleNamespace(layout=RunLayout(tmp_path), round_number=1, telemetry=telemetry)
        self.asked_in, self.spent_in, self.taken, self.checkpoints = asked_in, spent_in, 0, []

    def _prepare(self) -> int:
        return 0

    def _whole_step(self, step: int, *rest: Any) -> Any:
        self.taken = step
        stopping._stop.asked |= step == self.asked_in

    def _budget_is_spent(self, step: int, result: Any) -> bool:
        return step == self.spent_in

    def _snapshot(self, step: int) -> None:
        pass

    def _checkpoint(self, step: int) -> None:
        self.checkpoints.append(step)

    def _facts(self, last: int, steps: int) -> dict[str, Any]:
        return {"steps": last}


@pytest.mark.parametrize(
    ("asked_in", "spent_in", "taken", "checkpoints", "stopped"),
    [
        (3, 0, 3, [2, 3], True),
        (2, 0, 2, [2], True),  # once, not twice
        (5, 0, 5, [2, 4], False),  # the stage is complete without one
        (3, 3, 3, [2], False),  # nor would it be known that the budget is spent
        (0, 0, 5, [2, 4], False),
    ],
)
def test_the_loop_stops_after_its_step_with_a_checkpoint_of_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked_in: int,
    spent_in: int,
    taken: int,
    checkpoints: list[int],
    stopped: bool,
):
    monkeypatch.setattr(stopping, "_stop", stopping._Stop())
    monkeypatch.setattr("cluster.runs.loop.ppo_loop.prompts_of", lambda context: [])
    loop = FakeLoop(tmp_path, asked_in, spent_in)
    if stopped:
        with pytest.raises(StopRequested, match=f"step {taken} is done and kept; the run was stopped"):
            loop.run()
    else:
        assert loop.run()["steps"] == taken
    assert (loop.taken, loop.checkpoints) == (taken, checkpoints)
    assert stopping._stop.noticed.is_set() == stopped and not stopping._stop.in_steps


# --- what the status says ---------------------------------------------------------------------------------------------


def hidden(inner: BaseException, outer: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (StopRequested(stopping.STOPPED), "stopped", stopping.STOPPED),
        (hidden(StopRequested("asked"), SystemError("wait returned")), "stopped", "asked"),
        (hidden(StopRequested("asked"), TrainFailure("task 'sft' was lost: asked")), "stopped", "asked"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (WaitsForPeople("to_label.csv waits"), "stopped", "to_label.csv waits"),
        (StoppedError("step 3: 40 of 64 samples have no usable score"), "failed", "step 3: 40 of 64"),
        (RemoteTimeout("learner-0 did not answer"), "failed", "learner-0 did not answer"),
        (hidden(RuntimeError("out of memory"), ActorDied("learner-0 failed")), "failed", "learner-0 failed"),
        (ValueError("a bug"), "failed", "a bug"),
    ],
)
def test_a_run_that_nobody_stopped_has_failed(tmp_path: Path, error: BaseException, state: str, message: str):
    settings = load_settings("quickstart")
    layout = RunLayout(tmp_path / "quickstart")
    engines = Engines(settings.resources, 128, tmp_path)
    with pytest.raises(type(error)), _attempt(settings, layout, check_inputs(settings), engines, [], [], "", None):
        raise error
    left = read_status(layout.status)
    assert left is not None and left.state == state and left.message.startswith(message)


def test_a_run_without_peoples_labels_waits_and_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labelling, "label_by_people", SimpleNamespace(remote=lambda *arguments: None))
    monkeypatch.setattr(labelling, "_fetch", lambda *arguments: {"filled": 1, "rows": 4})
    context: Any = SimpleNamespace(settings=load_settings("quickstart", ["preferences.labels=people"]))
    with pytest.raises(WaitsForPeople, match="waits for people: 1 of 4 rows"):
        labelling._by_people(context, tmp_path / "pairs.parquet", tmp_path / "preferences.parquet")


@pytest.mark.parametrize(
    "error", [StopRequested("asked"), hidden(StopRequested("asked"), SystemError("wait returned"))]
)
def test_a_job_that_was_stopped_inside_compiled_code_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
):
    def run(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(job, "_run", run)
    assert job.main(["quickstart"]) == Exit.STOPPED
    assert capsys.readouterr().err == "error: asked\n"
    error = SystemError("something else")
    with pytest.raises(SystemError, match="something else"):
        job.main(["quickstart"])


def test_a_run_says_what_it_waits_for_and_that_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = load_settings("quickstart")
    seen: list[str] = []
    engines = Engines(settings.resources, 128, tmp_path)
    inputs, layout = check_inputs(settings), RunLayout(tmp_path / "quickstart")
    with _attempt(settings, layout, inputs, engines, [], [], "", lambda status: seen.append(status.message)):
        engines._groups.on_wait("waiting for 2 x learner")
        engines._groups.on_wait("")
    assert seen[-2:] == ["waiting for 2 x learner", ""]
    assert capsys.readouterr().err == "waiting for 2 x learner\n"
    assert engines._groups.on_wait is say_waiting
