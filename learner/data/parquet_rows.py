"""Rows of a Parquet file, a few at a time; only columns that a format knows are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learner.data.fields import shorten
from learner.data.lines import read_lines
from learner.data.raw import RawRow, unusable

_AT_ONCE = 256
"""Rows of a batch, fewer where rows are large."""
_BATCH_BYTES = 2**26
_ROW_GROUP_BYTES = 2**30
"""Of the columns that are read: a larger row group could not be decoded in bounded memory."""
_MAGIC = b"PAR1"
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)


def read_parquet(path: Path, column_names: Collection[str]) -> Iterator[RawRow]:
    """The rows with the ``column_names`` columns, the others as None; errors are rows too."""
    row = 0
    try:
        if problem := _not_parquet(path):
            yield problem
            return
        with pq.ParquetFile(path, pre_buffer=False, read_dictionary=_text_columns(path, column_names)) as file:
            names = list(file.schema_arrow.names)
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                yield unusable(1, "wrong_type", f"the column '{shorten(twice[0])}' is there twice")
                return
            columns = [name for name in names if name in column_names]
            unread = dict.fromkeys(name for name in names if name not in column_names)
            for group in range(file.metadata.num_row_groups):
                size = _decoded_size(file.metadata.row_group(group), columns)
                rows = file.metadata.row_group(group).num_rows
                if size > _ROW_GROUP_BYTES:
                    why = (
                        f"row group {group + 1} holds {size // 2**20} MiB: write the file again with smaller row groups"
                    )
                    yield unusable(row + 1, "too_long_row", why)
                    return
                at_once = max(1, min(_AT_ONCE, _BATCH_BYTES * rows // max(size, 1)))
                for batch in file.iter_batches(at_once, row_groups=[group], columns=columns, use_threads=False):
                    for raw in _rows(batch, row, unread):
                        row = raw.row
                        yield raw
        if row == 0:
            yield unusable(1, "not_data", "the file has no row")
    except _DAMAGE as error:
        yield unusable(row + 1, "truncated_file", f"the file is damaged ({shorten(str(error))}): download it again")


def _rows(batch: pa.RecordBatch, before: int, unread: dict[str, None]) -> Iterator[RawRow]:
    for at in range(batch.num_rows):
        number = before + at + 1
        try:
            fields: dict[str, Any] = {name: batch.column(name)[at].as_py() for name in batch.schema.names}
        except UnicodeDecodeError as error:
            yield unusable(number, "bad_encoding", f"byte {error.start + 1} of a text is not UTF-8")
        except (pa.ArrowException, ValueError, OverflowError) as error:
            yield unusable(number, "wrong_type", f"a value cannot be read ({shorten(str(error))})")
        else:
            yield RawRow(number, fields | unread)


def _text_columns(path: Path, column_names: Collection[str]) -> list[str]:
    """Paths of texts, at any depth. Their values stay shared while they are read: a text that a small file repeats for
    every row would fill the memory otherwise.
    """
    schema = pq.read_metadata(path).schema
    columns = (schema.column(at) for at in range(len(schema)))
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.path.split(".")[0] in column_names
    ]


def _decoded_size(group: Any, column_names: Collection[str]) -> int:
    columns = (group.column(at) for at in range(group.num_columns))
    return sum(
        max(0, column.total_uncompressed_size)
        for column in columns
        if column.path_in_schema.split(".")[0] in column_names
    )


def _not_parquet(path: Path) -> RawRow | None:
    """Why a file is no Parquet file at all, as far as its first bytes tell."""
    with path.open("rb") as stream:
        head = stream.read(len(_MAGIC))
    if head == _MAGIC:
        return None
    if head == b"PARE":
        return unusable(1, "not_data", "the file is encrypted Parquet: decrypt it first")
    for line in read_lines(path):
        if isinstance(line, RawRow) and line.problem is not None and line.problem.kind in ("not_data", "bad_encoding"):
            return line
        break
    return unusable(1, "not_data", "it is no Parquet file, in spite of its name")
