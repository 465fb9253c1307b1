"""A preset and `key=value` overrides become `RunSettings`, or one line: which key, why, and what would be right.

Order, later wins: the preset that `extends:` names, the file itself, the overrides from left to right. Mappings
merge key by key, except that an empty mapping empties: `constraints: {}` means none. Relative paths mean the folder
you are in. Imports no engine, so `--dry-run` is instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.checks import impossible_combinations
from configs.exits import ConfigError
from configs.explain import first_problem, suggestion
from configs.schema.run import RunSettings
from configs.yaml_reader import KeyPath, parse_value, read_yaml

PRESETS = Path(__file__).parent / "presets"
COMMAND_LINE = "command line"
_PATHS: tuple[KeyPath, ...] = (("storage",), ("scratch",), ("sandbox", "world"), ("tracking", "tensorboard", "folder"))
_NOT_IN_ARMS = (
    "name",
    "seed",
    "seeds",
    "storage",
    "scratch",
    "arms",
    "reuse_from",
    "resources",
    "sandbox",
    "model",
    "deterministic",
)
_OF_THE_LOOP = ("ppo", "selection", "constraints")
"""Sections that a later round may change."""
_SHARED_BY_ROUNDS = ("ppo.max_response_tokens",)
"""Keys in them that stages of all rounds, or the engines, hang on."""


@dataclass
class _Raw:
    """Values before validation, and where each key came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Source of a key: the command line if it set the key or anything in it, else the nearest mapping's line."""
        if any(key[: len(path)] == path and origin.startswith(COMMAND_LINE) for key, origin in self.origins.items()):
            return f"{COMMAND_LINE}: "
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return ""


