"""Prompts of a world: which tasks and forms, in a fair and repeatable order.

Invariant: a prompt's task is of the asked task splits and its form of the asked form splits, and the other task that a
multi-turn form shows is always a seen benign one: held-out and unknown tasks cannot leak into training through it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from actors.crowd.schedule import apportion, render_turns, task_form_rounds
from actors.crowd.world import FORM_SPLITS, KINDS, TASK_SPLITS, Form, Task, World
from learner.records import Prompt

SOURCE = "sandbox"
ATTACK_TAG = "attack"


def reporting_cell(task: Task, form: Form) -> str:
    """The cell of a report that a prompt counts in.

    ``seen``, ``heldout_tasks`` (with a seen form), ``heldout_forms`` (with a seen task), ``heldout_both``, or
    ``unknown`` (an unknown task, whatever the form).
    """
    if task.split == "unknown":
        return "unknown"
    if task.split == "heldout":
        return "heldout_tasks" if form.split == "seen" else "heldout_both"
    return "seen" if form.split == "seen" else "heldout_forms"


def sandbox_prompts(
    world: World,
    *,
    n: int,
    seed: int,
    task_splits: Sequence[str],
    form_splits: Sequence[str],
    kinds: Sequence[str] | None = None,
    kind_weights: Mapping[str, float] | None = None,
    prefix: str,
) -> list[Prompt]:
    """``n`` prompts, the same for the same arguments; ids are ``{prefix}-{i:06d}``.

    Kinds come in proportion to ``kind_weights`` (default: to their numbers of tasks); within a kind every task comes
    once before any comes twice, and meets the forms in turn. Attack forms go with harmful and dual-use tasks only.

    Raises:
        ValueError: an unknown split or kind, a negative or empty weight, or a kind with no task or no form.
    """
    _check("task split", task_splits, TASK_SPLITS)
    _check("form split", form_splits, FORM_SPLITS)
    if n < 0:
        raise ValueError(f"n is {n}; give the number of prompts")
    counts = apportion(n, _weights(world, task_splits, kinds, kind_weights))
    rng = random.Random(f"prompts/{seed}")  # a text seeds through sha512, the same on every machine
    drawn: list[tuple[Task, Form]] = []
    for kind, count in counts.items():
        tasks = [task for task in world.tasks if task.kind == kind and task.split in task_splits]
        forms = world.forms_for(kind, form_splits)
        if count and not (tasks and forms):
            lacking = "form" if tasks else "task"
            raise ValueError(f"kind '{kind}' has no {lacking} of the asked splits; leave it out of kinds")
        pairs = task_form_rounds(tasks, forms, rng)
        drawn += [next(pairs) for _ in range(count)]
    rng.shuffle(drawn)
    return [_prompt(world, task, form, f"{prefix}-{index:06d}", rng) for index, (task, form) in enumerate(drawn)]


def _check(noun: str, values: Sequence[str], choices: Sequence[str]) -> None:
    if isinstance(values, str) or not values:
        raise ValueError(f"{noun}s is {values!r}; give a list with one or more of {', '.join(choices)}")
    if unknown := [value for value in values if value not in choices]:
        raise ValueError(f"unknown {noun} '{unknown[0]}'; use one of {', '.join(choices)}")


def _weights(
    world: World, task_splits: Sequence[str], kinds: Sequence[str] | None, kind_weights: Mapping[str, float] | None
) -> dict[str, float]:
    """Weight per kind, in the fixed order of ``KINDS`` so that a mapping's order changes nothing."""
    numbers = {kind: sum(t.kind == kind and t.split in task_splits for t in world.tasks) for kind in KINDS}
    for selected_kinds in (kinds, kind_weights):
        if selected_kinds is not None:
            _check("kind", list(selected_kinds), KINDS)
    source: Mapping[str, float] = numbers if kind_weights is None else kind_weights
    weights = {kind: float(source.get(kind, 0.0)) for kind in KINDS if kinds is None or kind in kinds}
    if any(not 0.0 <= weight < float("inf") for weight in weights.values()) or sum(weights.values()) <= 0.0:
        raise ValueError(
            f"kind weights are {weights}; give finite weights >= 0, one of them above 0, to kinds with tasks"
        )
    return weights


def _prompt(world: World, task: Task, form: Form, prompt_id: str, rng: random.Random) -> Prompt:
    tags = {task.kind, form.id}
    if form.attack:
        tags.add(ATTACK_TAG)
    return Prompt(
        prompt_id=prompt_id,
        messages=render_turns(world, task, form, rng),
        source=SOURCE,
        category=task.category,
        tags=frozenset(tags),
        attributes={
            "task_id": task.id,
            "form": form.id,
            "kind": task.kind,
            "task_split": task.split,
            "form_split": form.split,
            "split": reporting_cell(task, form),
        },
    )
