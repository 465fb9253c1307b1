"""Digests that key a stage: its settings, its inputs and the code it runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

ANNOTATIONS = frozenset({"limits.json"})
"""Files that are put next to a model later and say something about it. They are no part of what a stage made: were they
counted, choosing a limit would make the cost model's stage incomplete and train it again."""


def digest(value: object) -> str:
    """sha256 (hex) of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over names and bytes of every file below `folder`, in name order, annotations left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ANNOTATIONS]
    return digest({str(path.relative_to(folder)): file_digest(path) for path in files})


def model_digest(folder: Path) -> str:
    """sha256 (hex) of what makes a Hugging Face model: weights and architecture, not the record of its training.

    Of an ensemble, also the other members' weights and how their scores become one; of a moved score, how it is moved.
    """
    files = [*folder.glob("*.safetensors"), folder / "config.json", *folder.glob("members/*/*.safetensors")]
    files += [path for path in (folder / "ensemble.json", folder / "affine.json") if path.exists()]
    return digest({path.relative_to(folder).as_posix(): file_digest(path) for path in files})


def short(value: str) -> str:
    """The first twelve characters of a digest, for people."""
    return value[:12]


def stable_seed(*parts: object) -> int:
    """A seed in [0, 2^31) from the parts, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33
