"""Where a pretrained model is: a folder here, or one fetched from the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from configs.exits import ConfigError, DataError

_DATA = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
"""Weights, configurations, and every kind of tokenizer file; no pickle."""
_CODE = ["*.py"]
_NOT = ["*/*", "consolidated*"]
"""Folders inside a repository hold the same weights in other forms, and so does Mistral's consolidated file."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class FoundModel:
    """A model's files on this machine."""

    folder: Path
    revision: str | None
    """The hub's commit; None of a local folder."""


def find_model(name: str, revision: str | None, *, key: str, with_code: bool = False) -> FoundModel:
    """The folder of this name, or a snapshot of the hub's repository of this name, fetched where it is not yet here.

    Args:
        revision: of the hub: branch, tag or commit; None: its main branch.
        key: the setting that gave the name, for messages, such as ``model.path``.
        with_code: fetch Python files too.

    Raises:
        ConfigError: no folder, and no name that the hub could have; or a revision of a local folder.
        DataError: the hub has no such model or revision, keeps it from this user, or cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"{key}: {name} is a folder here, and only the hub has revisions: leave revision out")
        return FoundModel(folder.resolve(), None)
    if not _HUB_NAME.fullmatch(name):
        raise ConfigError(f"{key}: there is no folder {name}, and the hub has no such names: check the path")
    return _fetch(name, revision, key, [*_DATA, *(_CODE if with_code else [])])


def _fetch(name: str, revision: str | None, key: str, patterns: list[str]) -> FoundModel:
    import httpx
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    where = f"{key}: {name}" + (f"@{revision}" if revision else "")
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=_NOT))
    except hub.GatedRepoError as error:
        raise DataError(
            f"{where}: the hub asks you to accept its terms first: do so on its page, then log in (hf auth login)"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise DataError(f"{where}: the hub has the model, but no such revision: check model's revision") from error
    except hub.RepositoryNotFoundError as error:
        raise DataError(
            f"{where}: neither a folder here nor a model on the hub; a private one needs your token (hf auth login)"
        ) from error
    except hub.HFValidationError as error:
        raise ConfigError(f"{where}: the hub has no such names: give a folder, or owner/name") from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, httpx.TransportError) as error:
        raise DataError(
            f"{where}: no folder here, and the hub cannot be reached (offline, or no network): "
            "fetch the model where there is one, and give its folder"
        ) from error
    except (hub.HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: it cannot be fetched from the hub: {type(error).__name__}: {reason}") from error
    return FoundModel(folder, folder.name)
