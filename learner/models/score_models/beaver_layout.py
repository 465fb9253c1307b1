"""Score models in the layout of the papers' reference, as plain score model folders.

Their head is ``score_head`` with a bias and, where ``do_normalize`` says so, a normaliser after it: a reward is (x -
mean)/(std + eps), a cost x/(std + eps), a critic x. Plain transformers drops all of that silently. Here the head
becomes ``score`` without a bias, and bias and normaliser become ``affine.json``. Weights are moved file by file: a
model of any size needs no more memory than its largest file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from configs.exits import DataError
from learner.model_files.folders import link_file
from learner.models.score_models.folders import Affine, save_affine, write_document

EPSILON = 1e-8
"""Added to the spread that the reference's normaliser divides by."""

HEAD, NORMALISER = "score_head.", "normalizer."
INDEX = "model.safetensors.index.json"
_FUNCTIONS = {"reward": "affine", "cost": "scale", "critic": "identity"}


def is_released(folder: Path) -> bool:
    """Whether the folder's model has the reference's head."""
    return any(name.startswith(HEAD) for name in tensor_files(folder))


def tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name to the safetensors file that holds it.

    Raises:
        DataError: a file cannot be read, or two hold the same tensor.
    """
    file_by_tensor: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}): download or save it again") from error
        if again := next((name for name in names if name in file_by_tensor), None):
            raise DataError(
                f"{path} and {file_by_tensor[again]} both hold {again}: leave one copy of the weights in the folder"
            )
        file_by_tensor |= dict.fromkeys(names, path)
    return file_by_tensor


def convert_released(source: Path, target: Path) -> Affine:
    """Write the model at `source` to the new folder `target` as a score model; tokenizer files are the caller's.

    Returns:
        What ``affine.json`` says; of a head without bias and normaliser 1 and 0, and there is no such file.

    Raises:
        DataError: a tensor or figure of the head is missing or wrong, the message names it; or plain transformers has no
            sequence classification model of this family.
    """
    config = _config(source)
    files = tensor_files(source)
    head = {name: _read(files[name], name) for name in files if name.startswith((HEAD, NORMALISER))}
    affine = _affine(source, config, head)
    target.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    for path in dict.fromkeys(files.values()):
        places |= _move(path, target, [name for name in files if files[name] == path])
    write_document(target / INDEX, {"metadata": {}, "weight_map": places})
    write_document(target / "config.json", _plain_config(source, config))
    if affine != Affine():
        save_affine(target, affine.scale, affine.offset)
    return affine


def _config(source: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{source / 'config.json'} cannot be read ({error}): give a Hugging Face folder") from error
    return config


def _affine(source: Path, config: Mapping[str, Any], head: Mapping[str, Tensor]) -> Affine:
    weight, bias = head.get(f"{HEAD}weight"), head.get(f"{HEAD}bias")
    if weight is None or weight.dim() != 2 or weight.shape[0] != 1:
        shape = "missing" if weight is None else f"of shape {list(weight.shape)}"
        raise DataError(f"{source}: {HEAD}weight is {shape}: a score model has one score, shape [1, hidden size]")
    kind = config.get("score_type", "reward")
    if kind not in _FUNCTIONS:
        raise DataError(f"{source}: config.json has score_type '{kind}': it is reward, cost or critic")
    function = _FUNCTIONS[kind] if config.get("do_normalize", False) else "identity"
    offset = 0.0 if bias is None else float(bias.double().item())
    if function == "identity":
        return Affine(1.0, offset)
    mean, variance = (_moment(source, config, head, name) for name in ("mean", "var"))
    if variance <= 0:
        raise DataError(f"{source}: the normaliser's var is {variance:g}: it must be above 0")
    scale = 1.0 / (math.sqrt(variance) + EPSILON)
    return Affine(scale, (offset - (mean if function == "affine" else 0.0)) * scale)


def _moment(source: Path, config: Mapping[str, Any], head: Mapping[str, Tensor], name: str) -> float:
    """A normaliser's figure: the buffer next to the weights, which the reference loads last, else the configuration's."""
    figure = head[f"{NORMALISER}{name}"] if f"{NORMALISER}{name}" in head else config.get(name)
    if figure is None:
        raise DataError(
            f"{source}: do_normalize is true, and neither weights nor config.json have the normaliser's {name}"
        )
    try:
        value = float(torch.as_tensor(figure, dtype=torch.float64).reshape(-1).item())
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{source}: the normaliser's {name} is no single number") from error
    if not math.isfinite(value):
        raise DataError(f"{source}: the normaliser's {name} is {value}: it must be finite")
    return value


def _move(path: Path, target: Path, names: list[str]) -> dict[str, str]:
    """One file's weights in the new folder: linked where nothing in it changes; tensor name to file name."""
    if not any(_dropped(name) or name.startswith(HEAD) for name in names):
        link_file(path, target / path.name)
        return dict.fromkeys(names, path.name)
    tensors = {name.replace(HEAD, "score."): _read(path, name) for name in names if not _dropped(name)}
    if not tensors:
        return {}
    save_file(tensors, target / path.name, metadata={"format": "pt"})
    return dict.fromkeys(tensors, path.name)


def _dropped(name: str) -> bool:
    """The bias and the normaliser, which ``affine.json`` holds; and what a score model never reads."""
    return name == f"{HEAD}bias" or name.startswith((NORMALISER, "lm_head.")) or name.endswith("rotary_emb.inv_freq")


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _plain_config(source: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    family = config.get("model_type")
    architecture = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(family)
    if architecture is None:
        raise DataError(f"{source}: transformers has no sequence classification model of the family '{family}'")
    reference_keys = {
        "score_type",
        "score_dim",
        "score_bias",
        "bias",
        "do_normalize",
        "normalizer_type",
        "momentum",
        "mean",
        "var",
    }
    plain = {
        name: value for name, value in config.items() if name not in reference_keys | {"auto_map", "_name_or_path"}
    }
    return plain | {
        "architectures": [architecture],
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
