"""A run's figures while it runs: the store, Ray's metrics, and the sinks, kept up to date by the driver.

The loop and the pipeline tell this what happens; a heartbeat adds what changes between steps and keeps Ray's gauges alive.
Nothing here takes part in what is computed.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from actors.events import ActorEvent
from cluster.observability.telemetry.names import run_label
from cluster.observability.telemetry.ray_metrics import RayMetrics
from cluster.observability.telemetry.series import SeriesStore, flat, role_and_rank
from cluster.observability.telemetry.sinks import SinkSet, open_sinks
from cluster.run_folder.metrics_log import NotFinite
from cluster.run_folder.round_names import split_name
from cluster.run_folder.status import OnStatus, RunStatus
from configs.layout import RunLayout
from configs.schema.run import RunSettings

LOOP_STAGE = "ppo"
HEARTBEAT_SECONDS = 5.0
"""Ray forgets a gauge after about 20."""


class Watched(Protocol):
    """What the heartbeat asks of `cluster.resources.engines.Engines`."""

    events: list[ActorEvent]

    def generator_states(self) -> list[dict[str, Any]]:
        """Name, state and weight version of each generator."""
        ...

    def queue_depths(self) -> Mapping[str, int]:
        """What waits and what is worked on."""
        ...


class Telemetry:
    """One attempt of one run.

    Args:
        engines: asked by the heartbeat, from its own thread.
        metrics: of this process; none: nothing goes to Ray.
    """

    def __init__(self, settings: RunSettings, layout: RunLayout, engines: Watched, metrics: RayMetrics | None) -> None:
        self._settings, self._layout, self._engines, self._metrics = settings, layout, engines, metrics
        self.store = SeriesStore(run_label(layout.root))
        self.store.settings(settings)
        self.store.put("steelyard_not_finite", 0)
        self._sinks: SinkSet | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._state, self._stage = "running", ""
        self._steps_before = 0
        self._seen_events = len(engines.events)

    def open(self, warn: Callable[[str], None]) -> None:
        """Open the sinks and begin to beat."""
        self._sinks = open_sinks(self._settings, self._layout, warn)
        if self._metrics is not None:
            threading.Thread(target=self._beat, name="telemetry", daemon=True).start()

    # --- what happens -------------------------------------------------------------------------------------------------

    def begin_round(self, number: int, earlier_lines: Sequence[Mapping[str, Any]]) -> None:
        """The loop of a round starts, or goes on after the lines of an earlier attempt."""
        self._steps_before = sum(_lines(self._layout.metrics_of(earlier)) for earlier in range(1, number))
        with self._lock:
            self.store.begin_round()
            for line in earlier_lines:
                self.store.step(line)
            self.store.put("steelyard_round", number)
            self._loop_starts()

    def step(self, line: Mapping[str, Any]) -> None:
        """One step's line, after it was written."""
        with self._lock:
            self.store.step(line)
            self.store.put("steelyard_step_timestamp_seconds", time.time())
            self._push()
        if self._sinks is not None:
            self._sinks.step(self._steps_before + int(line["step"]), dict(flat(line)))

    def checkpoint(self, path: Path, seconds: float) -> None:
        """A checkpoint was written."""
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        with self._lock:
            self.store.put("steelyard_checkpoint_timestamp_seconds", time.time())
            self.store.put("steelyard_checkpoint_seconds", seconds)
            self.store.put("steelyard_checkpoint_bytes", size)

    def status(self, status: RunStatus) -> None:
        """The status file was written."""
        with self._lock:
            if status.stage != self._stage and split_name(status.stage)[0] == LOOP_STAGE:
                self._loop_starts()  # it prepares for a while, and the last round's step is long ago
            self._state, self._stage = status.state, status.stage
            self.store.status(status)

    def _loop_starts(self) -> None:
        now = time.time()
        self.store.put("steelyard_step_timestamp_seconds", now)
        self.store.put("steelyard_checkpoint_timestamp_seconds", now)

    def failed(self, error: BaseException) -> None:
        """The run ends by an error."""
        from learner.deadlines import RemoteFailure, user_error
        from learner.engine.deepspeed_engine import NonFiniteUpdate

        raised = user_error(error) if isinstance(error, RemoteFailure) else error
        if isinstance(raised, NonFiniteUpdate | NotFinite):
            with self._lock:
                self.store.put("steelyard_not_finite", 1)

    def close(self) -> None:
        """Show the last state and end."""
        self._over.set()
        with self._lock:
            self._look()
            self._push()
        if self._sinks is not None:
            self._sinks.close(self._state)

    # --- the heartbeat ------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with self._lock:
                self._look()
                self._push()

    def _look(self) -> None:
        """What changes between steps."""
        for queue, depth in self._engines.queue_depths().items():
            self.store.put("steelyard_queue_depth", depth, queue=queue)
        for generator in self._engines.generator_states():
            self.store.generator(generator["name"], generator["state"], generator["weight_version"])
        events = self._engines.events
        for event in events[self._seen_events :]:
            if event.kind == "restarting":
                role, rank = role_and_rank(event.actor)
                self.store.add("steelyard_actor_restarts", 1, role=role, rank=rank)
            self._seen_events += 1
        with contextlib.suppress(OSError):  # a shared folder that is away for a moment keeps its last figures
            disk = shutil.disk_usage(self._layout.root)
            self.store.put("steelyard_storage_free_bytes", disk.free)
            self.store.put("steelyard_storage_bytes", disk.total)

    def _push(self) -> None:
        if self._metrics is not None:
            self._metrics.push(self.store)


class Unwatched:
    """In place of Telemetry where no one looks."""

    def begin_round(self, number: int, earlier_lines: Sequence[Mapping[str, Any]]) -> None:
        """See `Telemetry.begin_round`."""

    def step(self, line: Mapping[str, Any]) -> None:
        """See `Telemetry.step`."""

    def checkpoint(self, path: Path, seconds: float) -> None:
        """See `Telemetry.checkpoint`."""


def telemetry_of(settings: RunSettings, layout: RunLayout, engines: Watched) -> Telemetry:
    """For a run in this process; without Ray metrics where the settings say so, or this process has joined no cluster."""
    import ray

    metrics = RayMetrics() if settings.tracking.prometheus and ray.is_initialized() else None
    return Telemetry(settings, layout, engines, metrics)


def shown_to(*observers: OnStatus | None) -> OnStatus:
    """One observer that tells all of them."""
    present = [observer for observer in observers if observer is not None]

    def tell(status: RunStatus) -> None:
        for observer in present:
            observer(status)

    return tell


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
