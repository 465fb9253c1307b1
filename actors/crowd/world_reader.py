"""From untrusted JSON to a checked ``World``: every refusal names the file, the place, the reason and the fix."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from actors.crowd.world import (
    BEHAVIOURS,
    DEFAULT_WORLD_PATH,
    FORM_SPLITS,
    HARM_KINDS,
    KINDS,
    SCHEMA_VERSION,
    STEPS_PER_TASK,
    TASK_SPLITS,
    Form,
    Pair,
    Segments,
    Task,
    World,
    WorldError,
)

SEGMENT_SLOTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "open": (frozenset(), frozenset()),
    "step": (frozenset({"a", "b"}), frozenset({"ordinal"})),
    "refusal": (frozenset(), frozenset()),
    "reason": (frozenset({"category"}), frozenset()),
    "alternative": (frozenset({"a", "b"}), frozenset()),
    "clarify": (frozenset({"object"}), frozenset({"verb"})),
    "insult": (frozenset({"insult"}), frozenset()),
}
"""Segment -> (placeholders it must have, placeholders it may also have)."""
TURN_SLOTS = frozenset({"verb", "object", "other_verb", "other_object", "other_answer"})
RESERVED_TAGS = frozenset((*KINDS, "attack"))
"""A form with such an id would make a prompt's tags wrong."""


