"""Which models are attacked, and by whose cost model: from what a person types to folders that fit together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.crowd.world import World, WorldError
from actors.crowd.world_reader import load_world
from cluster.run_folder.digests import file_digest, model_digest
from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings
from serving.explain.chat import model_folders
from serving.runs import find_run, last_round

MODELS = ("sft", "policy")
DEFAULT_POSITIONS = 2048
"""Positions that are used of a model from elsewhere, at most: an attack and its answer are short."""


@dataclass(frozen=True)
class Attacked:
    """One model that is attacked."""

    label: str
    folder: Path
    digest: str
    run: RunLayout | None = None
    """None: a folder from elsewhere."""
    settings: RunSettings | None = None

    @property
    def on_sandbox(self) -> bool:
        """Whether its run was on the sandbox, so that gold is known."""
        return self.settings is not None and self.settings.data is None

    def world(self) -> World | None:
        """The world it was trained on; None of a model from elsewhere.

        Raises:
            DataError: the world's file cannot be used.
        """
        if self.settings is None or not self.on_sandbox:
            return None
        try:
            return load_world(self.settings.sandbox.world)
        except WorldError as error:
            raise DataError(str(error)) from error


def find_models(names: Sequence[str]) -> list[Attacked]:
    """Every model that is named: ``RUN`` (its SFT and its policy), ``RUN:sft``, ``RUN:policy``, or a model's folder.

    ``LABEL=…`` gives a model its name in the tables.

    Raises:
        ConfigError: no such run or folder, two models of one name, or models that one engine cannot hold in turn.
        DataError: a run has not made the model.
    """
    attacked: list[Attacked] = []
    for name in names:
        label, place = _labelled(name)
        attacked += _of_folder(label, Path(place)) if _is_model(Path(place)) else _of_run(label, place)
    labels = [model.label for model in attacked]
    if repeated := [candidate for candidate in labels if labels.count(candidate) > 1]:
        raise ConfigError(
            f"two models are called '{repeated[0]}': name them apart, as in first=RUN:policy second=OTHER:policy"
        )
    _check_alike(attacked)
    return attacked


def cost_folders(run: RunLayout, settings: RunSettings) -> dict[str, Path]:
    """Constraint → cost model, of those that the run (or, of an arm, its comparison) has trained."""
    places = [run, *([RunLayout(run.root.parent.parent)] if run.root.parent.name == "arms" else [])]
    folders: dict[str, Path] = {}
    for name in settings.constraints:
        for place in places:
            folder = place.cost(last_round(place.root), name)
            if (folder / "config.json").is_file():
                folders.setdefault(name, folder)
    return folders


def scorer_run(name: str | None, models: Sequence[Attacked]) -> tuple[str, dict[str, Path]]:
    """(name, cost models) of the run that is asked for, else of the first attacked run that has some; none at all is ``("", {})``.

    Raises:
        ConfigError: the run that is asked for is not there.
        DataError: it has no cost model, or its tokenizer is not the models'.
    """
    if name is not None:
        layout = RunLayout(find_run(name))
        if not (costs := cost_folders(layout, _settings_of(layout))):
            raise DataError(f"--scorer {name}: this run has no cost model of its own; give a run with a constraint")
        _check_tokenizer(next(iter(costs.values())), models, f"--scorer {name}")
        return layout.root.name, costs
    for model in models:
        if model.run is not None and model.settings is not None and (costs := cost_folders(model.run, model.settings)):
            _check_tokenizer(next(iter(costs.values())), models, model.label)
            return model.run.root.name, costs
    return "", {}


def positions_of(model: Attacked) -> int:
    """Tokens of prompt and answer together."""
    if model.settings is not None:
        return model.settings.model.max_length
    raw = _config(model.folder)
    value = raw.get("max_position_embeddings") or (raw.get("text_config") or {}).get("max_position_embeddings")
    return min(int(value), DEFAULT_POSITIONS) if isinstance(value, int) else DEFAULT_POSITIONS


def _labelled(name: str) -> tuple[str | None, str]:
    label, sign, place = name.partition("=")
    if not sign:
        return None, name
    if not label or not place or "/" in label:
        raise ConfigError(f"'{name}' names no model: write LABEL=RUN:policy, LABEL=FOLDER, or RUN alone")
    return label, place


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _of_folder(label: str | None, folder: Path) -> list[Attacked]:
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder} has no tokenizer.json: save the model's tokenizer next to it")
    return [Attacked(label or folder.resolve().name, folder.resolve(), model_digest(folder))]


def _of_run(label: str | None, name: str) -> list[Attacked]:
    place, sign, model_name = name.rpartition(":")
    if not sign:
        place, model_name = name, ""
    if sign and model_name not in MODELS:
        raise ConfigError(f"'{name}': a run has no model '{model_name}'; write {place}:sft or {place}:policy")
    root = find_run(place)
    layout = RunLayout(root)
    settings = _settings_of(layout)
    model_names = (model_name,) if model_name else _made(layout)
    folders = model_folders(layout, model_names)
    return [
        Attacked(
            _label(label, root, model, bool(model_name)),
            folders[model].resolve(),
            model_digest(folders[model]),
            layout,
            settings,
        )
        for model in model_names
    ]


def _made(layout: RunLayout) -> tuple[str, ...]:
    """Both models, or the supervised one alone where nothing was learned after it."""
    return MODELS if layout.policy(last_round(layout.root)).is_dir() else ("sft",)


def _label(label: str | None, root: Path, model: str, alone: bool) -> str:
    return label if label and alone else f"{label or root.name}:{model}"


def _settings_of(layout: RunLayout) -> RunSettings:
    if not layout.config.is_file():
        raise DataError(
            f"{layout.root} has no {layout.config.name}: what the run was is not known; finish the run first"
        )
    return load_settings(str(layout.config))


def _check_alike(models: Sequence[Attacked]) -> None:
    """One engine takes one model's weights after another's, so shapes and tokens must be the same."""
    first = models[0]
    for model in models[1:]:
        if _shape(model.folder) != _shape(first.folder):
            raise ConfigError(
                f"{model.label} and {first.label} are not of one architecture and size: attack them in two commands"
            )
    _check_tokenizer(first.folder, models, first.label)
    worlds = {None if (world := model.world()) is None else world.digest() for model in models}
    if len(worlds) > 1:
        raise ConfigError("the models are of different worlds, or not all of a sandbox: attack them in two commands")


def _check_tokenizer(folder: Path, models: Sequence[Attacked], scorer: str) -> None:
    scorer_digest = file_digest(folder / "tokenizer.json")
    for model in models:
        if file_digest(model.folder / "tokenizer.json") != scorer_digest:
            raise DataError(f"{scorer} and {model.label} have different tokenizers: attack and score them apart")


def _shape(folder: Path) -> dict[str, Any]:
    ignored = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"}
    return {key: value for key, value in _config(folder).items() if key not in ignored}


def _config(folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/config.json cannot be read ({error}): give a Hugging Face model folder") from error
    if not isinstance(raw, dict):
        raise DataError(f"{folder}/config.json holds no object: give a Hugging Face model folder")
    return raw
