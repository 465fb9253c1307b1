"""Output that is written in parts next to its place: a conversion that stops goes on, and half a file is never left."""

from __future__ import annotations

import csv
import fcntl
import gzip
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.exits import ConfigError, DataError
from learner.data.prompt_format import SEPARATOR
from learner.data.quarantine import QUARANTINE
from learner.data.quarantine import SCHEMA as QUARANTINE_SCHEMA

ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".csv")
"""Of files that can be written; CSV holds prompts alone."""
Row = dict[str, Any]


@dataclass
class State:
    """How far a conversion is; saved after every part."""

    identity: str
    """Digest of the source and the options: another one starts again."""
    file: int = 0
    """Index of the source's file that is being read."""
    file_rows: int = 0
    """Rows of it that are done."""
    rows: int = 0
    written: int = 0
    quarantined: int = 0
    merged: int = 0
    parts: int = 0
    bad_parts: int = 0
    dropped: list[str] = field(default_factory=list)


class Parts:
    """The folder of parts of one target, locked while it is open.

    Raises:
        DataError: another conversion writes the same target, or the disk fails.
    """

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        self._target, self._schema = target, schema
        self._ending = ending_of(target)
        self._folder = target.with_name(f".{target.name}.parts")
        self._bad_target = target.with_name(QUARANTINE)
        check_place(self._bad_target)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; without a part to go on from it goes at the end."""
        with _disk(self._target):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DataError(f"{self._target} is being written by another conversion: wait for it") from error
            try:
                yield
            finally:
                if not (self._folder / "state.json").exists():
                    self.discard()

    def state(self, identity: str) -> State:
        """Where an earlier try stopped, or the beginning."""
        try:
            state = State(**json.loads((self._folder / "state.json").read_text(encoding="utf-8")))
            if state.identity == identity and self._complete(state):
                return state
        except (OSError, ValueError, TypeError):
            pass  # none, or none that can be trusted
        return State(identity)

    def _complete(self, state: State) -> bool:
        return all(path.is_file() for path in (*self._rows_of(state), *self._bad_of(state)))

    def _rows_of(self, state: State) -> list[Path]:
        return [self._folder / f"rows-{number:06}" for number in range(state.parts)]

    def _bad_of(self, state: State) -> list[Path]:
        return [self._folder / f"bad-{number:06}" for number in range(state.bad_parts)]

    def commit(self, state: State, rows: Sequence[Row], bad: Sequence[Row]) -> None:
        """Write what came since the last part, then the state: it never counts what is not on disk."""
        with _disk(self._target):
            if rows:
                self._replace(f"rows-{state.parts:06}", lambda stream: self._write_rows(stream, rows))
                state.parts += 1
            if bad:
                self._replace(f"bad-{state.bad_parts:06}", lambda stream: _write_bad(stream, bad))
                state.bad_parts += 1
            text = json.dumps(asdict(state)).encode()
            self._replace("state.json", lambda stream: stream.write(text))

    def _replace(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        partial = self._folder / f"{name}.partial"
        with partial.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self._folder / name)

    def _write_rows(self, stream: IO[bytes], rows: Sequence[Row]) -> None:
        if self._ending == ".parquet":
            pq.write_table(pa.Table.from_pylist(list(rows), self._schema), stream)
        elif self._ending == ".csv":
            stream.write(_csv_lines(self._schema.names, rows))
        else:
            lines = "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows).encode("utf-8")
            stream.write(gzip.compress(lines, mtime=0) if self._ending == ".jsonl.gz" else lines)

    def finish(self, state: State) -> Path | None:
        """Put the parts together under the target's name, and the bad rows next to it; returns where those are."""
        with _disk(self._target):
            bad = self._join(self._bad_of(state), QUARANTINE_SCHEMA, self._bad_target, ".parquet")
            self._join(self._rows_of(state), self._schema, self._target, self._ending)
        self.discard()
        return bad

    def _join(self, parts: Sequence[Path], schema: pa.Schema, target: Path, ending: str) -> Path | None:
        if not parts:
            return None
        partial = self._folder / f"{target.name}.joined"
        with partial.open("wb") as stream:
            if ending == ".parquet":
                with pq.ParquetWriter(stream, schema) as writer:
                    for part in parts:
                        writer.write_table(pq.read_table(part, schema=schema, use_threads=False))
            else:
                if ending == ".csv":
                    stream.write(_csv_lines(schema.names, None))
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
        return target

    def discard(self) -> None:
        """Remove every part."""
        shutil.rmtree(self._folder, ignore_errors=True)


def check_place(path: Path) -> None:
    """Refuse to replace a file that is no quarantine.

    Raises:
        ConfigError: it would be lost.
    """
    try:
        strange = path.is_dir() or (path.exists() and pq.read_schema(path).names != QUARANTINE_SCHEMA.names)
    except (OSError, pa.ArrowInvalid):
        strange = True
    if strange:
        raise ConfigError(f"{path} is there and holds no quarantined rows: move it, or write to another folder")


def ending_of(target: Path) -> str:
    """Which of `ENDINGS` the target has.

    Raises:
        ConfigError: none.
    """
    target_ending = next((ending for ending in reversed(ENDINGS) if target.name.lower().endswith(ending)), None)
    if target_ending is None:
        raise ConfigError(f"{target}: the name does not say what to write: end it in {', '.join(ENDINGS)}")
    return target_ending


def _write_bad(stream: IO[bytes], bad: Sequence[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(list(bad), QUARANTINE_SCHEMA), stream)


def _csv_lines(names: Sequence[str], rows: Sequence[Row] | None) -> bytes:
    """Records of prompts, or the heading."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    columns = [name for name in names if name != "messages"]
    if rows is None:
        writer.writerow(columns)
    for row in rows or ():
        cells = {**row, "tags": SEPARATOR.join(row["tags"])}
        writer.writerow(["" if cells[name] is None else cells[name] for name in columns])
    return text.getvalue().encode("utf-8")


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise DataError(
            f"{target} cannot be written ({why}); what is done is kept, the same command goes on"
        ) from error
