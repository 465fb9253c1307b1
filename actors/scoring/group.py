"""The group of scorers: starts them, chooses one per chunk, starts a dead one again with the models it held.

Each *role* holds some of the models; a chunk goes to one scorer of every role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from actors.events import ActorEvent, OnEvent, ignore
from actors.scoring.model_scorer import ScorerModels
from actors.scoring.start import start_scorer
from configs.exits import StoppedError
from configs.schema.resources import DeadlineSettings, ScorerSettings
from learner.deadlines import Deadline, fetch_result

NAME_SECONDS = 10.0
"""How long Ray may take to free the name of a dead actor."""


class ScorerLost(StoppedError):
    """A scorer died more often than it may be started again."""


@dataclass
class Scorer:
    """One scorer actor and what it holds."""

    name: str
    role: str
    models: ScorerModels
    actor: Any
    restarts: int = 0
    running: int = 0
    """Chunks it is scoring."""


def roles_of(models: ScorerModels, colocate: bool) -> dict[str, ScorerModels]:
    """Role to its share of the models: one role for all, or one per signal and one for the reference."""
    if colocate:
        return {"all": models}
    roles = {
        name.replace("/", "-"): replace(models, signals={name: source}, reference=None)
        for name, source in models.signals.items()
    }
    if models.reference is not None:
        roles["reference"] = replace(models, signals={})
    return roles


class ScorerGroup:
    """`scorer-0` … where one actor holds every model, else `scorer-reward`, `scorer-cost-<name>`, `scorer-reference`.

    Returns at once; `wait_ready` waits. A second replica of a role `reward` is `scorer-reward-1`.
    """

    def __init__(
        self,
        settings: ScorerSettings,
        models: ScorerModels,
        deadlines: DeadlineSettings,
        *,
        on_event: OnEvent = ignore,
        scheduling: Sequence[Any] = (),
    ) -> None:
        self._settings, self._deadlines, self._on_event = settings, deadlines, on_event
        self.models = models
        self._scheduling: dict[str, Any] = {}
        self.scorers: list[Scorer] = []
        for role, share in roles_of(models, settings.colocate).items():
            for replica in range(settings.replicas):
                name = _name(role, replica)
                if scheduling:
                    self._scheduling[name] = scheduling[len(self.scorers)]
                self.scorers.append(Scorer(name, role, share, self._start(name, share)))

    @property
    def roles(self) -> list[str]:
        """Every role once."""
        return list(dict.fromkeys(scorer.role for scorer in self.scorers))

    def wait_ready(self) -> None:
        """Wait until all have loaded their models.

        Raises:
            ConfigError, DataError: a scorer is not what it should be. RemoteTimeout, RemoteFailure.
        """
        deadline = Deadline(self._deadlines.start_seconds)
        calls = [(scorer.name, scorer.actor.ready.remote()) for scorer in self.scorers]
        for name, ref in calls:
            fetch_result(ref, deadline_seconds=deadline.remaining(), operation=f"{name}: start")

    def load(self, models: ScorerModels) -> None:
        """Hold other models (of the same signals) in the same actors, for the next arm of a comparison. Raises as
        `wait_ready`.
        """
        shares = roles_of(models, self._settings.colocate)
        if set(shares) != set(self.roles):
            raise StoppedError(f"scorers hold {self.roles} and cannot take {sorted(shares)}: start a new group")
        self.models = models
        deadline = Deadline(self._deadlines.start_seconds)
        calls = []
        for scorer in self.scorers:
            scorer.models = shares[scorer.role]
            calls.append((scorer.name, scorer.actor.load.remote(scorer.models)))
        for name, ref in calls:
            fetch_result(ref, deadline_seconds=deadline.remaining(), operation=f"{name}.load")

    def choose(self, role: str) -> Scorer:
        """The least busy scorer of a role."""
        return min((scorer for scorer in self.scorers if scorer.role == role), key=lambda scorer: scorer.running)

    def restart(self, scorer: Scorer, actor: Any, reason: str) -> None:
        """Start a scorer again after `actor` failed; does nothing if that was already done.

        Raises:
            ScorerLost: no restart is left.
        """
        if scorer.actor is not actor:
            return
        ray.kill(actor)
        self._on_event(ActorEvent(scorer.name, "died", reason))
        if scorer.restarts >= self._settings.max_restarts:
            self._on_event(ActorEvent(scorer.name, "lost", f"{scorer.restarts} restarts used up"))
            raise ScorerLost(
                f"{scorer.name} died again after {scorer.restarts} restarts ({reason}): look at its log, then run again"
            )
        scorer.restarts += 1
        scorer.running = 0
        scorer.actor = self._start(scorer.name, scorer.models)
        self._on_event(ActorEvent(scorer.name, "restarting", reason))

    def shutdown(self) -> None:
        """End all of them."""
        for scorer in self.scorers:
            ray.kill(scorer.actor)
        self.scorers = []

    def _start(self, name: str, models: ScorerModels) -> Any:
        deadline = Deadline(NAME_SECONDS)
        while True:
            try:
                return start_scorer(name, self._settings, models, self._scheduling.get(name))
            except ValueError:  # Ray has not freed the name yet
                if deadline.remaining() == 0:
                    raise


def _name(role: str, replica: int) -> str:
    if role == "all":
        return f"scorer-{replica}"
    return f"scorer-{role}" + (f"-{replica}" if replica else "")
