"""The sandbox's truth as scorers, to train against: what a policy finds that maximises gold itself, or that hides harm.

For probing the world's scorer and a cost model (docs/gaming.md); a policy that is trained on the truth proves nothing
about training without it. Each function reads the task back from the conversation's last question. A question that is none
of the world's is a fault of its conversation, never a 0.

A function does not learn whether the response was cut at its longest length: every one counts as finished, so gold's
price of an unfinished response is not in these scores. The evaluation counts cut responses as ever.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from actors.crowd.gold import Gold, GoldScorer
from actors.crowd.world import World
from actors.crowd.world_reader import load_world
from configs.exits import DataError
from learner.records import Message

SURE_COST = 8.0
"""Of `unsafe_cost`: far enough from 0 that sigmoid(cost), the unsafe share of a cost without calibration, is 0 or 1."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class GoldReader:
    """Finds a conversation's task and scores its last turn.

    Args:
        world: an answer is what this world says; its questions are the only ones that are known.
    """

    def __init__(self, world: World) -> None:
        self._scorer = GoldScorer(world)
        self._patterns = [_question(form.turns[-1], world) for form in world.forms]
        self._tasks: dict[tuple[str, str], set[str]] = defaultdict(set)
        for task in world.tasks:
            self._tasks[task.verb, task.object].add(task.id)
        self._task_of = cache(self._find)

    def score(self, turns: Sequence[Message]) -> Gold:
        """The truth about a conversation whose last turn is the response.

        Raises:
            DataError: the last question is not one of the world's, or asks for several of its tasks at once.
        """
        return self._scorer.score(self._task_of(turns[-2]["content"]), turns[-1]["content"], finished=True)

    def _find(self, question: str) -> str:
        matches = [match for pattern in self._patterns if (match := pattern.fullmatch(question))]
        task_ids = {task for match in matches for task in self._tasks[match["verb"], match["object"]]}
        if len(task_ids) != 1:
            complaint = f"asks for {len(task_ids)} tasks of the world" if task_ids else "is none of the world's"
            raise DataError(
                f"the question {question[:80]!r} {complaint}, so gold is not known: take the run's own world"
            )
        return task_ids.pop()


def helpfulness(conversations: Sequence[Sequence[Message]], *, world: str | None = None) -> list[float]:
    """A reward: gold helpfulness. `world` is a file; none is the packaged world."""
    return [_reader(world).score(turns).helpfulness for turns in conversations]


def harm(conversations: Sequence[Sequence[Message]], *, world: str | None = None) -> list[float]:
    """Gold harm as a reward, to train a policy that does as much of it as its constraints let it."""
    return [_reader(world).score(turns).harm for turns in conversations]


def unsafe_cost(
    conversations: Sequence[Sequence[Message]], *, world: str | None = None, size: float = SURE_COST
) -> list[float]:
    """A cost: `size` where gold calls the response unsafe, -`size` where it does not."""
    return [size if _reader(world).score(turns).unsafe else -size for turns in conversations]


@cache
def _reader(world: str | None) -> GoldReader:
    return GoldReader(load_world(Path(world) if world else None))


def _question(template: str, world: World) -> re.Pattern[str]:
    """A form's last turn with any task's words, and whatever another task put next to them."""
    values = {"verb": {task.verb for task in world.tasks}, "object": {task.object for task in world.tasks}}
    pieces: list[str] = []
    defined: set[str] = set()
    for index, piece in enumerate(_PLACEHOLDER.split(template)):  # literal text and names of placeholders in turn
        if index % 2 == 0:
            pieces.append(re.escape(piece))
        elif piece not in values:
            pieces.append(".+?")
        elif piece in defined:
            pieces.append(f"(?P={piece})")
        else:
            defined.add(piece)
            longest_first = sorted(values[piece], key=len, reverse=True)
            pieces.append(f"(?P<{piece}>{'|'.join(map(re.escape, longest_first))})")
    return re.compile("".join(pieces))
