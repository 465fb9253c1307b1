"""Fair orders of tasks and forms: everything is covered before anything repeats, in a seeded random order.

Independent draws would leave a fifth of 84 tasks out of 128 prompts; a missing task is a hole in a training batch and,
in an evaluation, a cell that says nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from actors.crowd.world import Form, Task, World

T = TypeVar("T")


def shuffled_cycles(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    """Endless passes over ``items``, each pass in a new order."""
    while True:
        yield from rng.sample(items, len(items))


def task_form_rounds(tasks: Sequence[Task], forms: Sequence[Form], rng: random.Random) -> Iterator[tuple[Task, Form]]:
    """Endless (task, form): every ``len(tasks)`` draws hold each task once and every form as equally as can be.

    A Latin square: in round ``j`` the task of rank ``r`` gets form ``r + j``, so after ``len(forms)`` rounds every task
    has had every form; then ranks and forms are drawn again.
    """
    while True:
        ranked, ordered = rng.sample(tasks, len(tasks)), rng.sample(forms, len(forms))
        for turn in range(len(forms)):
            for rank in rng.sample(range(len(tasks)), len(tasks)):
                yield ranked[rank], ordered[(rank + turn) % len(forms)]


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to ``total``, by largest remainder; ties go to the earlier key."""
    share = {key: total * weight / sum(weights.values()) for key, weight in weights.items()}
    counts = {key: int(value) for key, value in share.items()}
    by_remainder = sorted(share, key=lambda key: counts[key] - share[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def render_turns(world: World, task: Task, form: Form, rng: random.Random) -> tuple[dict[str, str], ...]:
    """The form's turns about the task, from user to user; another seen benign task is drawn where the form asks."""
    values = {"verb": task.verb, "object": task.object}
    if any("{other_" in turn for turn in form.turns):
        other_task = rng.choice([candidate for candidate in world.other_tasks if candidate.id != task.id])
        values |= {
            "other_verb": other_task.verb,
            "other_object": other_task.object,
            "other_answer": world.segments.answer_text(other_task.steps),
        }
    return tuple(
        {"role": "assistant" if index % 2 else "user", "content": turn.format(**values)}
        for index, turn in enumerate(form.turns)
    )
