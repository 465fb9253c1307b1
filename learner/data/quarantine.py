"""The file of rows that cannot be used, each with its reason. It appears only once it is whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from configs.exits import ConfigError, DataError
from learner.data.records import Finding, Parsed

QUARANTINE = "quarantine.parquet"
"""Its usual name."""
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("excerpt", pa.string()),
    ]
)
_ROW_GROUP = 1024


class Quarantine:
    """Collects bad rows in a partial file, which takes the wanted name at the end; without bad rows none is written.

    A context manager: when its block fails, the partial file goes.

    Raises:
        ConfigError: the path is a folder, or a file that is no quarantine and would be lost.
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[dict[str, str | int]] = []
        if path.is_dir() or (path.exists() and not _is_quarantine(path)):
            raise ConfigError(f"--quarantine {path} is there and is no quarantine file: give another path")

    def __enter__(self) -> Self:
        return self

    def add(self, parsed: Parsed, findings: Sequence[Finding]) -> None:
        """Keep a row with its errors: one line for every row, of several errors the first names the kind."""
        errors = [finding for finding in findings if finding.severity == "error"]
        self._waiting.append(
            {
                "file": _storable(parsed.file),
                "row": parsed.row,
                "kind": errors[0].kind,
                "reason": _storable("; ".join(error.message for error in errors)),
                "excerpt": _storable(parsed.excerpt),
            }
        )
        self.rows += 1
        if len(self._waiting) >= _ROW_GROUP:
            self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._waiting:
                self._write()
            if self._writer is not None:
                self._writer.close()
                if kind is None:
                    self._partial.replace(self.path)
        except OSError as problem:
            raise self._unwritable(problem) from problem
        finally:
            with suppress(OSError):  # a parent that is no folder has its own, clearer error
                self._partial.unlink(missing_ok=True)

    def _write(self) -> None:
        table = pa.Table.from_pylist(self._waiting, SCHEMA)
        try:
            if self._writer is None:
                self._partial.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(self._partial, SCHEMA)
            self._writer.write_table(table)
        except OSError as problem:
            raise self._unwritable(problem) from problem
        self._waiting.clear()

    def _unwritable(self, problem: OSError) -> DataError:
        why = problem.strerror or problem
        return DataError(f"{self.path} cannot be written ({why}): give another place with --quarantine")


def _storable(text: str) -> str:
    """Text that UTF-8 can hold: JSON may smuggle in half of a surrogate pair."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _is_quarantine(path: Path) -> bool:
    try:
        return bool(pq.read_schema(path).names == SCHEMA.names)
    except (OSError, pa.ArrowInvalid):
        return False
