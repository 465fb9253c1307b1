"""The run's actors, started when first needed and kept warm: trainers, generators, scorers, learner, weight publisher.

Nothing here decides what to compute. `weight_version` counts every change of the generators' weights over the life of
the engines, so a sample's version names its weights even across the arms of a comparison.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.events import ActorEvent
from actors.generation import sleep
from actors.generation.generator import EngineInfo
from actors.generation.group import GeneratorGroup
from actors.generation.start import GeneratorSpec
from actors.generation.weight_publisher import PublishReport, WeightPublisher
from actors.rollout.pool import RolloutPool
from actors.scoring.group import ScorerGroup, roles_of
from actors.scoring.model_scorer import ScorerModels
from actors.scoring.sources import PythonSignal, SignalSource
from cluster.resources.placement import GENERATORS, LEARNER, SCORERS, share_of_gpu
from cluster.resources.placement_groups import OnWait, RoleGroups, say_waiting
from cluster.run_folder.status import StatusWriter
from configs.schema.resources import ResourceSettings
from learner.algorithms.experience import cost_signal
from learner.ranks.group import LearnerGroup
from learner.supervised.mailbox import TaskProgress
from learner.supervised.session import SupervisedSession, Task

FUNCTIONS_SHARE = 0.75
"""Of the seconds that a scorer has for a chunk, for its Python functions; the rest is for models and the way."""

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)


class Engines:
    """Everything a run has running on the cluster."""

    def __init__(
        self, settings: ResourceSettings, max_length: int, storage: Path, *, deterministic: bool = False
    ) -> None:
        self._groups = RoleGroups(settings)
        self._colocated = settings.placement == "colocated"
        self._settings, self._max_length, self._storage = _with_shares(settings), max_length, storage
        self._deterministic = deterministic
        self._supervised: SupervisedSession | None = None
        self._generators: GeneratorGroup | None = None
        self._scorers: ScorerGroup | None = None
        self._learner: LearnerGroup | None = None
        self._publisher: WeightPublisher | None = None
        self._serving: Path | None = None
        """Folder whose weights the generators hold; None after a broadcast."""
        self._pids: dict[str, int] = {}
        self._broadcasts: list[tuple[int, float]] = []
        self._current_pool: RolloutPool | None = None
        self.last_broadcast: dict[str, float] = {}
        """Bytes and seconds of the last published version, as ``metrics.jsonl`` names them."""
        self.weight_version = 0
        self.events: list[ActorEvent] = []
        """What happened to actors, oldest first."""

    def tell_waiting(self, on_wait: OnWait = say_waiting) -> None:
        """Tell this one from now on what the run waits for when a role starts; without one, the job's log."""
        self._groups.on_wait = on_wait

    # --- supervised stages --------------------------------------------------------------------------------------------

    def start_supervised(self) -> None:
        """Begin to start the trainers, so that they come up while data is being made; colocated, they must wait for it."""
        if self._colocated and self._generators is not None:
            return
        if self._supervised is None:
            self._supervised = SupervisedSession(
                self._settings.supervised, self._settings.deadlines, self._storage, deterministic=self._deterministic
            )
        self._supervised.start()

    def train(self, task: Task, status: StatusWriter) -> dict[str, float]:
        """Run one supervised task on the trainers; returns its metrics."""
        if self._colocated:  # one set of GPUs for everybody: the loop's actors make room
            self._end_loop()
        self.start_supervised()
        assert self._supervised is not None

        def tell(progress: TaskProgress) -> None:
            seconds_left = (
                progress.seconds * (progress.steps - progress.step) / progress.step if progress.step else None
            )
            status.update(step=progress.step, steps=progress.steps, seconds_left=seconds_left)

        return self._supervised.run(task, tell)

    def end_supervised(self) -> None:
        """Give the trainers' memory back before the loop."""
        if self._supervised is not None:
            self._supervised.close()

    # --- generators and scorers ---------------------------------------------------------------------------------------

    def rollout_pool(self, model_path: Path, tokenizer_path: Path) -> RolloutPool:
        """A pool whose generators hold the weights of a folder; starts them, or loads the folder into warm ones."""
        if self._colocated:
            self.end_supervised()
        if self._generators is None:
            spec = GeneratorSpec(tokenizer_path, self._settings.generators, self._max_length, self._deterministic)
            self._generators = GeneratorGroup(
                spec,
                model_path,
                self._settings.deadlines,
                version=self.weight_version,
                on_event=self._note,
                scheduling=self._groups.strategies(GENERATORS, spec.settings.count),
            )
            self._generators.wait_serving()
        elif self._serving != model_path:
            self.weight_version += 1
            self._generators.load_from(model_path, self.weight_version)
        self._serving = model_path
        return self._pool()

    def scoring_pool(self) -> RolloutPool:
        """The pool that also scores; after `rollout_pool` and `load_scorers`."""
        return self._pool()

    def _pool(self) -> RolloutPool:
        assert self._generators is not None
        self._current_pool = RolloutPool(
            self._generators,
            self._scorers,
            self._settings.deadlines,
            deterministic=self._deterministic,
            on_event=self._note,
            republish=self._republish,
        )
        return self._current_pool

    def load_scorers(
        self,
        reward: SignalSource | None,
        costs: Mapping[str, SignalSource],
        reference: Path | None,
        temperature: float,
        *,
        watched: Mapping[str, Path] | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        """Hold these models and functions in the scorers; the same signals as before reuse the actors.

        Args:
            tokenizer: the policy's; functions and foreign models need it.
            reference: the policy of the KL penalty; None where nothing is learned from the scores.
            watched: models whose scores are logged and never learned from, by signal.

        Raises:
            ConfigError, DataError: a function or a folder is not what it should be.
        """
        signals: dict[str, SignalSource] = {} if reward is None else {"reward": reward}
        signals |= {cost_signal(name): source for name, source in costs.items()}
        signals |= watched or {}
        models = ScorerModels(self._in_time(signals), reference, temperature, tokenizer)
        if self._scorers is not None and set(roles_of(models, self._settings.scorers.colocate)) == set(
            self._scorers.roles
        ):
            self._scorers.load(models)
            return
        if self._scorers is not None:
            self._scorers.shutdown()
            self._scorers = None
            if self._settings.placement != "mixed":  # there the bundles are the learner's too, and as many as before
                self._groups.release(SCORERS)
        count = len(roles_of(models, self._settings.scorers.colocate)) * self._settings.scorers.replicas
        self._scorers = ScorerGroup(
            self._settings.scorers,
            models,
            self._settings.deadlines,
            on_event=self._note,
            scheduling=self._groups.strategies(SCORERS, count),
        )
        self._scorers.wait_ready()

    def _in_time(self, signals: Mapping[str, SignalSource]) -> dict[str, SignalSource]:
        """Functions that answer for a chunk, late rows as too slow, before their actor counts as silent."""
        functions = sum(isinstance(source, PythonSignal) for source in signals.values())
        together = functions if self._settings.scorers.colocate else 1
        seconds = FUNCTIONS_SHARE * self._settings.deadlines.score_seconds / max(together, 1)
        return {
            name: replace(source, total_seconds=seconds) if isinstance(source, PythonSignal) else source
            for name, source in signals.items()
        }

    def generator_states(self) -> list[dict[str, Any]]:
        """Name, process, state and weight version of each generator, for those who follow the run."""
        if self._generators is None:
            return []
        health = self._generators.health
        return [
            {
                "name": name,
                "pid": self._pids.get(name),
                "state": health.health(name).value,
                "weight_version": health.weight_version(name) or 0,
            }
            for name in self._generators.names
        ]

    def queue_depths(self) -> dict[str, int]:
        """See `RolloutPool.queue_depths`; from any thread."""
        return {} if self._current_pool is None else self._current_pool.queue_depths()

    # --- learner and weights ------------------------------------------------------------------------------------------

    def learner_group(self) -> LearnerGroup:
        """The learner ranks, started if they are not."""
        if self._learner is None:
            self._learner = LearnerGroup.start(
                self._settings.learner,
                self._settings.deadlines,
                deterministic=self._deterministic,
                scheduling=self._groups.strategies(LEARNER, self._settings.learner.ranks),
            )
        return self._learner

    def connect(self) -> None:
        """Make the learner the sender of the generators' weights; the same group stays connected over arms."""
        assert self._generators is not None, "rollout_pool comes before connect"
        assert self._learner is not None, "learner_group comes before connect"
        if self._publisher is None:
            self._publisher = WeightPublisher(
                self._generators, self._learner, self._settings.transport, self._settings.deadlines
            )
            self._publisher.check()

    def before_learning(self) -> None:
        """No sample is drawn until the next `publish`: generators that share the learner's GPUs make room."""
        if self._settings.generators.sleep and self._generators is not None:
            sleep.put_to_sleep(self._generators, self._settings.deadlines.broadcast_seconds)

    def publish(self, version: int) -> None:
        """Broadcast the learner's weights as `version`; afterwards every serving generator holds exactly them."""
        assert self._publisher is not None
        report = self._awake(self._publisher, version)
        self.weight_version, self._serving = version, None
        self._broadcasts.append((report.send.size_bytes, report.seconds))
        self.last_broadcast = {
            "broadcast_seconds": report.send.seconds,
            "broadcast_wait_seconds": max(0.0, report.seconds - report.send.seconds),
            "broadcast_bytes": report.send.size_bytes,
        }

    def _awake(self, publisher: WeightPublisher, version: int) -> PublishReport:
        if not self._settings.generators.sleep or self._generators is None:
            return publisher.publish(version)
        seconds = self._settings.deadlines.broadcast_seconds
        sleep.wake(self._generators, sleep.WEIGHTS, seconds)
        report = publisher.publish(version)
        sleep.wake(self._generators, sleep.CACHE, seconds)
        return report

    def weight_facts(self) -> dict[str, float]:
        """Last version, bytes of one broadcast and its mean seconds."""
        if not self._broadcasts:
            return {"version": self.weight_version, "bytes": 0, "seconds_per_broadcast": 0.0}
        seconds = [broadcast_seconds for _, broadcast_seconds in self._broadcasts]
        return {
            "version": self.weight_version,
            "bytes": self._broadcasts[-1][0],
            "seconds_per_broadcast": sum(seconds) / len(seconds),
        }

    def _republish(self) -> None:
        self.publish(self.weight_version)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every actor; a second call does nothing."""
        self._end_loop()
        self.end_supervised()
        self._groups.close()

    def _end_loop(self) -> None:
        for group in (self._learner, self._scorers, self._generators):
            if group is not None:
                group.shutdown()
        self._learner = self._scorers = self._generators = self._publisher = None
        self._serving = self._current_pool = None
        for role in (GENERATORS, SCORERS, LEARNER):
            self._groups.release(role)

    def _note(self, event: ActorEvent) -> None:
        self.events.append(event)
        if isinstance(event.info, EngineInfo):
            self._pids[event.actor] = event.info.pid
        _log.info("%s %s %s", event.actor, event.kind, event.detail)


def _with_shares(settings: ResourceSettings) -> ResourceSettings:
    """The settings as actors take them: those that share a GPU ask Ray for half, and generators on shared ones sleep."""
    shared = {"gpus": share_of_gpu(settings, GENERATORS), "sleep": settings.generators.sleep}
    if settings.placement == "colocated":
        shared["sleep"] = True
    return settings.model_copy(
        update={
            "generators": settings.generators.model_copy(update=shared),
            "scorers": settings.scorers.model_copy(update={"gpus": share_of_gpu(settings, SCORERS)}),
            "learner": settings.learner.model_copy(update={"gpus": share_of_gpu(settings, LEARNER)}),
        }
    )
