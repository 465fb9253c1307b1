"""A Parquet file that is written in row groups, in bounded memory, and appears only once it is whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from configs.exits import DataError

ROWS = 2048
"""Most rows of a group."""
VALUES = 2**22
"""List entries (tokens, mostly) after which a group is written even if it has fewer rows."""


class RowGroups:
    """Collects rows in a partial file, which takes the wanted name at the end, in place of an older one.

    A context manager: when its block fails, or no row came, the partial file goes and the older one stays.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self._schema = path, schema
        self.rows = 0
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[dict[str, Any]] = []
        self._values = 0

    def __enter__(self) -> Self:
        return self

    def add(self, row: dict[str, Any], values: int) -> None:
        """Keep a row of the schema's columns, which holds this many list entries."""
        self._waiting.append(row)
        self._values += values
        self.rows += 1
        if len(self._waiting) >= ROWS or self._values >= VALUES:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._waiting:
                self._flush()
            if self._writer is not None:
                self._writer.close()
                if kind is None:
                    self._publish()
        except OSError as problem:
            if kind is None:  # else what failed first is told
                raise self._unwritable(problem) from problem
        finally:
            with suppress(OSError):  # there is none where its folder could not be made
                self._partial.unlink()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._waiting, self._schema)
        try:
            if self._writer is None:
                self._partial.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(self._partial, self._schema)
            self._writer.write_table(table)
        except OSError as problem:
            raise self._unwritable(problem) from problem
        self._waiting, self._values = [], 0

    def _publish(self) -> None:
        with self._partial.open("rb") as written:
            os.fsync(written.fileno())
        self._partial.replace(self.path)

    def _unwritable(self, problem: OSError) -> DataError:
        return DataError(
            f"{self.path} cannot be written ({problem.strerror or problem}): make room, or give another place"
        )
