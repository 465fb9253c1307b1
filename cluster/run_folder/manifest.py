"""manifest.json: which stage made what, from which inputs, under which key.

A stage is complete when its record has the key that its settings, inputs and code give now, and every output it
names is still there with the digest it was written with. The record is written last, so a stage that was cut off
never counts as complete.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.run_folder.digests import file_digest, folder_digest


@dataclass(frozen=True)
class StageRecord:
    """What one complete stage left behind."""

    name: str
    key: str
    inputs: dict[str, str]
    """Input name → digest."""
    outputs: dict[str, str]
    """Absolute path, or path relative to the run → digest."""
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    """Small figures that later stages and the summary read."""


class Manifest:
    """The stage records of one run, kept in its manifest.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, StageRecord] = {}
        self.header: dict[str, Any] = {}
        if path.exists():
            raw = json.loads(path.read_text())
            self.header = raw["header"]
            self._records = {name: StageRecord(**record) for name, record in raw["stages"].items()}

    def complete(self, name: str, key: str) -> StageRecord | None:
        """The stage's record, if it is complete under `key`."""
        record = self._records.get(name)
        if record is None or record.key != key:
            return None
        for output, expected in record.outputs.items():
            path = self.path.parent / output
            if not path.exists() or output_digest(path) != expected:
                return None
        return record

    def record(self, record: StageRecord) -> None:
        """Add or replace a stage's record, atomically on disk."""
        self._records[record.name] = record
        self.save()

    def save(self) -> None:
        """Write the file: whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stages = {name: asdict(record) for name, record in self._records.items()}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"header": self.header, "stages": stages}, indent=1) + "\n")
        os.replace(temporary, self.path)

    def names(self) -> tuple[str, ...]:
        """Every stage that has a record."""
        return tuple(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __getitem__(self, name: str) -> StageRecord:
        return self._records[name]


def output_digest(path: Path) -> str:
    """Digest of a file or of a folder's content."""
    return folder_digest(path) if path.is_dir() else file_digest(path)
