"""A run's own configuration, read where the run is: from its folder, or from the store that keeps it.

Both `steelyard submit --resume` and the job use it: the job where only the cluster's nodes see the folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings


def cut_place(place: str) -> tuple[Path | str, str]:
    """The storage that a run is in, and the run's name, from the run's folder or URL.

    Raises:
        ConfigError: there is no name at its end.
    """
    storage, _, run = place.rstrip("/").rpartition("/")
    if not run or not storage or ("://" in place and "://" not in storage):
        raise ConfigError(f"--resume {place}: names no run in a folder; give /storage/RUN, or s3://bucket/folder/RUN")
    return (storage if "://" in place else Path(storage)), run


def read_config(place: str) -> str | None:
    """Text of the configuration of the run in this folder or at this URL; None where there is none.

    Raises:
        ConfigError, ClusterError: it cannot be read, or the store not be reached.
    """
    storage, run = cut_place(place)
    if isinstance(storage, Path):
        path = RunLayout(storage / run).config
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--resume {place}: {path.name} cannot be read: {error}") from error
    from cluster.run_folder.remote_store import RunStore

    content = RunStore(storage, run).read("config.resolved.yaml")
    return None if content is None else content.decode()


def resumed_settings(place: str, overrides: Sequence[str] = (), *, text: str | None = None) -> RunSettings:
    """The settings of a run, as they were, in the storage where it now is.

    Args:
        place: its folder or URL.
        text: what `read_config` gave; none reads it.

    Raises:
        ConfigError, ClusterError: no run is there, or its configuration cannot be used.
    """
    if "://" not in place and not Path(place).is_absolute():
        raise ConfigError(
            f"--resume {place}: is relative, and a job runs in a folder of Ray's; give an absolute folder"
        )
    text = read_config(place) if text is None else text
    if text is None:
        raise ConfigError(
            f"--resume {place}: no config.resolved.yaml of a run is there; give its folder as the cluster's nodes see it, or "
            "its URL in a store"
        )
    storage, run = cut_place(place)
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        path = Path(folder) / "config.resolved.yaml"
        path.write_text(text, encoding="utf-8")
        settings = load_settings(path, overrides)
    if settings.name != run:
        raise ConfigError(
            f"--resume {place}: holds the run '{settings.name}'; a run goes on in a folder of its own name"
        )
    return settings.model_copy(update={"storage": storage})
