"""A sandbox world: its tasks, forms, outcome grammar and supervised mixture, as checked, frozen values.

Invariant: a ``World`` that exists is usable. Everything a caller could trip over later (a task without the alternative
that its behaviours need, a form whose other task cannot be drawn) is refused while loading, by ``world_reader``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
KINDS = ("benign", "harmful", "lookalike", "dual_use", "ambiguous")
HARM_KINDS = ("harmful", "dual_use")
"""The kinds that have harmful steps and a category; attack forms go with these only."""
TASK_SPLITS = ("seen", "heldout", "unknown")
FORM_SPLITS = ("seen", "heldout")
STEPS_PER_TASK = 3
BEHAVIOURS = (
    "steps3",
    "steps2",
    "steps1",
    "wrong",
    "safe_steps",
    "refuse",
    "clarify",
    "reason_alternative",
    "refuse_then_steps",
)
PAPER_HATE_CATEGORY = "hate_speech,offensive_language"
"""The papers' key for an insult's category."""
DEFAULT_WORLD_PATH = Path(__file__).parent / "worlds" / "default.json"

Pair = tuple[str, str]
"""(a, b): a step's verb and noun, or an alternative's."""


class WorldError(ValueError):
    """A world file cannot be used; the message is one line: file, place, reason, fix."""

    def __init__(self, source: str, where: str, problem: str, fix: str) -> None:
        self.source, self.where, self.problem, self.fix = source, where, problem, fix
        super().__init__(" ".join(f"{source}: {where}: {problem}; {fix}".split()))

    def __reduce__(self) -> tuple[type[WorldError], tuple[str, str, str, str]]:
        """Travels between Ray processes: the default would call ``__init__`` with the message alone."""
        return type(self), (self.source, self.where, self.problem, self.fix)


@dataclass(frozen=True)
class Task:
    """One thing to ask for. ``category`` is a papers' key; ``harmful_steps`` are indices into ``steps``."""

    id: str
    kind: str
    verb: str
    object: str
    category: str | None
    steps: tuple[Pair, ...]
    harmful_steps: tuple[int, ...]
    alternative: Pair | None
    alternative_value: float | None
    split: str

    @property
    def safe_steps(self) -> tuple[Pair, ...]:
        """The steps that reveal no harm, in order."""
        return tuple(step for index, step in enumerate(self.steps) if index not in self.harmful_steps)


@dataclass(frozen=True)
class Form:
    """A way to ask: turns from user to user, alternating, with placeholders."""

    id: str
    attack: bool
    split: str
    turns: tuple[str, ...]


@dataclass(frozen=True)
class Segments:
    """The outcome grammar as templates; ``ordinals`` name the steps in order."""

    open: str
    step: str
    ordinals: tuple[str, ...]
    refusal: str
    reason: str
    alternative: str
    clarify: str
    insult: str

    def steps_text(self, steps: Sequence[Pair]) -> str:
        """The steps numbered from the first ordinal, without the opening."""
        numbered = zip(self.ordinals, steps, strict=False)
        return " ".join(self.step.format(ordinal=ordinal, a=a, b=b) for ordinal, (a, b) in numbered)

    def answer_text(self, steps: Sequence[Pair]) -> str:
        """The opening followed by the numbered steps."""
        return f"{self.open} {self.steps_text(steps)}".strip()


@dataclass(frozen=True)
class World:
    """Everything the crowd knows. ``categories`` maps the short word used in text to the papers' key."""

    schema: int
    seed: int
    categories: Mapping[str, str]
    insults: tuple[str, ...]
    forms: tuple[Form, ...]
    segments: Segments
    behaviours: Mapping[str, Mapping[str, float]]
    insult_probability: float
    heldout_form_share: float
    tasks: tuple[Task, ...]

    @cached_property
    def task_by_id(self) -> Mapping[str, Task]:
        """Tasks by id."""
        return {task.id: task for task in self.tasks}

    @cached_property
    def category_words(self) -> Mapping[str, str]:
        """The papers' key -> the short word used in text."""
        return {key: short_word for short_word, key in self.categories.items()}

    @cached_property
    def hate_category(self) -> str:
        """The category of an insult: the papers' key, or what the world calls ``hate`` where it renamed the key."""
        if PAPER_HATE_CATEGORY in self.category_words:
            return PAPER_HATE_CATEGORY
        return self.categories.get("hate", PAPER_HATE_CATEGORY)

    @cached_property
    def other_tasks(self) -> tuple[Task, ...]:
        """The seen benign tasks that ``{other_*}`` may draw."""
        return tuple(task for task in self.tasks if task.kind == "benign" and task.split == "seen")

    def forms_for(self, kind: str, form_splits: Sequence[str]) -> tuple[Form, ...]:
        """The forms of these splits that go with a kind: attacks only with harmful and dual-use tasks."""
        return tuple(
            form for form in self.forms if form.split in form_splits and (kind in HARM_KINDS or not form.attack)
        )

    def to_dict(self) -> dict[str, Any]:
        """The world as plain JSON values, with every key of the schema."""
        raw: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return raw

    def digest(self) -> str:
        """sha256 of the canonical JSON: equal for files that differ only in layout or key order."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
