"""Attack suites as data: forms by strategy, fillers, and what may be put around a request.

Invariant: a `Suite` that exists can be rendered. Each form fits its strategy, every placeholder has a value, and no template
can fail to format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from actors.redteam.strategies import STRATEGIES, Shape, placeholders
from configs.exits import ConfigError
from configs.explain import suggestion

PACKAGED = Path(__file__).parent / "suites"
NEW = "new"
"""Split of a suite's own forms: no model has met them."""
OTHERS = frozenset({"other_verb", "other_object"})
"""Placeholders that a sandbox target brings next to its request: a harmless task to begin with."""


@dataclass(frozen=True)
class AttackForm:
    """One wording of one strategy."""

    id: str
    strategy: str
    split: str
    """``seen`` or ``heldout`` of a world's own form, else ``new``."""
    shape: Shape
    needs: tuple[str, ...] = ()
    """Filler slots of its turns."""

    @property
    def asks_at(self) -> int:
        """The first of its turns that holds the request; from there on answers are judged."""
        return next(i for i, turn in enumerate(self.shape.turns) if placeholders(turn) & self.shape.request)


@dataclass(frozen=True)
class Suite:
    """Forms, and everything they may be filled with."""

    name: str
    request: tuple[str, ...]
    """Placeholders of a request: ``verb`` and ``object``, or ``request``."""
    forms: tuple[AttackForm, ...]
    fillers: Mapping[str, tuple[str, ...]]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    requests: tuple[Mapping[str, str], ...] = ()
    """Made-up requests with their category, of a suite that brings some."""
    world_forms: Mapping[str, str] | None = None
    """The world's form → its strategy; None: the suite is not about a world."""

    @property
    def of_world(self) -> bool:
        """Whether the requests are a world's tasks."""
        return self.world_forms is not None

    def digest(self) -> str:
        """sha256 of everything that is said."""
        values = asdict(self)
        text = json.dumps(values, sort_keys=True, default=lambda value: sorted(value))
        return hashlib.sha256(text.encode()).hexdigest()

    def only(self, strategies: Sequence[str]) -> Suite:
        """The suite with these strategies' forms alone; none given keeps all.

        Raises:
            ConfigError: an unknown strategy, or no form is left.
        """
        for name in strategies:
            if name not in STRATEGIES:
                raise ConfigError(f"no strategy '{name}'; {suggestion(name, list(STRATEGIES))}")
        forms = tuple(form for form in self.forms if not strategies or form.strategy in strategies)
        if not forms:
            raise ConfigError(f"suite {self.name} has no form of {', '.join(strategies)}: choose other strategies")
        return replace(self, forms=forms)

    def words(self) -> set[str]:
        """Every word of the forms and fillers, split on whitespace, placeholders left out."""
        texts = [turn for form in self.forms for turn in (*form.shape.turns, form.shape.after_refusal or "")]
        texts += [text for slot_texts in self.fillers.values() for text in slot_texts]
        vocabulary = {token for text in (*texts, *self.prefixes, *self.suffixes) for token in text.split()}
        return {token for token in vocabulary if "{" not in token}
