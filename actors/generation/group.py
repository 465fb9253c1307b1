"""The group of generators: starts them, watches them, starts them again, and keeps their health up to date.

Decisions are `actors.generation.fleet_health`'s; this file carries them out. Nothing here waits, except where a method says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.events import ActorEvent, OnEvent, ignore
from actors.generation.fleet_health import FleetHealth, FleetPolicy, Health
from actors.generation.generator import EngineInfo
from actors.generation.start import GeneratorSpec, start_generator
from configs.schema.resources import DeadlineSettings
from learner.deadlines import Deadline, RemoteFailure, RemoteTimeout, fetch, poll

ANSWERED = 5.0
"""Seconds to fetch an answer that is known to be there."""


class GeneratorGroup:
    """`generator-0` … `generator-<n-1>`, all starting when this returns.

    Args:
        model_path: Hugging Face folder of the first weights, which are version `version`.
        on_event: told what happens to each.
        scheduling: a Ray scheduling strategy per generator; empty leaves it to Ray.
        policy: none takes restarts and start time from the settings.
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        model_path: Path,
        deadlines: DeadlineSettings,
        *,
        version: int = 0,
        on_event: OnEvent = ignore,
        name: str = "generator",
        scheduling: Sequence[Any] = (),
        policy: FleetPolicy | None = None,
    ) -> None:
        self._spec, self._on_event = spec, on_event
        self._deadlines = deadlines
        self.names = [f"{name}-{index}" for index in range(spec.settings.count)]
        policy = policy or FleetPolicy(max_restarts=spec.settings.max_restarts, start_seconds=deadlines.start_seconds)
        self.health = FleetHealth(self.names, policy, version=version)
        self._folder = (model_path, version)
        self._scheduling = dict(zip(self.names, scheduling, strict=False))
        self._actors: dict[str, Any] = {}
        self._starting: dict[str, Any] = {}
        self._loading: dict[str, tuple[Any, int]] = {}
        self._probes: dict[str, Any] = {}
        for generator_name in self.names:
            self._start(generator_name)

    @property
    def settings(self) -> Any:
        """GeneratorSettings."""
        return self._spec.settings

    def actor(self, name: str) -> Any:
        """The handle of a generator that is there."""
        return self._actors[name]

    def wait_serving(self) -> None:
        """Wait until every generator that is not lost serves; at the deadline, go on with those that do.

        Raises:
            RemoteTimeout: none serves at the deadline. FleetLost: none ever will.
        """
        deadline = Deadline(self._deadlines.start_seconds)
        while len(self.health.serving()) + len(self.health.lost()) < len(self.names):
            if deadline.remaining() == 0:
                if self.health.serving():
                    return
                states = ", ".join(f"{name} {self.health.health(name)}" for name in self.names)
                raise RemoteTimeout(f"no generator serves after {deadline.seconds:g} s ({states}): look at their logs")
            self.poll(seconds=0.2)

    def load_from(self, path: Path, version: int) -> None:
        """Give every generator the weights of a folder as `version`, and wait until they serve.

        Raises:
            RemoteTimeout, FleetLost: as `wait_serving`.
        """
        self._folder = (path, version)
        self.health.begin_update(version)
        self.wait_serving()

    @property
    def can_refresh(self) -> bool:
        """Whether a generator that comes back can find the target weights in a folder, without a broadcast."""
        return self._folder[1] == self.health.target_version

    def failed(self, name: str, reason: str) -> None:
        """Give a generator up: end its process; it is started again after a while, if it may be."""
        if self.health.health(name) in (Health.DEAD, Health.LOST):
            return
        for waiting in (self._starting, self._loading, self._probes):
            waiting.pop(name, None)
        actor = self._actors.pop(name, None)
        if actor is not None:
            ray.kill(actor)
        state = self.health.died(name, reason)
        self._on_event(ActorEvent(name, "died", reason))
        if state is Health.LOST:
            self._on_event(ActorEvent(name, "lost", f"{self.health.restarts(name)} restarts used up"))

    def poll(self, seconds: float = 0.0) -> None:
        """Take note of what happened and do what is due; waits at most `seconds` for something to happen.

        Raises:
            FleetLost: no generator is left.
        """
        waiting = [*self._starting.values(), *(ref for ref, _ in self._loading.values()), *self._probes.values()]
        ready = set(poll(waiting, seconds=seconds)) if waiting or seconds else set()
        self._note_started(ready)
        self._note_loaded(ready)
        self._note_probes(ready)
        for name, reason in self.health.overdue():
            self.failed(name, reason)
        self.health.check_alive()
        for name in self.health.due_restarts():
            self._restart(name)
        self._refresh()
        for name in self.health.due_probes():
            self._probes[name] = self._actors[name].ping.remote()
            self.health.probe_sent(name)

    def confirmed(self, name: str, version: int) -> None:
        """A weight update of this generator is complete."""
        before = self.health.health(name)
        self.health.updated(name, version)
        if before is not Health.SERVING and self.health.health(name) is Health.SERVING:
            self._on_event(ActorEvent(name, "serving", f"weight version {version}"))

    def shutdown(self) -> None:
        """End all of them."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    # --- steps of poll -----------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        folder, version = self._folder
        self._actors[name] = start_generator(name, self._spec, folder, version, self._scheduling.get(name))
        self._starting[name] = self._actors[name].ready.remote()

    def _restart(self, name: str) -> None:
        try:
            self._start(name)
        except ValueError:  # Ray has not freed the name yet: at the next poll
            return
        self.health.restarting(name)
        self._on_event(ActorEvent(name, "restarting", self.health.reason(name)))

    def _answers(self, waiting: dict[str, Any], ready: set[Any], operation: str) -> list[tuple[str, Any]]:
        """Answers that have come, by name; a generator whose call failed is given up."""
        answers = []
        for name in [name for name, ref in waiting.items() if ref in ready]:
            ref = waiting.pop(name)
            try:
                answers.append((name, fetch(ref, deadline_seconds=ANSWERED, operation=f"{name}.{operation}")))
            except (RemoteFailure, RemoteTimeout) as error:
                self.failed(name, str(error))
        return answers

    def _note_started(self, ready: set[Any]) -> None:
        for name, info in self._answers(self._starting, ready, "start"):
            assert isinstance(info, EngineInfo)
            self.health.started(name)
            self._on_event(ActorEvent(name, "started", f"engine up after {info.start_seconds:.1f} s", info))
            if self.can_refresh and info.weight_version == self.health.target_version:
                self.confirmed(name, info.weight_version)

    def _note_loaded(self, ready: set[Any]) -> None:
        versions = {name: version for name, (_, version) in self._loading.items()}
        refs = {name: ref for name, (ref, _) in self._loading.items()}
        for name, _ in self._answers(refs, ready, "load_from"):
            self._loading.pop(name, None)
            self.confirmed(name, versions[name])

    def _note_probes(self, ready: set[Any]) -> None:
        for name, _ in self._answers(self._probes, ready, "ping"):
            self.health.heard(name)

    def _refresh(self) -> None:
        """Bring stale generators to the target from its folder, where it has one."""
        folder, version = self._folder
        if version != self.health.target_version:
            return
        for name in self.health.reachable():
            if self.health.health(name) is Health.STALE and name not in self._loading:
                self._loading[name] = (self._actors[name].load_from.remote(folder, version), version)
