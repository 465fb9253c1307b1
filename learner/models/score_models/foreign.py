"""Score models from outside: a local folder or a hub name becomes a score model folder of the run.

Every node must see it, and what the user does to his own folder later must not change a run that has begun: so its files
are linked, or copied, below the run's folder. Nothing is ever loaded from a pickle, and no code that comes with a model runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from configs.exits import DataError
from learner.model_files.folders import link_file, whole_folder
from learner.model_files.hub import find_model
from learner.model_files.remote_code import read_config_document
from learner.models.score_models.beaver_layout import INDEX, convert_released, is_released, tensor_files
from learner.models.score_models.folders import AFFINE, ENSEMBLE, affine_of, ensemble_of, save_affine

HEAD, BIAS = "score.weight", "score.bias"
PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
"""Files of a Hugging Face folder that are taken: weights, configuration, tokenizer."""
PICKLE_HELP = (
    "holds its weights as a pickle only, which could run code: convert it where you trust it, with "
    "`import torch; from safetensors.torch import save_file; "
    "save_file({k: v.contiguous() for k, v in torch.load('pytorch_model.bin', weights_only=True).items()}, "
    "'model.safetensors')`, and give that folder"
)


def prepare_scorer(path: str, revision: str | None, target: Path, *, key: str) -> dict[str, Any]:
    """Make the folder `target`, whole or not at all, of a score model: plain, an ensemble's, or in the reference's layout.

    Args:
        path: a local folder, or a hub name.
        key: the setting that gave it, for messages.

    Returns:
        ``{source, revision, family, layout, affine}``: layout is ``plain``, ``ensemble`` or ``released``.

    Raises:
        ConfigError: no folder and no hub name, or a revision of a folder.
        DataError: the hub has it not or cannot be reached, pickles alone, or no score model of one label that is read at
            the last token.
    """
    model = find_model(path, revision, key=key)
    source, name = model.folder, f"{key}: {path}"
    files = tensor_files(source)
    if not files:
        pickles = [*source.glob("*.bin"), *source.glob("*.pt"), *source.glob("*.pth")]
        raise DataError(f"{name} {PICKLE_HELP}" if pickles else f"{name} holds no weights (no *.safetensors)")
    released = is_released(source)
    with whole_folder(target) as fresh:
        for pattern in PATTERNS:
            for file in sorted(source.glob(pattern)):
                if not released or not _is_model(file):
                    link_file(file, fresh / file.name)
        if released:
            convert_released(source, fresh)
        if (source / ENSEMBLE).is_file():
            _link_members(source, fresh)
        if not released:
            _one_label_of_the_head(fresh)
        family = _check(fresh, name)
        _keep_bias(fresh)
        layout = "released" if released else "ensemble" if ensemble_of(fresh) else "plain"
        moved = affine_of(fresh)
    return {
        "source": path,
        "revision": model.revision,
        "family": family,
        "layout": layout,
        "affine": None if moved is None else [moved.scale, moved.offset],
    }


def _one_label_of_the_head(folder: Path) -> None:
    """A configuration that does not say how many labels there are means as many as the head has rows; transformers would say two."""
    document = read_config_document(folder)
    file = tensor_files(folder).get(HEAD)
    if file is None or {"num_labels", "id2label"} & set(document):
        return
    with safe_open(file, framework="pt") as stream:
        rows = int(stream.get_slice(HEAD).get_shape()[0])
    config = folder / "config.json"
    config.unlink()  # a link to the source's own file
    labels = {"id2label": {str(index): f"LABEL_{index}" for index in range(rows)}}
    config.write_text(json.dumps(document | labels, indent=2) + "\n", encoding="utf-8")


def _keep_bias(folder: Path) -> None:
    """A head's bias is an offset of the score; transformers' head has none and would drop it without a word."""
    file = tensor_files(folder).get(BIAS)
    if file is None:
        return
    with safe_open(file, framework="pt") as stream:
        bias = float(stream.get_tensor(BIAS).float().reshape(-1)[0])
    moved = affine_of(folder)
    scale, offset = (1.0, 0.0) if moved is None else (moved.scale, moved.offset)
    if (folder / AFFINE).exists():
        (folder / AFFINE).unlink()  # a link to the source's own file
    save_affine(folder, scale, offset + scale * bias)


def _is_model(file: Path) -> bool:
    """Weights, their index and the configuration, which of the reference's layout are written again."""
    return file.suffix == ".safetensors" or file.name in ("config.json", INDEX)


def _link_members(source: Path, target: Path) -> None:
    for file in sorted(source.glob("members/*/*")):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            link_file(file, place)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor, file in tensor_files(folder).items():
        with safe_open(file, framework="pt") as stream:
            shapes[tensor] = tuple(stream.get_slice(tensor).get_shape())
    return shapes


def _check(folder: Path, name: str) -> str:
    """One label, read by a linear head without bias at the last token; told without loading the weights. Returns the family."""
    document = read_config_document(folder)
    family = str(document.get("model_type"))
    if family not in CONFIG_MAPPING:
        raise DataError(f"{name}: transformers knows no model of type '{family}', and code of a model's own is not run")
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        classes = config.architectures or ["nothing"]
        if config.num_labels != 1 or "SequenceClassification" not in classes[0]:
            raise DataError(
                f"{name} is a {classes[0]} with {config.num_labels} labels, no score model: it needs a sequence "
                "classification head with one label; wrap another classifier in a Python function"
            )
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{name}: config.json is not what its model type needs ({reason})") from error
    head: Any = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or getattr(head, "bias", None) is not None:
        raise DataError(
            f"{name}: a {family} model does not read its score at the last token with a plain head: wrap it in a Python "
            "function"
        )
    shapes = _shapes(folder)
    expected = {tensor: tuple(parameter.shape) for tensor, parameter in model.named_parameters()}
    if missing := sorted(set(expected) - set(shapes)):
        raise DataError(f"{name}: the weights lack {missing[0]} ({len(missing)} missing): give a whole score model")
    unread = {tensor for tensor in shapes if tensor.endswith("rotary_emb.inv_freq")} | {BIAS}
    if unknown := sorted(set(shapes) - set(model.state_dict()) - unread):
        raise DataError(
            f"{name}: the weights hold {unknown[0]} ({len(unknown)} unknown), which a {classes[0]} has no place for: its score "
            "would be another one"
        )
    if wrong := sorted(tensor for tensor, shape in expected.items() if shapes[tensor] != shape):
        raise DataError(
            f"{name}: {wrong[0]} is {list(shapes[wrong[0]])} and config.json makes it {list(expected[wrong[0]])}: the two are of "
            "different models"
        )
    return family
