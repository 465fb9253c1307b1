"""What happens to actors, as records that their owner may log, count or show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ActorEvent:
    """One thing that happened to one actor."""

    actor: str
    kind: str
    """``started``, ``serving``, ``died``, ``restarting``, ``lost``."""
    detail: str = ""
    info: Any = None
    """Of ``started``: what the actor says of itself."""


OnEvent = Callable[[ActorEvent], None]


def ignore(event: ActorEvent) -> None:
    """For owners that do not care."""
