"""Where the driver leaves supervised tasks and the workers leave progress and outcomes.

Free of torch, so that the mailbox's process starts at once and stays small: tasks pass through as references.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

POLL_SECONDS = 5.0
"""How long the mailbox holds a question open before it says "nothing yet"."""


@dataclass(frozen=True)
class TaskProgress:
    """Where a task is."""

    task: str
    step: int
    steps: int
    loss: float
    seconds: float
    """Since the first step."""

    @property
    def fraction(self) -> float:
        """Done, 0 to 1."""
        return self.step / max(1, self.steps)


@dataclass(frozen=True)
class Envelope:
    """A task and its place in the sequence."""

    number: int
    task: tuple[Any, ...]
    """One ObjectRef of a task; none: no more tasks, the workers end."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task: metrics, or the problem in words."""

    metrics: dict[str, float] | None = None
    problem: str = ""
    of_data: bool = False
    """The problem is one of the task's data."""


@dataclass(frozen=True)
class MailboxState:
    """What the driver learns from one look."""

    ready: int
    """Workers that have joined."""
    progress: TaskProgress | None
    outcome: Outcome | None


class Mailbox:
    """Between the driver and the workers; an async actor, so that questions wait without blocking each other."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._envelope = Envelope(0, ())
        self._progress: TaskProgress | None = None
        self._outcome: Outcome | None = None
        self._workers: dict[int, Any] = {}
        self._failed: set[int] = set()

    async def join(self, rank: int, worker: Any) -> None:
        """A worker is up; `worker` is its actor handle."""
        self._workers[rank] = worker
        await self._notify()

    async def workers(self) -> list[Any]:
        """Handles of the workers that have joined."""
        return list(self._workers.values())

    async def post(self, task: tuple[Any, ...]) -> int:
        """A new task for all workers (see `Envelope.task`); returns its number."""
        self._envelope = Envelope(self._envelope.number + 1, task)
        self._progress = self._outcome = None
        self._failed.clear()
        await self._notify()
        return self._envelope.number

    async def take(self, after: int) -> Envelope | None:
        """The envelope with a number above `after`, or None when there is none within POLL_SECONDS."""
        await self._wait(lambda: self._envelope.number > after)
        return self._envelope if self._envelope.number > after else None

    async def report(self, number: int, progress: TaskProgress) -> None:
        """Progress of task `number`; late reports of an earlier task are dropped."""
        if number == self._envelope.number:
            self._progress = progress
            await self._notify()

    async def finish(self, number: int, rank: int, outcome: Outcome) -> None:
        """The outcome of task `number` as one rank saw it; the first one counts."""
        if number != self._envelope.number:
            return
        if outcome.metrics is None:
            self._failed.add(rank)
        self._outcome = self._outcome or outcome
        await self._notify()

    async def all_failed(self) -> bool:
        """Whether every worker has given the task up, and so is free for another; waits up to POLL_SECONDS for it."""
        await self._wait(lambda: self._failed == self._workers.keys())
        return self._failed == self._workers.keys()

    async def look(self, seen_step: int) -> MailboxState:
        """The state once there is an outcome or progress beyond `seen_step`, or after POLL_SECONDS."""
        await self._wait(lambda: self._outcome is not None or self._step() > seen_step)
        return MailboxState(len(self._workers), self._progress, self._outcome)

    def _step(self) -> int:
        return -1 if self._progress is None else self._progress.step

    async def _wait(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(condition), POLL_SECONDS)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
