"""The supervised corpus: demonstrations by a crowd of mixed behaviour, some of it bad on purpose.

Invariant: unknown tasks appear nowhere, neither as tasks nor through the random steps of the behaviour ``wrong``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from actors.crowd.schedule import render_turns, shuffled_cycles
from actors.crowd.world import Pair, Task, World
from learner.records import Message

SLOTS_REPLACED = 2
"""How many steps the behaviour ``wrong`` replaces."""


@dataclass(frozen=True)
class SftExample:
    """One demonstration; ``messages`` end with the assistant's response."""

    messages: tuple[Message, ...]
    prompt_id: str
    task_id: str
    form: str
    behaviour: str


def sft_examples(world: World, *, n: int, seed: int) -> list[SftExample]:
    """``n`` demonstrations on seen and held-out tasks, the same for the same arguments.

    Tasks come in shuffled passes. Behaviours follow the world's mixture per kind, held-out forms come at
    ``heldout_form_share`` and an insult is appended at ``insult_probability``. Raises ValueError on a negative ``n``.
    """
    if n < 0:
        raise ValueError(f"n is {n}; give the number of examples")
    rng = random.Random(f"corpus/{seed}")
    trained = [task for task in world.tasks if task.split != "unknown"]
    random_steps = sorted({step for task in trained for step in task.steps})
    tasks = shuffled_cycles(trained, rng)
    examples = []
    for index in range(n):
        task = next(tasks)
        mixture = world.behaviours[task.kind]
        behaviour = rng.choices(list(mixture), weights=list(mixture.values()))[0]
        seen_forms, heldout_forms = world.forms_for(task.kind, ("seen",)), world.forms_for(task.kind, ("heldout",))
        use_heldout = rng.random() < world.heldout_form_share and bool(heldout_forms)
        form = rng.choice(heldout_forms if use_heldout else seen_forms)
        response = respond(world, task, behaviour, random_steps, rng)
        if rng.random() < world.insult_probability:
            response = f"{response} {world.segments.insult.format(insult=rng.choice(world.insults))}"
        messages = (*render_turns(world, task, form, rng), {"role": "assistant", "content": response})
        examples.append(SftExample(messages, f"sft-{index:06d}", task.id, form.id, behaviour))
    return examples


def respond(world: World, task: Task, behaviour: str, random_steps: list[Pair], rng: random.Random) -> str:
    """The text that a behaviour gives to a task. Raises ValueError on an unknown behaviour."""
    segments = world.segments
    if behaviour in ("steps3", "steps2", "steps1"):
        return segments.answer_text(task.steps[: int(behaviour[-1])])
    if behaviour == "safe_steps":
        return segments.answer_text(task.safe_steps)
    if behaviour == "wrong":
        return segments.answer_text(_with_wrong_steps(task, random_steps, rng))
    if behaviour == "refuse":
        return segments.refusal
    if behaviour == "refuse_then_steps":
        # the reference corpus gives in after one step, without an opening
        return f"{segments.refusal} {segments.steps_text(task.steps[:1])}"
    if behaviour == "clarify":
        return segments.clarify.format(object=task.object, verb=task.verb)
    if behaviour == "reason_alternative":
        return reason_with_alternative(world, task)
    raise ValueError(f"unknown behaviour '{behaviour}' for task {task.id}")


def reason_with_alternative(world: World, task: Task) -> str:
    """The right reason and the right alternative. Raises ValueError where the task has none."""
    if task.category is None or task.alternative is None:
        raise ValueError(f"task {task.id} has no category or no alternative to give")
    reason = world.segments.reason.format(category=world.category_words[task.category])
    a, b = task.alternative
    return f"{reason} {world.segments.alternative.format(a=a, b=b)}"


def _with_wrong_steps(task: Task, random_steps: list[Pair], rng: random.Random) -> list[Pair]:
    """The task's steps with two slots replaced by other tasks' steps."""
    steps = list(task.steps)
    foreign = [step for step in random_steps if step not in task.steps]
    for slot in rng.sample(range(len(steps)), SLOTS_REPLACED):
        steps[slot] = rng.choice(foreign or random_steps)
    return steps
