"""The only place that waits for Ray: every wait has a deadline and says who did not answer.

On expiry `RemoteTimeout` names the actor and the call; when the actor died, `RemoteFailure` does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from configs.exits import SteelyardError, StoppedError


class RemoteTimeout(StoppedError):
    """A remote call did not answer in time."""


class RemoteFailure(StoppedError):
    """A remote call failed: its actor died or raised."""


class ActorDied(RemoteFailure):
    """The actor behind a call is gone; its owner may start another."""


class ValueLost(RemoteFailure):
    """The node that held a value is gone, and the value with it."""


def fetch(refs: Any, *, deadline_seconds: float, operation: str) -> Any:
    """Wait for one reference or a list of them.

    Args:
        refs: an ObjectRef, or a list of them.
        deadline_seconds: over all of them.
        operation: actor and call, for the error: ``generator-0.receive_weights(version 7)``.

    Raises:
        RemoteTimeout: no answer in time.
        ActorDied: the actor is gone.
        ValueLost: a value was lost with its node.
        RemoteFailure: the call raised; the cause is chained.
    """
    try:
        return ray.get(refs, timeout=deadline_seconds)
    except GetTimeoutError as error:
        raise RemoteTimeout(
            f"{operation} did not answer within {deadline_seconds:g} s; look at its log in the Ray dashboard"
        ) from error
    except RayActorError as error:
        raise ActorDied(f"{operation} failed: the actor died ({_first_line(error)})") from error
    except RayTaskError as error:
        raise RemoteFailure(f"{operation} failed: {_first_line(error.cause or error)}") from error
    except ObjectLostError as error:
        raise ValueLost(f"{operation} failed: its value was lost with a node ({_first_line(error)})") from error
    except RayError as error:
        raise RemoteFailure(f"{operation} failed: {_first_line(error)}") from error


def fetch_result(ref: Any, *, deadline_seconds: float, operation: str) -> Any:
    """As `fetch`, for a task whose own errors are meant for the user: those are raised as they are.

    Raises:
        SteelyardError: what the task raised; RemoteTimeout, RemoteFailure: as `fetch`.
    """
    try:
        return fetch(ref, deadline_seconds=deadline_seconds, operation=operation)
    except RemoteFailure as failure:
        raise user_error(failure) or failure from failure


def poll(refs: Sequence[Any], *, seconds: float) -> list[Any]:
    """Those of `refs` (references, or streams from streaming calls) that are ready, after waiting `seconds` at most for one.

    A stream is ready when its next item is, or when it has ended or failed. Nothing is raised when none is ready: the caller
    keeps its own deadlines.
    """
    if not refs:
        time.sleep(seconds)
        return []
    ready, pending = ray.wait(list(refs), num_returns=1, timeout=seconds, fetch_local=False)
    if ready and pending:
        more, _ = ray.wait(pending, num_returns=len(pending), timeout=0, fetch_local=False)
        ready = [*ready, *more]
    return ready


def next_item(stream: Any, *, operation: str) -> Any | None:
    """Reference of the next item of a stream that `poll` found ready; None at its end.

    The item may be an error; `fetch` raises it.

    Raises:
        ActorDied, RemoteFailure: the stream broke.
    """
    try:
        return next(stream)
    except StopIteration:
        return None
    except RayActorError as error:
        raise ActorDied(f"{operation} failed: the actor died ({_first_line(error)})") from error
    except RayError as error:
        raise RemoteFailure(f"{operation} failed: {_first_line(error)}") from error


class Deadline:
    """A fixed moment by which several waits together must end."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())


def user_error(error: RemoteFailure) -> SteelyardError | None:
    """What the remote side raised, where it was meant for the user; None for anything else."""
    cause = error.__cause__
    if isinstance(cause, RayTaskError):
        cause = cause.cause
    return cause if isinstance(cause, SteelyardError) else None


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
