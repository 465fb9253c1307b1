"""Model folders as files: linked or copied into a run, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.exits import DataError

_WHOLE = 256 * 2**20
"""Files up to this many bytes are told apart by their content, larger ones by size and time of change."""
_BLOCK = 2**20


def link_file(source: Path, target: Path) -> None:
    """A hard link where the file system has them, else a copy; links of a download cache are followed."""
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `target` at the end and replaces what was there; nothing of it stays on an error."""
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def add_fingerprint(digest: hashlib._Hash, path: Path) -> None:
    """Add what tells a file from others of its name, without reading a large one.

    Raises:
        DataError: it cannot be read.
    """
    try:
        stat = path.stat()
        digest.update(f"{path.name}\n{stat.st_size}\n".encode())
        if stat.st_size > _WHOLE:
            digest.update(str(stat.st_mtime_ns).encode())
            return
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def folder_fingerprint(folder: Path) -> str:
    """sha256 (hex) of a folder's files, as `add_fingerprint` tells them apart; folders inside are left out."""
    digest = hashlib.sha256()
    for path in sorted(file for file in folder.iterdir() if file.is_file()):
        add_fingerprint(digest, path)
    return digest.hexdigest()
