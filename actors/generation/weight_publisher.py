"""New weights to every generator that can be reached: group by epoch, broadcast, confirm; without those that fail.

Invariant: when `publish` returns, every serving generator holds exactly the published version, and at least one serves.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any, Protocol

from actors.generation.group import GeneratorGroup
from configs.exits import SteelyardError
from configs.schema.resources import DeadlineSettings, TransportSettings
from learner.deadlines import ActorDied, Deadline, RemoteFailure, RemoteTimeout, fetch, user_error
from learner.engine.transport.gloo import SendReport, StoreAddress
from learner.engine.transport.plan import BucketPlan, PlanMismatch, TransportError

_EPOCHS = itertools.count(1)
"""Never the same twice in a driver: members of an epoch meet under its number at a store that outlives publishers."""

GRACE_SECONDS = 5.0
"""How much longer the driver waits than the group's own timeout, so that the members' own errors arrive."""


class WeightSender(Protocol):
    """The learner's side: `learner.ranks.group.LearnerGroup`."""

    def bucket_plan(self, *, dtype: str, bucket_bytes: int) -> BucketPlan:
        """What will be sent, in which order, cut where."""
        ...

    def store_address(self) -> StoreAddress:
        """Where members meet."""
        ...

    def open_transport(self, *, epoch: int, world_size: int) -> Any:
        """Reference: rank 0 joins an epoch's group as its sender, leaving the one before."""
        ...

    def publish(self, plan: BucketPlan, version: int) -> SendReport:
        """Send to all members, and wait."""
        ...


@dataclass(frozen=True)
class PublishReport:
    """One published version."""

    version: int
    epoch: int
    generators: tuple[str, ...]
    seconds: float
    send: SendReport


