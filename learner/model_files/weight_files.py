"""The weight files of a Hugging Face folder: which they are, and whether they hold what the architecture needs.

Only safetensors headers are read, so the size of the model does not matter.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from configs.exits import DataError

INDEX = "model.safetensors.index.json"
_TRAINABLE = {"F32", "BF16", "F16"}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MOST_HEADER = 100 * 2**20
"""Bytes; safetensors' own bound."""


@dataclass(frozen=True)
class Weights:
    """A model's weights on disk."""

    files: tuple[Path, ...]
    """Safetensors and, of several, their index."""
    shapes: dict[str, tuple[int, ...]]
    """Name to shape of every tensor."""


def weight_files(folder: Path, name: str) -> Weights:
    """The files that the folder's index names, or its one ``model.safetensors``; headers checked.

    Raises:
        DataError: there is none, only pickles, one is missing or cut off, or a tensor is in a form that cannot be trained.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{index} names no weight files: fetch the model again") from error
        files = [folder / Path(str(file_name)).name for file_name in names]
        extra: tuple[Path, ...] = (index,)
    else:
        files, extra = sorted(folder.glob("*.safetensors")), ()
        if len(files) > 1:
            files = [file for file in files if file.name == "model.safetensors"] or files
    if not files:
        raise _no_weights(folder, name)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= _header(file, name)
    return Weights((*files, *extra), shapes)


def _no_weights(folder: Path, name: str) -> DataError:
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return DataError(
            f"{name} has its weights as pickles only ({pickles[0]}), and reading those can run anything: convert them where "
            "you trust them, with AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder), "
            "and copy the tokenizer's files there"
        )
    return DataError(
        f"{name} has no safetensors file: give a model that is saved as safetensors (on the hub, "
        "often another revision is)"
    )


def _header(file: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Name to shape; the file must be as long as its header says."""
    if not file.is_file():
        raise DataError(f"{name}: the weight file {file.name} is missing: fetch the model again")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size - 8, _MOST_HEADER):
            raise DataError(f"{name}: {file.name} is no safetensors file, or is cut off: fetch the model again")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            shapes = {tensor: tuple(int(n) for n in entry["shape"]) for tensor, entry in header.items()}
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
            forms = {str(entry["dtype"]): tensor for tensor, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataError(f"{name}: {file.name} has a damaged header: fetch the model again") from error
    if 8 + length + end != size:
        raise DataError(
            f"{name}: {file.name} has {size} bytes and its header speaks of {8 + length + end}: fetch the model again"
        )
    if wrong := sorted(set(forms) - _TRAINABLE):
        raise DataError(
            f"{name}: {forms[wrong[0]]} is stored as {wrong[0]}, which cannot be trained: give a model in float32, bfloat16 or float16"
        )
    return shapes


def check_weights(weights: Weights, config: Any, name: str, *, trust_remote_code: bool) -> int:
    """Compare the tensors on disk with the architecture's parameters; returns how many numbers these are.

    Transformers would start a missing parameter at random, and the engines load by name: both must be told before.

    Raises:
        DataError: lists the names that are missing, unknown, or differ in shape.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    expected = {tensor: tuple(parameter.shape) for tensor, parameter in model.named_parameters()}
    # Older files hold rotary frequencies, and some a tied output layer a second time: the model does not read them.
    ignored = {tensor for tensor in weights.shapes if tensor.endswith("rotary_emb.inv_freq")}
    accepted = set(model.state_dict()) | ignored
    shapes = weights.shapes
    complaints = [
        f"{len(tensors)} {complaint}: {_listed(sorted(tensors))}"
        for complaint, tensors in (
            ("missing", [tensor for tensor in expected if tensor not in shapes]),
            ("unknown", [tensor for tensor in shapes if tensor not in accepted]),
            (
                "of another shape",
                [
                    f"{tensor} {shapes[tensor]} for {shape}"
                    for tensor, shape in expected.items()
                    if tensor in shapes and shapes[tensor] != shape
                ],
            ),
        )
        if tensors
    ]
    if complaints and _renames_tensors(type(model).__name__, str(config.model_type)):
        raise DataError(
            f"{name}: files and modules of the family {config.model_type} name their weights differently in transformers "
            f"({'; '.join(complaints)}), and such families are not supported: give a model of another family"
        )
    if complaints:
        raise DataError(
            f"{name} does not hold the weights of a {type(model).__name__}: {'; '.join(complaints)}; "
            "save it again with transformers' save_pretrained, or give another model"
        )
    return sum(parameter.numel() for parameter in model.parameters())


def _renames_tensors(class_name: str, model_type: str) -> bool:
    """Whether transformers loads and saves this family under other names than its modules have."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    return any(get_checkpoint_conversion_mapping(name) is not None for name in (class_name, model_type))


def check_tied(weights: Weights, config: Any, name: str) -> None:
    """Refuse an output layer of its own where the configuration says that it is the embedding, as merged adapters leave it.

    Transformers then loads both, and what learned two matrices is saved as one.

    Raises:
        DataError: names both tensors and the setting.
    """
    head = "lm_head.weight"
    embeddings = [tensor for tensor in weights.shapes if tensor.endswith(("embed_tokens.weight", "wte.weight"))]
    if not getattr(config, "tie_word_embeddings", False) or head not in weights.shapes or len(embeddings) != 1:
        return
    first, second = (_tensor(weights, tensor) for tensor in (head, embeddings[0]))
    if first.shape != second.shape or not torch.equal(first, second):
        raise DataError(
            f"{name}: config.json says tie_word_embeddings: true, and {head} is not {embeddings[0]}: set it to false in "
            "config.json, or leave the tensor out of the weights"
        )


def _tensor(weights: Weights, name: str) -> torch.Tensor:
    for file in weights.files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as stream:
                if name in stream.keys():  # noqa: SIM118  (safe_open is no mapping)
                    return stream.get_tensor(name)
    raise DataError(f"no weight file holds {name}")


def _listed(names: list[str], limit: int = 8) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def folder_sha256(folder: Path) -> str:
    """sha256 (hex) over names and bytes of a folder's files, in name order."""
    whole = hashlib.sha256()
    for path in sorted(file for file in folder.iterdir() if file.is_file()):
        with path.open("rb") as stream:
            whole.update(f"{path.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