def load_settings(source: str | Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Load, override, validate and cross-check one configuration, its arms included.

    Args:
        source: path of a YAML file, or the name of a packaged preset.
        overrides: ``dotted.key=value`` with the value in YAML.

    Raises:
        ConfigError: one line with place, key, reason and fix.
    """
    raw = _read(find_config(source), ())
    for override in overrides:
        key, value = split_override(override)
        path = tuple(key.split("."))
        _set(raw.values, path, value)
        raw.origins[path] = f"{COMMAND_LINE}: "
    settings = _validate(raw)
    for _, variant in with_arms(settings):
        check_rounds(variant)
    return settings


def arm_settings(settings: RunSettings, arm: str, seed: int) -> RunSettings:
    """The settings of one arm of a comparison with one seed: its overrides applied, its own arms gone.

    Raises:
        ConfigError: no such arm, or its overrides do not validate.
    """
    if arm not in settings.arms:
        raise ConfigError(f"arms: no arm '{arm}'; {suggestion(arm, list(settings.arms))}")
    values = settings.model_dump(mode="python", exclude={"arms", "seeds"})
    origins: dict[KeyPath, str] = {}
    for key, value in settings.arms[arm].items():
        path = tuple(key.split("."))
        if path[0] in _NOT_IN_ARMS:
            raise ConfigError(f"arms.{arm}.{key}: an arm cannot change '{path[0]}'; set it for the whole comparison")
        _set(values, path, value)
        origins[path] = f"arms.{arm}: "
    values["seed"] = seed
    return _validate(_Raw(values, origins))


def with_arms(settings: RunSettings) -> Iterator[tuple[str, RunSettings]]:
    """The settings and those of each arm, with what an error about them begins with: nothing, or ``arms.<name>: ``."""
    yield "", settings
    for arm in settings.arms:
        yield f"arms.{arm}: ", arm_settings(settings, arm, settings.seed)


def round_settings(settings: RunSettings, number: int) -> RunSettings:
    """The settings of round `number` (from 1): the run's own, with the round's overrides applied. The seed stays the run's.

    Raises:
        ConfigError: an override of something that the rounds share, or that does not validate.
    """
    overrides = settings.rounds.overrides.get(number, {})
    if not overrides:
        return settings
    values = settings.model_dump(mode="python")
    origins: dict[KeyPath, str] = {}
    for key, value in overrides.items():
        path = tuple(key.split("."))
        _refuse_shared(settings, f"rounds.overrides.{number}.{key}", path)
        _set(values, path, value)
        origins[path] = f"rounds.overrides.{number}: "
    return _validate(_Raw(values, origins))


def check_rounds(settings: RunSettings) -> None:
    """Refuse overrides of rounds that there are not, or that a round may not have.

    Raises:
        ConfigError: one line with key, reason and fix.
    """
    for number in settings.rounds.overrides:
        if not 2 <= number <= settings.rounds.count:
            fix = f"give one of 2 to {settings.rounds.count}" if settings.rounds.count > 1 else "raise rounds.count"
            raise ConfigError(
                f"rounds.overrides.{number}: round 1 is the configuration itself and rounds.count is "
                f"{settings.rounds.count}; {fix}"
            )
        round_settings(settings, number)


def _refuse_shared(settings: RunSettings, where: str, path: KeyPath) -> None:
    """A later round changes numbers of the loop and of its constraints, nothing else."""
    if path[0] not in _OF_THE_LOOP or len(path) < 2:
        raise ConfigError(
            f"{where}: a later round may change keys of ppo, selection and constraints.<name>; set it for the whole run"
        )
    if path[0] == "constraints":
        if path[1] not in settings.constraints:
            raise ConfigError(f"{where}: no constraint '{path[1]}'; {suggestion(path[1], list(settings.constraints))}")
        if len(path) < 3 or path[2] == "scorer":
            raise ConfigError(
                f"{where}: name one key of the constraint, such as constraints.{path[1]}.limit; its scorer is all rounds'"
            )
    if any(".".join(path) == key for key in _SHARED_BY_ROUNDS):
        raise ConfigError(f"{where}: all rounds answer and are judged at the same length; set it for the whole run")


def find_config(source: str | Path) -> Path:
    """The file that a path or a preset's name means.

    Raises:
        ConfigError: there is none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{source} is a folder; give a YAML file or one of the presets: {', '.join(preset_names())}")
    if path.parent == Path() and not path.suffix:
        preset = PRESETS / f"{path.name.replace('-', '_')}.yaml"
        if preset.is_file():
            return preset
    hint = suggestion(path.stem.replace("-", "_"), preset_names())
    raise ConfigError(f"{source}: no such file or preset; {hint}")


def preset_names() -> list[str]:
    """Names of the packaged presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def split_override(text: str) -> tuple[str, Any]:
    """``ppo.steps=3`` → ``("ppo.steps", 3)``.

    Raises:
        ConfigError: no ``=``, an empty key, or a value that is not YAML.
    """
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or not key or any(not part for part in key.split(".")):
        raise ConfigError(f"{COMMAND_LINE}: '{text}' is no override; write key=value, such as ppo.steps=20")
    return key, parse_value(value, f"{COMMAND_LINE}: {key}")


def dump_settings(settings: RunSettings) -> str:
    """The resolved configuration as YAML; loading it gives equal settings."""
    values = settings.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _read(path: Path, extended_by: tuple[Path, ...]) -> _Raw:
    path = path.resolve()
    if path in extended_by:
        chain = " → ".join(file.name for file in (*extended_by[extended_by.index(path) :], path))
        raise ConfigError(f"{path.name}: extends goes round in a circle: {chain}; remove one of them")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: cannot be read: {error}") from error
    document = read_yaml(text, path.name)
    origins = {key: f"{path.name}:{line}: " for key, line in document.lines.items()}
    parent = document.values.pop("extends", None)
    if parent is None:
        return _Raw(document.values, origins)
    place = origins[("extends",)]
    if not isinstance(parent, str):
        raise ConfigError(f"{place}extends: {parent!r} is no preset; give one name or path")
    sibling = path.parent / parent
    try:
        base = _read(sibling if sibling.is_file() else find_config(parent), (*extended_by, path))
    except ConfigError as error:
        if "no such file or preset" not in str(error):
            raise
        raise ConfigError(f"{place}extends: {error}") from error
    return _Raw(_merge(base.values, document.values), base.origins | origins)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and value and isinstance(below, Mapping):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _set(values: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Set a dotted key, making mappings on the way; a scalar in the way is left for validation to complain about."""
    for part in path[:-1]:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[part]
    values[path[-1]] = value


def _validate(raw: _Raw) -> RunSettings:
    if "name" not in raw.values:
        raise ConfigError("name: is missing; name the run, such as name: my-run")
    try:
        settings = RunSettings.model_validate(_absolute_paths(raw.values))
    except ValidationError as error:
        path, sentence = first_problem(error, RunSettings)
        raise ConfigError(_one_line(raw.where(path), path, sentence)) from error
    for path, sentence in _silent_conversions(raw.values, settings):
        raise ConfigError(_one_line(raw.where(path), path, sentence))
    for key, sentence in impossible_combinations(settings):
        path = tuple(key.split("."))
        raise ConfigError(_one_line(raw.where(path), path, sentence))
    return settings


def _absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """A job runs in another folder, so relative paths are settled where the run is declared."""
    settled = dict(values)
    for path in _PATHS:
        holder: Any = values
        for part in path[:-1]:
            holder = holder.get(part) if isinstance(holder, Mapping) else None
        location = holder.get(path[-1]) if isinstance(holder, Mapping) else None
        if isinstance(location, (str, Path)) and "://" not in str(location):
            _set(settled, path, Path(location).expanduser().absolute())
    return settled


def _silent_conversions(raw: Any, checked: Any, path: KeyPath = ()) -> list[tuple[KeyPath, str]]:
    """Where validation would quietly turn a text or a truth value into something else."""
    if isinstance(checked, BaseModel):
        checked = {name: getattr(checked, name) for name in type(checked).model_fields}
    if isinstance(raw, Mapping) and isinstance(checked, Mapping):
        return [
            conversion
            for key in raw
            if key in checked
            for conversion in _silent_conversions(raw[key], checked[key], (*path, str(key)))
        ]
    if isinstance(raw, bool) and isinstance(checked, (int, float)) and not isinstance(checked, bool):
        return [(path, f"{str(raw).lower()} is not a number")]
    if isinstance(raw, str) and isinstance(checked, bool):
        return [(path, f"'{raw}' is a text; write true or false")]
    if isinstance(raw, str) and isinstance(checked, (int, float)):
        return [(path, f"'{raw}' is a text; write the number without quotes")]
    if isinstance(raw, (int, float)) and not isinstance(raw, bool) and isinstance(checked, bool):
        return [(path, f"{raw} is a number; write true or false")]
    return []


def _one_line(origin: str, path: KeyPath, sentence: str) -> str:
    key = ".".join(path)
    return " ".join(f"{origin}{key}: {sentence}".split()) if key else " ".join(f"{origin}{sentence}".split())
