"""Every word a world's prompts and responses can hold: what a word-level tokenizer must know."""

from __future__ import annotations

import re
from collections.abc import Iterable

from actors.crowd.world import World

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def world_words(world: World) -> list[str]:
    """Sorted words, split on whitespace, of all prompts and responses of ``world``."""
    values = _slot_values(world)
    vocabulary: set[str] = set()
    segments = world.segments
    for name in ("open", "step", "refusal", "reason", "alternative", "clarify", "insult"):
        vocabulary |= _template_words(getattr(segments, name), values)
    for form in world.forms:
        for turn in form.turns:
            # {other_answer} is made of segments, whose words are in already
            vocabulary |= _template_words(turn, values)
    return sorted(vocabulary)


def _slot_values(world: World) -> dict[str, set[str]]:
    pairs = [step for task in world.tasks for step in task.steps]
    pairs += [task.alternative for task in world.tasks if task.alternative is not None]
    verbs, objects = {task.verb for task in world.tasks}, {task.object for task in world.tasks}
    return {
        "ordinal": set(world.segments.ordinals),
        "a": {a for a, _ in pairs},
        "b": {b for _, b in pairs},
        "category": set(world.categories),
        "insult": set(world.insults),
        "verb": verbs,
        "object": objects,
        "other_verb": verbs,
        "other_object": objects,
        "other_answer": {world.segments.answer_text(task.steps) for task in world.other_tasks},
    }


def _template_words(template: str, values: dict[str, set[str]]) -> set[str]:
    """The template's words with every value put into every slot; a slot may be glued to punctuation."""
    vocabulary: set[str] = set()
    for token in template.split():
        vocabulary.update(part for text in _filled(token, values) for part in text.split())
    return vocabulary


def _filled(token: str, values: dict[str, set[str]]) -> Iterable[str]:
    slot = _PLACEHOLDER.search(token)
    if slot is None:
        yield token
        return
    for value in sorted(values[slot[1]]):
        # a value never holds a brace (checked on loading), so this ends
        yield from _filled(token[: slot.start()] + value + token[slot.end() :], values)
