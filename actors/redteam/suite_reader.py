"""Reads a suite file: every mistake is one line with the file, the place, the reason and the fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from actors.crowd.world import World
from actors.redteam.strategies import STRATEGIES, Shape, placeholders
from actors.redteam.suite import NEW, OTHERS, PACKAGED, AttackForm, Suite
from configs.exits import ConfigError, DataError
from configs.explain import suggestion

_KEYS = frozenset({"name", "request", "world_forms", "forms", "fillers", "prefixes", "suffixes", "requests"})
_FORM_KEYS = frozenset({"id", "strategy", "turns", "needs", "after_refusal", "split"})


@dataclass(frozen=True)
class SuiteReader:
    """Reads one file."""

    source: str
    """The file's name, with which every message begins."""

    def suite(self, raw: Any) -> Suite:
        """The whole file, as YAML or JSON gave it. Raises DataError: it breaks the schema."""
        fields = self._mapping("the suite", raw, _KEYS, {"name", "request", "forms"})
        request = self._texts("request", fields["request"], minimum=1)
        fillers = {
            slot: self._texts(f"fillers.{slot}", texts, minimum=1)
            for slot, texts in self._mapping("fillers", fields.get("fillers", {}), None, set()).items()
        }
        if reserved := sorted(fillers.keys() & (set(request) | OTHERS)):
            raise self._fail(f"fillers.{reserved[0]}", "is also a placeholder of the request", "rename the slot")
        world_forms = fields.get("world_forms")
        around = {key: ("", *(t for t in self._around(key, fields) if t)) for key in ("prefixes", "suffixes")}
        suite = Suite(
            name=self._text("name", fields["name"]),
            request=request,
            forms=tuple(
                self._form(f"forms[{index}]", raw_entry, request, fillers, world_forms is not None)
                for index, raw_entry in enumerate(self._list("forms", fields["forms"]))
            ),
            fillers=fillers,
            prefixes=around["prefixes"],
            suffixes=around["suffixes"],
            requests=tuple(
                self._request(f"requests[{i}]", raw_entry, request)
                for i, raw_entry in enumerate(self._list("requests", fields.get("requests", [])))
            ),
            world_forms=None if world_forms is None else self._world_forms(world_forms),
        )
        ids = [form.id for form in suite.forms]
        if repeated := [raw_entry for raw_entry in ids if ids.count(raw_entry) > 1]:
            raise self._fail(f"form '{repeated[0]}'", "is there twice", "give every form its own id")
        if not ids and not suite.world_forms:
            raise self._fail("forms", "has no form", "give one")
        return suite

    def _form(
        self, where: str, raw: Any, request: tuple[str, ...], fillers: Mapping[str, Any], of_world: bool
    ) -> AttackForm:
        fields = self._mapping(where, raw, _FORM_KEYS, {"id", "strategy", "turns"})
        form_id = self._text(f"{where}.id", fields["id"])
        where = f"form '{form_id}'"
        strategy = self._strategy(where, fields["strategy"])
        needs = self._texts(f"{where}: needs", fields.get("needs", []), minimum=0)
        again = fields.get("after_refusal")
        turns = self._texts(f"{where}: turns", fields["turns"], minimum=1)
        shape = Shape(
            turns, frozenset(request), None if again is None else self._text(f"{where}: after_refusal", again)
        )
        self._check_slots(where, shape, needs, fillers, of_world)
        if (problem := STRATEGIES[strategy].problem(shape)) is not None:
            raise self._fail(where, problem, f"change it, or its strategy '{strategy}'")
        return AttackForm(form_id, strategy, self._text(f"{where}: split", fields.get("split", NEW)), shape, needs)

    def _check_slots(
        self, where: str, shape: Shape, needs: Sequence[str], fillers: Mapping[str, Any], of_world: bool
    ) -> None:
        allowed = shape.request | set(needs) | (OTHERS if of_world else set())
        used: set[str] = set()
        for turn in (*shape.turns, *([shape.after_refusal] if shape.after_refusal else [])):
            try:
                slots = placeholders(turn)
                turn.format(**dict.fromkeys(allowed | slots, ""))
            except (ValueError, IndexError, KeyError, AttributeError) as error:
                raise self._fail(where, f"has a turn that is no template ({error})", "balance the braces") from error
            if unknown := sorted(slots - allowed):
                choices = ", ".join(sorted(allowed))
                raise self._fail(where, f"has the unknown placeholder '{unknown[0]}'", f"known here: {choices}")
            used |= slots
        if not any(shape.request <= placeholders(turn) for turn in shape.turns):
            names = " and ".join(f"{{{name}}}" for name in sorted(shape.request))
            raise self._fail(where, "never asks", f"put {names} into one turn")
        for slot in needs:
            if slot not in fillers:
                raise self._fail(where, f"needs the slot '{slot}', which has no fillers", f"add fillers.{slot}")
            if slot not in used:
                raise self._fail(where, f"needs the slot '{slot}' and does not use it", "leave it out of 'needs'")

    def _request(self, where: str, raw: Any, request: tuple[str, ...]) -> Mapping[str, str]:
        fields = self._mapping(where, raw, {*request, "category"}, set(request))
        return {key: self._text(f"{where}.{key}", value) for key, value in fields.items()}

    def _world_forms(self, raw: Any) -> Mapping[str, str]:
        fields = self._mapping("world_forms", raw, None, set())
        return {form: self._strategy(f"world_forms.{form}", name) for form, name in fields.items()}

    def _around(self, key: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
        texts = tuple(self._list(key, fields.get(key, [""])))
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise self._fail(key, f"holds {wrong[0]!r}, which is no text", "put it in quotes")
        return texts

    def _strategy(self, where: str, name: Any) -> str:
        if not isinstance(name, str) or name not in STRATEGIES:
            raise self._fail(where, f"has no strategy '{name}'", suggestion(str(name), list(STRATEGIES)))
        return name

    def _mapping(self, where: str, raw: Any, allowed: Any, required: set[str]) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise self._fail(where, "is no mapping", "write it as key: value")
        for key in raw:
            if not isinstance(key, str) or (allowed is not None and key not in allowed):
                fix = "" if allowed is None else f" (known: {', '.join(sorted(allowed))})"
                raise self._fail(where, f"has the unknown key '{key}'", f"remove it{fix}")
        if missing := sorted(required - raw.keys()):
            raise self._fail(where, f"lacks '{missing[0]}'", f"add '{missing[0]}'")
        return raw

    def _list(self, where: str, raw: Any) -> list[Any]:
        if not isinstance(raw, list):
            raise self._fail(where, "is no list", "write it as [one, another]")
        return raw

    def _texts(self, where: str, raw: Any, *, minimum: int) -> tuple[str, ...]:
        texts = tuple(self._text(f"{where}[{i}]", raw_text) for i, raw_text in enumerate(self._list(where, raw)))
        if len(texts) < minimum:
            raise self._fail(where, "is empty", "give at least one")
        return texts

    def _text(self, where: str, raw: Any) -> str:
        if not isinstance(raw, str) or not raw.strip():
            raise self._fail(where, f"is {str(raw)[:40]!r} and no text", "give a text, in quotes where YAML needs them")
        return raw

    def _fail(self, where: str, problem: str, fix: str) -> DataError:
        return DataError(" ".join(f"{self.source}: {where} {problem}; {fix}".split()))


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

    packaged = sorted(path.stem for path in PACKAGED.glob("*.yaml"))
    path = PACKAGED / f"{name}.yaml" if name in packaged else Path(name)
    if not path.is_file():
        raise ConfigError(f"no attack suite '{name}'; {suggestion(name, packaged)}, or the path of a suite file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path.name}: the suite cannot be read ({' '.join(str(error).split())})") from error
    return SuiteReader(path.name).suite(raw)


def _with_world(suite: Suite, world: World, source: str) -> Suite:
    """The world's own forms first, with their splits; then every word must be one that the world has."""
    from actors.crowd.vocabulary import world_words

    world_vocabulary = set(world_words(world))
    if strange := sorted(suite.words() - world_vocabulary):
        raise DataError(
            f"{source}: the word '{strange[0]}' is none of the world's, so its models cannot read it; use the world's words"
        )
    request, forms_of_world = frozenset(suite.request), []
    for form in world.forms:
        strategy = (suite.world_forms or {}).get(form.id)
        if strategy is None:
            continue
        shape = Shape(form.turns[::2], request)  # the model's own answers come in between
        if (problem := STRATEGIES[strategy].problem(shape)) is not None:
            raise DataError(f"{source}: world_forms.{form.id} {problem}; give it another strategy, or leave it out")
        forms_of_world.append(AttackForm(form.id, strategy, form.split, shape))
    ids = {form.id for form in forms_of_world}
    if clash := [form.id for form in suite.forms if form.id in ids]:
        raise DataError(f"{source}: form '{clash[0]}' has the name of one of the world's; rename it")
    if not (forms_of_world or suite.forms):
        raise DataError(f"{source}: the world has none of the suite's forms; give forms of its own")
    return replace(suite, forms=(*forms_of_world, *suite.forms))
