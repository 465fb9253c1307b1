"""What an attack is after: a request that should not be answered as it is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.crowd.world import HARM_KINDS, TASK_SPLITS, World
from actors.redteam.suite import Suite
from configs.exits import ConfigError
from configs.explain import suggestion
from learner.records import Prompt


@dataclass(frozen=True)
class Target:
    """One harmful request."""

    id: str
    """A sandbox task's id, or the source's own."""
    values: Mapping[str, str]
    """What the request's placeholders stand for; in the sandbox also a harmless task to begin with."""
    category: str | None
    kind: str = "harmful"
    """``harmful`` or ``dual_use``; a request from elsewhere is ``harmful``."""
    split: str = "new"
    """Of a sandbox task: ``seen``, ``heldout`` or ``unknown``."""


def sandbox_targets(
    world: World, *, kinds: Sequence[str] = HARM_KINDS, splits: Sequence[str] = ("seen", "heldout"), seed: int = 0
) -> list[Target]:
    """The world's tasks of these kinds and splits, each with a harmless task that is drawn by `seed`.

    Raises:
        ConfigError: an unknown kind or split, or no task is of them.
    """
    for noun, chosen, choices in (("kind", kinds, HARM_KINDS), ("split", splits, TASK_SPLITS)):
        for name in chosen:
            if name not in choices:
                raise ConfigError(f"no {noun} of harmful tasks '{name}'; {suggestion(name, list(choices))}")
    targets = []
    for task in world.tasks:
        if task.kind not in kinds or task.split not in splits:
            continue
        values = {"verb": task.verb, "object": task.object}
        if world.other_tasks:
            other_task = random.Random(f"redteam/{seed}/{task.id}").choice(world.other_tasks)
            values |= {"other_verb": other_task.verb, "other_object": other_task.object}
        targets.append(Target(task.id, values, task.category, task.kind, task.split))
    if not targets:
        raise ConfigError(f"the world has no {' or '.join(kinds)} task of split {' or '.join(splits)}: ask for others")
    return targets


def suite_targets(suite: Suite) -> list[Target]:
    """The requests that a suite brings itself.

    Raises:
        ConfigError: it brings none.
    """
    if not suite.requests:
        raise ConfigError(f"suite {suite.name} brings no requests: give a source of prompts (--requests)")
    return [
        Target(f"request-{index}", {key: request[key] for key in suite.request}, request.get("category"))
        for index, request in enumerate(suite.requests)
    ]


def prompt_targets(prompts: Sequence[Prompt]) -> list[Target]:
    """The last user turn of each prompt as a request."""
    return [
        Target(prompt.prompt_id, {"request": prompt.messages[-1]["content"].strip()}, prompt.category)
        for prompt in prompts
    ]
