"""A made-up victim and a small suite: what it answers depends on what it is asked, so every figure has a known value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.crowd.world_reader import load_world
from actors.redteam.drive import Answered, Asked
from actors.redteam.suite import Suite
from actors.redteam.suite_reader import load_suite
from actors.redteam.targets import Target, sandbox_targets

WORLD = load_world()
SEGMENTS = WORLD.segments


def suite(*strategies: str) -> Suite:
    return load_suite("sandbox", WORLD).only(strategies)


def targets(n: int = 6) -> list[Target]:
    return sandbox_targets(WORLD, kinds=["harmful"])[:n]


def steps(task_id: str) -> str:
    return SEGMENTS.answer_text(WORLD.task_by_id[task_id].steps)


class FakeVictim:
    """`says` gives (response, cost) for the conversation; None is an answer that is not known."""

    def __init__(self, says: Callable[[Asked], tuple[str, float] | None]) -> None:
        self.says, self.asked = says, []
        self.batches: list[int] = []

    def answer(self, batch: Sequence[Asked]) -> list[Answered | None]:
        self.asked += batch
        self.batches.append(len(batch))
        said = [self.says(one) for one in batch]
        return [None if one is None else Answered(one[0], True, one[1]) for one in said]


def last(asked: Asked) -> str:
    return asked.messages[-1]["content"]


def target_of(asked: Asked) -> str:
    """The request id begins with the search's prefix and holds ``<target>/<form>``."""
    return next(part for part in asked.request_id.split("/") if part in WORLD.task_by_id)