class WeightPublisher:
    """Publishes a learner's weights to a group of generators."""

    def __init__(
        self,
        generators: GeneratorGroup,
        sender: WeightSender,
        transport: TransportSettings,
        deadlines: DeadlineSettings,
    ) -> None:
        self._generators, self._sender, self._transport, self._deadlines = generators, sender, transport, deadlines
        self._epoch = 0
        self._members: list[tuple[str, Any]] = []
        self._plan: BucketPlan | None = None

    def check(self) -> None:
        """Compare the learner's parameters with those of every generator that can be reached, before anything is sent.

        Raises:
            PlanMismatch: names, shapes or dtypes differ; lists them. RemoteFailure, RemoteTimeout: of the learner.
        """
        group = self._generators
        group.poll()
        self._check_plan([(name, group.actor(name)) for name in group.health.reachable()])

    def publish(self, version: int) -> PublishReport:
        """Send `version` to all generators whose engine is up; waits for one if there is none.

        Raises:
            FleetLost: no generator is left. PlanMismatch: learner and engines hold other models.
            TransportError: repeated failure. RemoteFailure, RemoteTimeout: of the learner.
        """
        begin = time.perf_counter()
        group = self._generators
        group.health.begin_update(version)
        for _ in range(len(group.names) + 2):
            self._wait_for_members()
            if not self._join():
                continue
            report = self._broadcast(version)
            if report is not None:
                names = tuple(name for name, _ in self._members)
                return PublishReport(version, self._epoch, names, time.perf_counter() - begin, report)
        raise TransportError(
            f"weight version {version} could not be published in {len(group.names) + 2} tries: look at the logs"
        )

    def _wait_for_members(self) -> None:
        """Until a generator can be reached; those that do not answer a ping are given up."""
        group = self._generators
        deadline = Deadline(self._deadlines.start_seconds)
        while True:
            group.poll()
            names = group.health.reachable()
            self._outcomes(
                {name: group.actor(name).ping.remote() for name in names}, "ping", self._deadlines.broadcast_seconds
            )
            if group.health.reachable():
                return
            if deadline.remaining() == 0:
                raise RemoteTimeout(f"no generator could be reached for {deadline.seconds:g} s to take new weights")
            group.poll(seconds=0.2)

    def _join(self) -> bool:
        """Bring the group up to date with who is there; False when somebody was lost on the way."""
        group = self._generators
        members = [(name, group.actor(name)) for name in group.health.reachable()]
        if self._members and members == self._members:
            return True
        self._members = []  # until everyone has joined: a failure on the way must not leave a group that looks whole
        self._plan = plan = self._check_plan(members)
        if group.health.reachable() != [name for name, _ in members]:
            return False
        address = self._sender.store_address()
        self._epoch = next(_EPOCHS)
        world_size, timeout = 1 + len(members), self._deadlines.broadcast_seconds
        calls = {
            name: actor.join_group.remote(address, self._epoch, rank, world_size, plan, timeout)
            for rank, (name, actor) in enumerate(members, start=1)
        }
        # After the generators' calls, before waiting for them: each member blocks until all have come.
        sender = self._sender.open_transport(epoch=self._epoch, world_size=world_size)
        outcomes = self._outcomes(calls, f"join_group(epoch {self._epoch})", timeout + GRACE_SECONDS)
        try:
            fetch(
                sender,
                deadline_seconds=timeout + GRACE_SECONDS,
                operation=f"learner-0: open_transport(epoch {self._epoch})",
            )
        except RemoteFailure as failure:
            if not isinstance(user_error(failure), TransportError):
                raise
            return False
        if any(outcomes.values()):
            return False
        self._members = members
        return True

    def _check_plan(self, members: list[tuple[str, Any]]) -> BucketPlan:
        """What the learner would send, when no member refuses it."""
        dtype, bucket_bytes = self._generators.settings.dtype, self._transport.bucket_bytes
        plan = self._sender.bucket_plan(dtype=dtype, bucket_bytes=bucket_bytes)
        checks = {name: actor.check_plan.remote(plan) for name, actor in members}
        for error in self._outcomes(checks, "check_plan", self._deadlines.broadcast_seconds).values():
            if isinstance(error, PlanMismatch):
                raise error
        return plan

    def _broadcast(self, version: int) -> SendReport | None:
        """Send once; None when it has to be done again with those who are left."""
        assert self._plan is not None
        timeout = self._deadlines.broadcast_seconds + GRACE_SECONDS
        calls = {
            name: actor.receive_weights.options(name=f"receive weights {version}").remote(version)
            for name, actor in self._members
        }
        report: SendReport | None = None
        try:
            # The receivers were asked before this call, which waits: a broadcast needs both sides at once.
            report = self._sender.publish(self._plan, version)
        except RemoteTimeout:
            pass  # a member is silent: the next epoch's group is without it
        except RemoteFailure as failure:
            if not isinstance(user_error(failure), TransportError):
                raise
        outcomes = self._outcomes(calls, f"receive_weights(version {version})", timeout, fatal=True)
        if report is None or any(outcomes.values()):
            self._members = []
            return None
        # Only after all have answered: a generator serves a version when it holds the whole of it.
        for name, _ in self._members:
            self._generators.confirmed(name, version)
        return report

    def _outcomes(
        self, calls: dict[str, Any], operation: str, seconds: float, *, fatal: bool = False
    ) -> dict[str, SteelyardError | None]:
        """Wait for all; each generator's error or None. The dead and silent are given up; with `fatal`, all that failed."""
        deadline = Deadline(seconds)
        outcomes: dict[str, SteelyardError | None] = {}
        for name, ref in calls.items():
            try:
                fetch(ref, deadline_seconds=deadline.remaining(), operation=f"{name}.{operation}")
                outcomes[name] = None
            except (RemoteFailure, RemoteTimeout) as error:
                raised = user_error(error) if isinstance(error, RemoteFailure) else None
                outcomes[name] = raised or error
                if fatal or raised is None or isinstance(error, ActorDied):
                    self._generators.failed(name, str(error))
        return outcomes
