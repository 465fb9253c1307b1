"""Health of the generators as a pure state machine; no Ray, the clock is given.

    STARTING ──started──▶ STALE ──updated(target)──▶ SERVING
       ▲  │                 │  ▲                        │
       │  └──────died───────┴──│──────────died──────────┤
       │                       └─────begin_update───────┘
     DEAD ──(back-off over, restarts left)──▶ STARTING        DEAD ──(none left)──▶ LOST

Invariant: a generator serves only at the fleet's target weight version. One that died may serve again only by way of STALE
and a completed weight update, because weights that are old in silence are worse than the outage.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from configs.exits import SteelyardError, StoppedError


class Health(StrEnum):
    """What a generator may be used for."""

    STARTING = "starting"
    """Its engine is not up yet."""
    STALE = "stale"
    """Up, but its weights are not known to be the target version: takes weights, draws no samples."""
    SERVING = "serving"
    DEAD = "dead"
    """Gone; to be started again when the back-off is over."""
    LOST = "lost"
    """Gone, with no restart left."""


class FleetError(SteelyardError):
    """An event that cannot happen in a generator's state; a bug in the caller."""


class FleetLost(StoppedError):
    """No generator is left and none may be started again."""


@dataclass(frozen=True)
class FleetPolicy:
    """When a generator counts as dead, and when it may come back."""

    max_restarts: int
    """Of one generator, over the run."""
    start_seconds: float
    """A start that takes longer has failed."""
    probe_interval_seconds: float = 5.0
    probe_timeout_seconds: float = 30.0
    """No answer to a probe for this long means dead. Long: a busy engine holds Python's lock for parts of a second, and the
    machine may be shared."""
    backoff_seconds: float = 1.0
    """Before the first restart; doubles each time."""
    backoff_cap_seconds: float = 60.0


@dataclass
class _Member:
    health: Health = Health.STARTING
    since: float = 0.0
    restarts: int = 0
    weight_version: int | None = None
    probe_sent: float | None = None
    last_answer: float = 0.0
    reason: str = ""


class FleetHealth:
    """The state of each generator, by name.

    Args:
        names: all of them, as STARTING.
        version: the weight version the first engines are started with; the first target.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        names: Sequence[str],
        policy: FleetPolicy,
        *,
        version: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.target_version = version
        self._clock = clock
        self._members = {name: _Member(since=clock(), last_answer=clock()) for name in names}

    # --- what is so --------------------------------------------------------------------------------------------------

    def health(self, name: str) -> Health:
        """State of one generator."""
        return self._members[name].health

    def restarts(self, name: str) -> int:
        """How often it was started again."""
        return self._members[name].restarts

    def reason(self, name: str) -> str:
        """Why it died last; empty if it never did."""
        return self._members[name].reason

    def weight_version(self, name: str) -> int | None:
        """Of its last completed update; None before the first."""
        return self._members[name].weight_version

    def _in(self, *states: Health) -> list[str]:
        return [name for name, member in self._members.items() if member.health in states]

    def serving(self) -> list[str]:
        """May draw samples."""
        return self._in(Health.SERVING)

    def reachable(self) -> list[str]:
        """Engine up: take part in weight updates."""
        return self._in(Health.STALE, Health.SERVING)

    def starting(self) -> list[str]:
        """Engine on its way."""
        return self._in(Health.STARTING)

    def lost(self) -> list[str]:
        """Gone for good."""
        return self._in(Health.LOST)

    # --- what happened -----------------------------------------------------------------------------------------------

    def started(self, name: str) -> None:
        """Its engine is up; its weights still have to be confirmed."""
        self._move(name, Health.STALE, Health.STARTING)

    def begin_update(self, version: int) -> None:
        """`version` is the target from now on: no generator serves until its update is complete."""
        self.target_version = version
        for name in self.serving():
            self._move(name, Health.STALE, Health.SERVING)

    def updated(self, name: str, version: int) -> None:
        """It holds `version` completely; it serves if that is the target."""
        member = self._members[name]
        if member.health not in (Health.STALE, Health.SERVING):
            raise FleetError(f"{name} is {member.health} and cannot have completed an update to version {version}")
        member.weight_version = version
        if version == self.target_version:
            self._move(name, Health.SERVING, Health.STALE, Health.SERVING)

    def died(self, name: str, reason: str) -> Health:
        """It is gone, or as good as gone; returns DEAD or LOST."""
        member = self._members[name]
        if member.health in (Health.DEAD, Health.LOST):
            return member.health
        member.reason = reason
        member.weight_version = None
        member.probe_sent = None
        member.health = Health.DEAD if member.restarts < self.policy.max_restarts else Health.LOST
        member.since = self._clock()
        return member.health

    def restarting(self, name: str) -> None:
        """A new engine is being started in its place."""
        self._move(name, Health.STARTING, Health.DEAD)
        self._members[name].restarts += 1

    def probe_sent(self, name: str) -> None:
        """It was asked for a sign of life."""
        self._members[name].probe_sent = self._clock()

    def heard(self, name: str) -> None:
        """It gave a sign of life: an answer to a probe, or a sample."""
        member = self._members[name]
        member.probe_sent, member.last_answer = None, self._clock()

    # --- what is to be done ------------------------------------------------------------------------------------------

    def due_restarts(self) -> list[str]:
        """Dead, with the back-off over."""
        return [
            name for name in self._in(Health.DEAD) if self._clock() - self._members[name].since >= self._backoff(name)
        ]

    def due_probes(self) -> list[str]:
        """Reachable, silent for an interval, and not asked yet: one probe at a time, so probes cannot pile up."""
        interval = self.policy.probe_interval_seconds
        clock_seconds = self._clock()
        return [
            name
            for name in self.reachable()
            if self._members[name].probe_sent is None and clock_seconds - self._members[name].last_answer >= interval
        ]

    def overdue(self) -> list[tuple[str, str]]:
        """(name, reason) of those to be given up: a start that takes too long, a probe without an answer."""
        clock_seconds, policy = self._clock(), self.policy
        given_up = []
        for name, member in self._members.items():
            if member.health is Health.STARTING and clock_seconds - member.since >= policy.start_seconds:
                given_up.append((name, f"its engine did not start within {policy.start_seconds:g} s"))
            elif member.probe_sent is not None and clock_seconds - member.probe_sent >= policy.probe_timeout_seconds:
                given_up.append((name, f"it did not answer a probe within {policy.probe_timeout_seconds:g} s"))
        return given_up

    def check_alive(self) -> None:
        """Raises FleetLost when no generator is left and none will come back."""
        if len(self.lost()) == len(self._members):
            reasons = "; ".join(f"{name}: {member.reason}" for name, member in self._members.items())
            raise FleetLost(
                f"all {len(self._members)} generators are lost after {self.policy.max_restarts} restarts each ({reasons}): "
                "look at their logs, then run the same command again to go on"
            )

    def _backoff(self, name: str) -> float:
        doubled = self.policy.backoff_seconds * math.pow(2.0, self._members[name].restarts)
        return min(doubled, self.policy.backoff_cap_seconds)

    def _move(self, name: str, to: Health, *allowed: Health) -> None:
        member = self._members[name]
        if member.health not in allowed:
            raise FleetError(f"{name} is {member.health}: it cannot become {to}")
        if member.health is not to:
            member.health, member.since = to, self._clock()
            member.probe_sent, member.last_answer = None, self._clock()
