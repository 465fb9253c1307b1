"""From a source's name to its files, or its place on the hub."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from configs.exits import ConfigError, DataError
from learner.data.quarantine import QUARANTINE

PACKINGS = (".gz", ".xz", ".bz2", ".zst")
"""Of files of lines; each is read as a stream."""
_LINES = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES = (*_LINES, *(f"{suffix}{packing}" for suffix in _LINES for packing in PACKINGS), ".parquet")
"""Of files that can be read; ``.json`` means JSON lines."""
ENDINGS_IN_WORDS = f"{', '.join(_LINES)} (plain, or with {', '.join(PACKINGS)} behind), .parquet"
HUB = "hub:"
_HUB_NAME = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?P<folder>(?:/[\w.-]+)*)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class HubName:
    """A data set on the hub: ``hub:owner/name[/folder][:config][@revision]``."""

    name: str
    folder: str | None
    config: str | None
    revision: str | None

    def __str__(self) -> str:
        folder, config = f"/{self.folder}" if self.folder else "", f":{self.config}" if self.config else ""
        return f"{HUB}{self.name}{folder}{config}{f'@{self.revision}' if self.revision else ''}"


def hub_name(source: str, revision: str | None = None) -> HubName | None:
    """The source as a place on the hub; None: it is local.

    Raises:
        ConfigError: a name that cannot be, or a revision that makes no sense.
    """
    if not source.startswith(HUB):
        if revision is not None:
            raise ConfigError(f"{source}: a revision is for sources on the hub ({HUB}owner/name)")
        return None
    match = _HUB_NAME.fullmatch(source.removeprefix(HUB))
    if match is None or ".." in source:
        raise ConfigError(f"{source}: no name on the hub; write {HUB}owner/name[/folder][:config][@revision]")
    if revision is not None and match["revision"] not in (None, revision):
        raise ConfigError(f"{source}: two revisions are asked for, {match['revision']} and {revision}")
    return HubName(match["name"], match["folder"].strip("/") or None, match["config"], match["revision"] or revision)


def local_files(source: str, split: str | None = None) -> list[Path]:
    """The files of a local source, by name: one file, every data file below a folder, or below what a pattern matches.

    ``split`` keeps files whose path below the folder has that word, as in ``train-00000.parquet`` or ``test/a.jsonl``.

    Raises:
        DataError: there is none, or one cannot be read.
        ConfigError: a split of a single file.
    """
    path = Path(source)
    try:
        if path.is_dir():
            files, root = _below(path), path
        elif path.exists() or not _GLOB & set(source):
            if split is not None:
                raise ConfigError(f"{source}: a split is for folders, patterns and the hub; this is one file")
            return [_checked_file(path)]
        else:
            matches = (Path(name) for name in glob.glob(source, recursive=True))
            files, root = sorted({file for match in matches for file in _matched(match)}), Path()
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: cannot be read ({error})") from error
    data = [file for file in files if is_data(file)]
    if not data:
        fix = f"give files that end in {ENDINGS_IN_WORDS}"
        raise DataError(
            f"{source}: no data file in this folder: {fix}" if path.is_dir() else f"{source}: no such file: {fix}"
        )
    of_split = [file for file in data if split is None or split in _words(file, root)]
    if not of_split:
        raise DataError(f"{source}: none of its {len(data)} files has '{split}' in its name")
    return of_split


def is_data(path: Path) -> bool:
    """Whether the name is that of a data file."""
    return path.name.lower().endswith(SUFFIXES) and path.name != QUARANTINE


def _matched(path: Path) -> list[Path]:
    """A file that a pattern matches, or the files below a folder that it matches."""
    if path.is_dir():
        return [] if path.is_symlink() or path.name.startswith(".") else _below(path)
    return [path] if path.is_file() else []


def _below(folder: Path) -> list[Path]:
    """Files below a folder; hidden ones and those behind linked folders are left alone."""
    files: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            files += [] if entry.is_symlink() else _below(entry)
        elif entry.is_file():
            files.append(entry)
    return files


def _checked_file(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not path.is_file():
        raise DataError(f"{path}: no regular file; data is read from files")
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path}: the name does not say what it is: it should end in {ENDINGS_IN_WORDS}")
    return path


def _words(path: Path, root: Path) -> set[str]:
    below = path.relative_to(root) if path.is_relative_to(root) else path
    return set(re.split(r"[^A-Za-z0-9]+", str(below)))
