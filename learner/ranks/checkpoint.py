"""A checkpoint is a folder that is either complete or not there.

Invariant: everything is written next to the final name; then the manifest (sizes and SHA-256 of every other file), last
and flushed; then one rename. A folder without a manifest, or whose files differ from it, is never loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.exits import StoppedError

MANIFEST = "manifest.json"
DRIVER_STATE = "driver.json"
_FORMAT = 1


class CheckpointError(StoppedError):
    """A checkpoint is missing, incomplete or damaged; the message names folder and file."""


def begin(path: Path) -> Path:
    """An empty folder next to `path` to write a checkpoint into; what an interrupted attempt left is removed."""
    staging = staging_folder(path)
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    return staging


def commit(path: Path, *, step: int, driver_state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Seal the folder that `begin` gave and rename it to `path`, in place of an older checkpoint of that name.

    Args:
        driver_state: JSON values of the loop (multipliers, windows, data position), kept inside so that they cannot
            belong to other weights.
        facts: what a loader must match (ranks, ZeRO stage, signals).

    Raises:
        CheckpointError: nothing was begun.
    """
    staging = staging_folder(path)
    if not staging.is_dir():
        raise CheckpointError(f"there is no checkpoint in the making at {staging}: begin it first")
    (staging / DRIVER_STATE).write_text(json.dumps(driver_state))
    files = {str(file.relative_to(staging)): _fingerprint(file) for file in _files(staging)}
    _write_through(
        staging / MANIFEST, json.dumps({"format": _FORMAT, "step": step, "facts": facts, "files": files}, indent=1)
    )
    # The old checkpoint is moved aside and deleted last: at every moment one of the two is whole.
    old = path.with_name(f".{path.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if path.exists():
        path.rename(old)
    staging.rename(path)
    _flush_folder(path.parent)
    if old.exists():
        shutil.rmtree(old)


def verify(path: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest and return the manifest.

    Raises:
        CheckpointError: no manifest, an unknown format, or a file is missing, added or changed.
    """
    manifest = _manifest(path)
    present = {
        str(file.relative_to(path)): file for file in _files(path) if file.name != MANIFEST or file.parent != path
    }
    for name in sorted(set(manifest["files"]) | set(present)):
        if name not in present:
            raise CheckpointError(f"checkpoint {path} lacks {name}: use an older one")
        if name not in manifest["files"]:
            raise CheckpointError(f"checkpoint {path} has a file its manifest does not know, {name}: use an older one")
        if _fingerprint(present[name]) != manifest["files"][name]:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} does not match its checksum; use an older one")
    return manifest


def read_driver_state(path: Path) -> dict[str, Any]:
    """The loop's own state that `commit` was given; call `verify` first."""
    state: dict[str, Any] = json.loads((path / DRIVER_STATE).read_text())
    return state


def latest(folder: Path) -> Path | None:
    """The sealed checkpoint in `folder` with the highest step, or None; `verify` tells whether it is whole."""
    sealed = [path for path in folder.glob("*") if not path.name.startswith(".") and (path / MANIFEST).is_file()]
    return max(sealed, key=lambda path: (int(_manifest(path)["step"]), path.name), default=None)


def keep_newest(folder: Path, count: int) -> list[Path]:
    """Delete all but the `count` newest sealed checkpoints, once the newest has been sealed; returns the deleted."""
    sealed = [path for path in folder.glob("*") if not path.name.startswith(".") and (path / MANIFEST).is_file()]
    ordered = sorted(sealed, key=lambda path: (int(_manifest(path)["step"]), path.name))
    doomed = ordered[: max(0, len(ordered) - count)]
    for path in doomed:
        shutil.rmtree(path)
    return doomed


def staging_folder(path: Path) -> Path:
    """Where a checkpoint of this name is written before it is sealed."""
    return path.with_name(f".{path.name}.partial")


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{path} is no complete checkpoint (it has no {MANIFEST}): use another")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"the manifest of checkpoint {path} cannot be read: use an older checkpoint") from error
    if manifest.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {manifest.get('format')}, this version reads {_FORMAT}")
    return manifest


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _write_through(file: Path, text: str) -> None:
    with file.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