class _Section:
    """A JSON object being read: typed getters, then ``close`` refuses the keys that no getter read."""

    def __init__(self, source: str, where: str, raw: Any) -> None:
        self.source, self.where = source, where
        if not isinstance(raw, dict):
            raise WorldError(source, where, f"is {_kind_of(raw)}, not an object", "write it as {key: value}")
        self.raw: dict[str, Any] = raw
        self._asked: set[str] = set()

    def fail(self, problem: str, fix: str) -> WorldError:
        return WorldError(self.source, self.where, problem, fix)

    def get(self, key: str) -> Any:
        self._asked.add(key)
        if key not in self.raw:
            raise self.fail(f"key '{key}' is missing", f"add '{key}'")
        return self.raw[key]

    def wrong_type(self, key: str, value: Any, expected: str) -> WorldError:
        return self.fail(f"'{key}' is {_kind_of(value)}, not {expected}", f"give '{key}' as {expected}")

    def integer(self, key: str) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong_type(key, value, "a whole number")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong_type(key, value, "a number")
        if not (math.isfinite(value) and low <= value <= high):
            raise self.fail(f"'{key}' is {value}", f"give a number from {low:g} to {high:g}")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.wrong_type(key, value, "true or false")
        return value

    def text(self, key: str) -> str:
        return self.check_text(key, self.get(key))

    def check_text(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.wrong_type(key, value, "a text")
        if not value or value != " ".join(value.split()):
            raise self.fail(f"'{key}' is {value!r}", "give words with one space between them and none around")
        return str(value)

    def words(self, key: str) -> str:
        """A text that will be put into templates: a brace would be taken for a placeholder there."""
        return self.check_words(key, self.get(key))

    def check_words(self, key: str, value: Any) -> str:
        text = self.check_text(key, value)
        if "{" in text or "}" in text:
            raise self.fail(f"'{key}' has a brace in {text!r}", "placeholders belong in segments and turns only")
        return text

    def choice(self, key: str, options: Sequence[str]) -> str:
        value = self.get(key)
        if value not in options:
            raise self.fail(f"'{key}' is {value!r}", f"use one of {', '.join(options)}")
        return str(value)

    def items(self, key: str, *, at_least: int = 0) -> list[Any]:
        value = self.get(key)
        if not isinstance(value, list):
            raise self.wrong_type(key, value, "a list")
        if len(value) < at_least:
            raise self.fail(f"'{key}' has {len(value)} entries", f"give at least {at_least}")
        return value

    def template(self, key: str, value: Any, required: Collection[str], allowed: Collection[str]) -> str:
        text = self.check_text(key, value)
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise self.fail(f"'{key}' is not a template ({error})", "balance the braces") from error
        if any("{" in literal or "}" in literal for literal, *_ in parts):
            raise self.fail(f"'{key}' has an escaped brace", "braces are for placeholders only")
        slots = {name for _, name, _, _ in parts if name is not None}
        if any(spec or conversion for _, name, spec, conversion in parts if name is not None):
            raise self.fail(f"'{key}' formats a placeholder", "write placeholders as {name} only")
        if unknown := sorted(slots - set(allowed)):
            choices = ", ".join(sorted(allowed)) or "none"
            raise self.fail(f"'{key}' has unknown placeholder '{unknown[0]}'", f"known here: {choices}")
        if missing := sorted(set(required) - slots):
            raise self.fail(f"'{key}' lacks placeholder '{missing[0]}'", f"put {{{missing[0]}}} into it")
        return text

    def close(self) -> None:
        if unknown := sorted(set(self.raw) - self._asked):
            keys = ", ".join(sorted(self._asked))
            raise self.fail(f"unknown key '{unknown[0]}'", f"remove it (known keys: {keys})")


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def read_world(raw: Any, source: str) -> World:
    """Check a decoded JSON value against the schema. ``source`` names it in messages.

    Raises:
        WorldError: with the file, the key or task, the reason and the fix in one line.
    """
    top = _Section(source, "world", raw)
    if (schema := top.integer("schema")) != SCHEMA_VERSION:
        raise top.fail(f"schema version {schema} is not supported", f"use schema {SCHEMA_VERSION} or a newer steelyard")
    categories = _read_categories(source, top.get("categories"))
    world = World(
        schema=schema,
        seed=top.integer("seed"),
        categories=categories,
        insults=_unique_words(top, "insults", at_least=1),
        forms=_read_forms(top),
        segments=_read_segments(source, top.get("segments")),
        behaviours=_read_behaviours(source, top.get("behaviours")),
        insult_probability=top.number("insult_probability", 0.0, 1.0),
        heldout_form_share=top.number("heldout_form_share", 0.0, 1.0),
        tasks=_read_tasks(top, frozenset(categories.values())),
    )
    top.close()
    _check_together(top, world)
    return world


def _read_categories(source: str, raw: Any) -> dict[str, str]:
    section = _Section(source, "categories", raw)
    if not section.raw:
        raise section.fail("is empty", "give at least one short word and its category")
    categories = {
        section.check_words("a category's word", short_word): section.words(short_word) for short_word in section.raw
    }
    if len(set(categories.values())) < len(categories):
        raise section.fail("two words name the same category", "give every category one word")
    return categories


def _unique_words(section: _Section, key: str, *, at_least: int) -> tuple[str, ...]:
    values = tuple(section.check_words(key, value) for value in section.items(key, at_least=at_least))
    if len(set(values)) < len(values):
        raise section.fail(f"'{key}' repeats an entry", "list each once")
    return values


def _read_segments(source: str, raw: Any) -> Segments:
    section = _Section(source, "segments", raw)
    templates = {
        name: section.template(name, section.get(name), required, required | optional)
        for name, (required, optional) in SEGMENT_SLOTS.items()
    }
    segments = Segments(ordinals=_unique_words(section, "ordinals", at_least=STEPS_PER_TASK), **templates)
    section.close()
    return segments


def _read_forms(top: _Section) -> tuple[Form, ...]:
    forms: list[Form] = []
    for position, raw in enumerate(top.items("forms", at_least=1)):
        section = _Section(top.source, f"forms[{position}]", raw)
        form_id = section.text("id")
        section.where = f"form '{form_id}'"
        if form_id in RESERVED_TAGS:
            raise section.fail("the id is also a tag of prompts", "rename the form")
        if any(form.id == form_id for form in forms):
            raise section.fail("the id is used twice", "give every form its own id")
        turns = section.items("turns", at_least=1)
        if len(turns) % 2 == 0:
            raise section.fail(f"{len(turns)} turns end with the assistant", "end with a user turn (an odd number)")
        texts = [section.template(f"turns[{index}]", turn, (), TURN_SLOTS) for index, turn in enumerate(turns)]
        section.template(f"turns[{len(turns) - 1}]", texts[-1], ("verb", "object"), TURN_SLOTS)
        forms.append(Form(form_id, section.boolean("attack"), section.choice("split", FORM_SPLITS), tuple(texts)))
        section.close()
    return tuple(forms)


def _read_behaviours(source: str, raw: Any) -> dict[str, dict[str, float]]:
    outer = _Section(source, "behaviours", raw)
    mixtures: dict[str, dict[str, float]] = {}
    for kind in outer.raw:
        if kind not in KINDS:
            raise outer.fail(f"unknown kind '{kind}'", f"use one of {', '.join(KINDS)}")
        inner = _Section(source, f"behaviours.{kind}", outer.get(kind))
        if unknown := sorted(set(inner.raw) - set(BEHAVIOURS)):
            raise inner.fail(f"unknown behaviour '{unknown[0]}'", f"use one of {', '.join(BEHAVIOURS)}")
        mixtures[kind] = {name: inner.number(name, 0.0, 1.0) for name in inner.raw}
        if not math.isclose(total := sum(mixtures[kind].values()), 1.0, abs_tol=1e-6):
            raise inner.fail(f"shares add up to {total:g}", "make them add up to 1")
    return mixtures


def _read_pair(section: _Section, key: str, value: Any) -> Pair:
    if not isinstance(value, list) or len(value) != 2:
        raise section.fail(f"'{key}' is not a pair of words", 'write it as ["verb", "noun"]')
    return section.check_words(key, value[0]), section.check_words(key, value[1])


def _read_tasks(top: _Section, categories: frozenset[str]) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    for position, raw in enumerate(top.items("tasks", at_least=1)):
        section = _Section(top.source, f"tasks[{position}]", raw)
        task_id = section.text("id")
        section.where = f"task '{task_id}'"
        if task_id in tasks:
            raise section.fail("the id is used twice", "give every task its own id")
        tasks[task_id] = _read_task(section, task_id, categories)
        section.close()
    return tuple(tasks.values())


def _read_task(section: _Section, task_id: str, categories: frozenset[str]) -> Task:
    steps = section.items("steps")
    if len(steps) != STEPS_PER_TASK:
        raise section.fail(f"'steps' has {len(steps)} entries", f"give exactly {STEPS_PER_TASK} pairs of words")
    alternative, value = section.get("alternative"), section.get("alternative_value")
    if (alternative is None) != (value is None):
        raise section.fail("only one of 'alternative' and 'alternative_value' is null", "give both or neither")
    task = Task(
        id=task_id,
        kind=section.choice("kind", KINDS),
        verb=section.words("verb"),
        object=section.words("object"),
        category=None if section.get("category") is None else section.text("category"),
        steps=tuple(_read_pair(section, f"steps[{index}]", step) for index, step in enumerate(steps)),
        harmful_steps=_read_harmful_steps(section),
        alternative=None if alternative is None else _read_pair(section, "alternative", alternative),
        alternative_value=None if value is None else section.number("alternative_value", 0.0, 1e3),
        split=section.choice("split", TASK_SPLITS),
    )
    if task.category is not None and task.category not in categories:
        raise section.fail(f"unknown category '{task.category}'", "use a value of 'categories'")
    _check_kind(section, task)
    return task


def _read_harmful_steps(section: _Section) -> tuple[int, ...]:
    indices = section.items("harmful_steps")
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise section.wrong_type("harmful_steps", index, "a list of whole numbers")
        if not 0 <= index < STEPS_PER_TASK:
            raise section.fail(f"'harmful_steps' has {index}, out of range", f"use indices 0 to {STEPS_PER_TASK - 1}")
    if len(set(indices)) < len(indices):
        raise section.fail("'harmful_steps' repeats an index", "list each index once")
    return tuple(indices)


def _check_kind(section: _Section, task: Task) -> None:
    """A task's harm must agree with its kind, or every rate reported per kind would be about something else."""
    if task.kind in HARM_KINDS:
        if task.category is None:
            raise section.fail(f"a {task.kind} task has no category", "give 'category'")
        if not task.harmful_steps:
            raise section.fail(f"a {task.kind} task has no harmful steps", "list them in 'harmful_steps'")
    elif task.harmful_steps:
        raise section.fail(f"a {task.kind} task has harmful steps", "empty 'harmful_steps' or change 'kind'")
    if task.kind == "dual_use" and len(task.harmful_steps) == STEPS_PER_TASK:
        raise section.fail("every step of a dual_use task is harmful", "leave one safe or make the kind 'harmful'")


def _check_together(top: _Section, world: World) -> None:
    """What no single entry shows: drawing other tasks, and behaviours that need an alternative."""
    for kind in sorted({task.kind for task in world.tasks}):
        if kind not in world.behaviours:
            raise top.fail(f"'behaviours' has no mixture for kind '{kind}'", f"add behaviours.{kind}")
        if not world.forms_for(kind, ("seen",)):
            raise top.fail(f"'forms' has no seen form for kind '{kind}'", 'add one with "attack": false')
    for task in world.tasks:
        if world.behaviours[task.kind].get("reason_alternative") and (
            task.alternative is None or task.category is None
        ):
            where = f"task '{task.id}'"
            problem = f"behaviours.{task.kind} uses reason_alternative but the task lacks alternative or category"
            raise WorldError(top.source, where, problem, "give both, or drop the behaviour")
    draws_other = any("{other_" in turn for form in world.forms for turn in form.turns)
    if draws_other and len(world.other_tasks) < 2:
        raise top.fail("a form draws {other_*} but fewer than two benign tasks are seen", "add seen benign tasks")


def load_world(path: str | Path | None = None) -> World:
    """Read and check a world file; None is the packaged default.

    Raises:
        WorldError: the file is missing, is not JSON, or breaks the schema.
    """
    from actors.crowd.world_reader import read_world  # deferred: the reader builds the classes above

    source = Path(path) if path is not None else DEFAULT_WORLD_PATH
    try:
        raw = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorldError(
            str(source), "file", f"cannot be read ({error.strerror})", "give the path of a world"
        ) from error
    except ValueError as error:
        raise WorldError(str(source), "file", f"is not JSON in UTF-8 ({error})", "correct the file") from error
    return read_world(raw, str(source))
