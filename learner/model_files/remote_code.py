"""Whether code that comes with a model may run: off, unless the run's own settings ask for it.

A run's settings reach every process of its job through the job's environment (`environment`), which is always set, on or off:
what a shell happened to export never counts inside a job.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from configs.exits import ConfigError, DataError

VARIABLE = "STEELYARD_TRUST_REMOTE_CODE"


def environment(allowed: bool) -> dict[str, str]:
    """For the job's processes, from ``model.trust_remote_code``."""
    return {VARIABLE: "1" if allowed else "0"}


def is_allowed() -> bool:
    """In this process."""
    return os.environ.get(VARIABLE) == "1"


def check_model_type(folder: Path | str, document: dict[str, Any], *, allowed: bool) -> None:
    """Refuse a model that transformers cannot build with its own code, before anything tries.

    Args:
        document: content of the folder's ``config.json``.

    Raises:
        ConfigError: it brings its code along, and that may not run.
        DataError: neither transformers nor the folder has code for it.
    """
    model_type = document.get("model_type")
    if model_type in CONFIG_MAPPING:
        return
    if "auto_map" not in document:
        raise DataError(f"{folder}: transformers knows no model of type {model_type!r}: take another model")
    if not allowed:
        raise ConfigError(
            f"{folder}: a model of type {model_type!r} runs code of its own: read that code, then set "
            "model.trust_remote_code: true, or take a model that transformers knows"
        )


def read_config_document(folder: Path | str) -> dict[str, Any]:
    """A Hugging Face folder's ``config.json``.

    Raises:
        DataError: it is missing or is no JSON object.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise DataError(f"{folder} holds no model (config.json is missing): give a Hugging Face folder")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also bytes that are no UTF-8
        raise DataError(f"{path} is no JSON ({error}): fetch the model again") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} is no JSON object: fetch the model again")
    return document
