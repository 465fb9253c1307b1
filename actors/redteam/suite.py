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

import yaml

from actors.crowd.world import World
from actors.redteam.strategies import STRATEGIES, Shape, placeholders
from configs.exits import ConfigError, DataError
from configs.explain import suggestion

PACKAGED = Path(__file__).parent / "suites"
NEW = "new"
"""Split of a suite's own forms: no model has met them."""
OTHERS = frozenset({"other_verb", "other_object"})
"""Placeholders that a sandbox target brings beside its request: a harmless task to begin with."""


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
        texts += [text for some in self.fillers.values() for text in some]
        words = {word for text in (*texts, *self.prefixes, *self.suffixes) for word in text.split()}
        return {word for word in words if "{" not in word}


def load_suite(name: str, world: World | None = None) -> Suite:
    """A packaged suite by name, or a file of one (YAML or JSON).

    Args:
        world: whose forms join a suite that names some, and whose words the suite must keep to.

    Raises:
        ConfigError: no such suite; or a suite of the sandbox without a world.
        DataError: the file breaks the schema, or uses a word that the world's models do not know.
    """
    suite = _read(name)
    if not suite.of_world:
        return suite
    if world is None:
        raise ConfigError(
            f"suite {suite.name} is about the sandbox's tasks, and this model knows no world: take english"
        )
    return _with_world(suite, world, name)


def _read(name: str) -> Suite:
    from actors.redteam.suite_reader import SuiteReader  # deferred: the reader builds the classes above

    known = sorted(path.stem for path in PACKAGED.glob("*.yaml"))
    path = PACKAGED / f"{name}.yaml" if name in known else Path(name)
    if not path.is_file():
        raise ConfigError(f"no attack suite '{name}'; {suggestion(name, known)}, or the path of a suite file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path.name}: the suite cannot be read ({' '.join(str(error).split())})") from error
    return SuiteReader(path.name).suite(raw)


def _with_world(suite: Suite, world: World, source: str) -> Suite:
    """The world's own forms first, with their splits; then every word must be one that the world has."""
    from actors.crowd.vocabulary import world_words

    known = set(world_words(world))
    if strange := sorted(suite.words() - known):
        raise DataError(
            f"{source}: the word '{strange[0]}' is none of the world's, so its models cannot read it; use the world's words"
        )
    request, own = frozenset(suite.request), []
    for form in world.forms:
        strategy = (suite.world_forms or {}).get(form.id)
        if strategy is None:
            continue
        shape = Shape(form.turns[::2], request)  # the model's own answers come in between
        if (problem := STRATEGIES[strategy].problem(shape)) is not None:
            raise DataError(f"{source}: world_forms.{form.id} {problem}; give it another strategy, or leave it out")
        own.append(AttackForm(form.id, strategy, form.split, shape))
    ids = {form.id for form in own}
    if clash := [form.id for form in suite.forms if form.id in ids]:
        raise DataError(f"{source}: form '{clash[0]}' has the name of one of the world's; rename it")
    if not (own or suite.forms):
        raise DataError(f"{source}: the world has none of the suite's forms; give forms of its own")
    return replace(suite, forms=(*own, *suite.forms))
