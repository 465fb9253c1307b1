"""Somebody's Python function, called with a deadline, in a thread of its own.

Invariant: at most one call runs at a time, so the function need not be thread-safe, and a call that hangs leaves one
thread behind, never more.

Python cannot stop a thread. What the deadline gives: the caller goes on when it has passed; an ``async def`` function is
cancelled at its next await; another function runs on until it returns, and until then every further call is too slow as
well. Compiled code that never lets go of the interpreter lock blocks the whole process: only the watcher of the process
can end that.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from actors.scoring.functions import describe
from learner.deadlines import Deadline

T = TypeVar("T")

GRACE_SECONDS = 0.5
"""Beyond the deadline, for a cancelled coroutine to end."""


class FunctionRaised(Exception):
    """The function raised; the message says what and where."""


class FunctionTooSlow(Exception):
    """The function did not answer in time, or still runs an earlier call."""


@dataclass
class _Call:
    function: Callable[[], Any]
    read: Callable[[Any], Any]
    seconds: float
    done: threading.Event = field(default_factory=threading.Event)
    answer: Any = None
    raised: str | None = None
    too_late: bool = False
    """An awaitable was cancelled at the deadline."""


class FunctionThread:
    """The thread; it starts with the first call and ends with the process, or after `close`."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: _Call | None = None

    def call(self, function: Callable[[], Any], read_answer: Callable[[Any], T], seconds: float) -> T:
        """What `read_answer` makes of what `function` returns; an awaitable is awaited first, always in the same event loop.

        Args:
            read_answer: called in the thread too, for a foreign object may raise or take its time when it is looked at.
            seconds: for waiting until an earlier call has ended, and for this one. With none left nothing is called.

        Raises:
            FunctionRaised: it raised, whatever it was.
            FunctionTooSlow: it had not returned in time; what it returns later is thrown away.
        """
        deadline = Deadline(seconds)
        if self._last is not None and not self._last.done.wait(deadline.remaining()):
            raise FunctionTooSlow("an earlier call has not returned yet")
        remaining = deadline.remaining()
        if remaining <= 0:
            raise FunctionTooSlow("no time was left to call it")
        self._start()
        call = self._last = _Call(function, read_answer, remaining)
        self._queue.put(call)
        if not call.done.wait(remaining + GRACE_SECONDS) or call.too_late:
            raise FunctionTooSlow(f"no answer within {seconds:.3g} s")
        self._last = None  # and with it the batch
        if call.raised is not None:
            raise FunctionRaised(call.raised)
        answer: T = call.answer
        return answer

    def close(self) -> None:
        """Let the thread end once its call has returned."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: a call that hangs must not keep the process alive.
            self._thread = threading.Thread(target=_serve, args=(self._queue,), name="scorer-function", daemon=True)
            self._thread.start()


def _serve(queue: SimpleQueue[_Call | None]) -> None:
    with closing(asyncio.Runner()) as runner:  # makes its event loop when the first awaitable comes
        while (call := queue.get()) is not None:
            _answer(call, runner)
            # The local name would keep the last batch alive until the next one comes.
            del call


def _answer(call: _Call, runner: asyncio.Runner) -> None:
    try:
        answer = call.function()
        if inspect.isawaitable(answer):
            answer = runner.run(_within(answer, call))
        call.answer = call.read(answer)
    except BaseException as error:  # noqa: BLE001  foreign code may raise anything, SystemExit included; this thread must live
        call.raised = describe(error)
    finally:
        call.done.set()


async def _within(awaitable: Awaitable[Any], call: _Call) -> Any:
    try:
        async with asyncio.timeout(call.seconds) as limit:
            return await awaitable
    finally:
        # A TimeoutError of the function's own is an error like any other; this one is ours.
        call.too_late = limit.expired()
