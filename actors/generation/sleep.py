"""Generators that share their GPU with the learner give its memory back while the learner works, and take it again.

The order on waking is the engine's: weights first, so that new ones can be loaded; the key-value cache only after that.
"""

from __future__ import annotations

from typing import Any

from actors.generation.group import GeneratorGroup
from learner.deadlines import Deadline, RemoteFailure, RemoteTimeout, fetch

WEIGHTS, CACHE = "weights", "kv_cache"


def put_to_sleep(group: GeneratorGroup, seconds: float) -> None:
    """Every generator that serves gives its GPU memory back; one that fails to is given up and started again."""
    _tell_all(group, "sleep", seconds)


def wake(group: GeneratorGroup, part: str, seconds: float) -> None:
    """Take the memory of `WEIGHTS` or of the `CACHE` again. Failures as `put_to_sleep`."""
    _tell_all(group, "wake", seconds, part)


def _tell_all(group: GeneratorGroup, method: str, seconds: float, *arguments: Any) -> None:
    deadline = Deadline(seconds)
    calls = [(name, getattr(group.actor(name), method).remote(*arguments)) for name in group.health.reachable()]
    for name, ref in calls:
        try:
            fetch(ref, deadline_seconds=deadline.remaining(), operation=f"{name}.{method}")
        except (RemoteFailure, RemoteTimeout) as error:
            group.failed(name, str(error))
