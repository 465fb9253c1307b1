"""Where a run is now: one small file, replaced atomically, written by the job and read by those who follow it.

Invariant: a reader sees a whole status or none; it never sees half a write, and never waits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

State = Literal["starting", "running", "finished", "failed", "stopped"]
StageState = Literal["waiting", "running", "done", "skipped", "failed", "stopped"]
OVER: frozenset[str] = frozenset({"finished", "failed", "stopped"})


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer writer may say more than this reader knows


class StageStatus(_Record):
    """One stage of the run."""

    state: StageState = "waiting"
    seconds: float = 0.0


class MeasureStatus(_Record):
    """One constraint: its measure against its limit, and the multiplier. None before the first value."""

    value: float | None = None
    limit: float
    multiplier: float = 0.0


class GeneratorStatus(_Record):
    """One generator actor."""

    name: str
    pid: int | None = None
    state: str = ""
    weight_version: int = 0


class RunStatus(_Record):
    """The whole of ``status.json``. Steps count optimiser steps of PPO; seconds are wall-clock."""

    run: str
    state: State = "starting"
    stage: str = ""
    stage_index: int = 0
    """Counted from 1; 0 before the first stage."""
    stages_total: int = 0
    stages: dict[str, StageStatus] = {}
    step: int = 0
    steps: int = 0
    measures: dict[str, MeasureStatus] = {}
    reward: float | None = None
    seconds_elapsed: float = 0.0
    seconds_left: float | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()
    dashboard_url: str = ""
    pid: int = 0
    attempt: int = 1
    generators: tuple[GeneratorStatus, ...] = ()


OnStatus = Callable[[RunStatus], None]
"""Is shown every status that is written, by a command that runs the job in its own process."""


class StatusWriter:
    """Keeps ``status.json`` of one attempt. Safe to call from several threads.

    Example::

        status = StatusWriter(layout.status, run=settings.name, stages=["sft", "ppo"], dashboard_url=url, attempt=1)
        status.begin_stage("sft"); status.update(step=3, steps=60); status.end_stage("sft"); status.finish("finished")
    """

    def __init__(
        self,
        path: Path,
        *,
        run: str,
        stages: list[str],
        dashboard_url: str = "",
        attempt: int = 1,
        on_change: OnStatus | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._on_change = path, on_change
        self._clock = clock
        self._start = clock()
        self._stage_start = self._start
        self._lock = threading.Lock()
        self._status = RunStatus(
            run=run,
            stages={name: StageStatus() for name in stages},
            stages_total=len(stages),
            dashboard_url=dashboard_url,
            attempt=attempt,
            pid=os.getpid(),
        )
        self.update()

    @property
    def status(self) -> RunStatus:
        """What was written last."""
        return self._status

    def update(self, **fields: Any) -> None:
        """Change fields of `RunStatus` and write the file.

        Raises:
            ValidationError: an unknown field or a wrong type; a bug of the caller.
        """
        with self._lock:
            self._write(fields)

    def begin_stage(self, name: str) -> None:
        """A stage starts running; it becomes the current one, and the step count starts again."""
        with self._lock:
            self._stage_start = self._clock()
            index = (
                list(self._status.stages).index(name) + 1 if name in self._status.stages else self._status.stage_index
            )
            stages = self._with_stage(name, StageStatus(state="running"))
            self._write(
                {"state": "running", "stage": name, "stage_index": index, "stages": stages, "step": 0, "steps": 0}
            )

    def end_stage(self, name: str, *, state: StageState = "done") -> None:
        """A stage is over (`skipped`: its outputs were complete)."""
        with self._lock:
            seconds = 0.0 if state == "skipped" else self._clock() - self._stage_start
            self._write({"stages": self._with_stage(name, StageStatus(state=state, seconds=seconds))})

    def warn(self, message: str) -> None:
        """Add a warning; the same sentence is kept once."""
        with self._lock:
            if message not in self._status.warnings:
                self._write({"warnings": (*self._status.warnings, message)})

    def finish(self, state: State, message: str = "") -> None:
        """The run is over, for good or bad."""
        with self._lock:
            fields: dict[str, Any] = {"state": state, "message": message, "seconds_left": None}
            if state != "finished" and self._status.stage in self._status.stages:
                seconds = self._clock() - self._stage_start
                if self._status.stages[self._status.stage].state == "running":
                    stage_end = StageStatus(state="stopped" if state == "stopped" else "failed", seconds=seconds)
                    fields["stages"] = self._with_stage(self._status.stage, stage_end)
            self._write(fields)

    def _with_stage(self, name: str, stage: StageStatus) -> dict[str, StageStatus]:
        return {**self._status.stages, name: stage}

    def _write(self, fields: Mapping[str, Any]) -> None:
        if unknown := set(fields) - set(RunStatus.model_fields):
            raise TypeError(f"RunStatus has no field {', '.join(sorted(unknown))}")
        current = {name: getattr(self._status, name) for name in RunStatus.model_fields}
        elapsed = {"seconds_elapsed": self._clock() - self._start}
        self._status = RunStatus.model_validate({**current, **elapsed, **fields})
        replace_text(self._path, self._status.model_dump_json(indent=1))
        if self._on_change is not None:
            self._on_change(self._status)


def read_status(path: Path) -> RunStatus | None:
    """The status as it is now; None if there is none yet, or if it is of another make."""
    try:
        return RunStatus.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def replace_text(path: Path, text: str) -> None:
    """Write a file so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
