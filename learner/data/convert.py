"""From one format to another: in bounded memory, in parts that a second try goes on from, with bad rows set aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.exits import ConfigError, DataError
from learner.data.aggregate import LabelCounts
from learner.data.fields import RowError, shorten
from learner.data.formats import TARGETS, Opened, format_of, known_format, open_source, read_opened
from learner.data.layout import Format, Ranking, filled_fields
from learner.data.parts import Parts, Row, State, ending_of
from learner.data.prompt_format import SEPARATOR
from learner.data.records import Finding, LabelledResponse, Parsed, Record

ROW_GROUP = 2048
"""Rows of a part, and of a row group in Parquet."""
_GROUP_BYTES = 2**25
"""Characters after which a part is written even if it has fewer rows."""
_HOPELESS = 1000
"""Rows that have no place in the target, with none that has, after which the conversion is given up."""
_ALWAYS_DROPS = frozenset({"trl"})
"""Targets that are an export: what they leave out is reported, not refused."""


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did."""

    source_format: str
    rows: int
    """Rows that were read."""
    written: int
    """Rows of the target; a pair is two rows in BeaverTails."""
    quarantined: int
    dropped_fields: tuple[str, ...]
    """Fields of records that the target has no place for."""
    merged: int
    """Labellings of one response that were taken together."""
    quarantine: Path | None
    """Where bad rows are; None: there were none."""


@dataclass(frozen=True)
class _Job:
    source: Format
    to: Format
    rank: Ranking | None
    ending: str
    lossy: bool
    counts: LabelCounts | None

    def rows(self, parsed: Parsed) -> tuple[list[Row], set[str]]:
        """The target's rows of one source row, and what they leave out.

        Raises:
            RowError: the target has no place for it.
            DataError: fields would be lost, and that was not allowed.
        """
        record = parsed.record
        assert record is not None
        if self.counts is not None and isinstance(record, LabelledResponse):
            if not self.counts.first(record):
                return [], set()
            record = self.counts.majority(record).record
        rows = self.to.write(record, self.rank)
        if self.ending == ".csv":
            _check_csv(rows)
        dropped = filled_fields(record) - set(self.to.holds(record, self.rank))
        if dropped and not self.lossy and self.to.name not in _ALWAYS_DROPS:
            names = ", ".join(f"'{name}'" for name in sorted(dropped))
            raise _Refused(
                f"{parsed.file}: row {parsed.row}: {names} would be lost in {self.to.name}; give --lossy to drop it"
            )
        return rows, dropped


def convert(
    source: str,
    target: Path,
    *,
    to: str,
    format: str | None = None,
    revision: str | None = None,
    split: str | None = None,
    rank: Ranking | None = None,
    ranking: Ranking | None = None,
    lossy: bool = False,
    aggregate: bool = False,
    overwrite: bool = False,
    row_group: int = ROW_GROUP,
    progress: Callable[[int], object] = lambda _rows: None,
) -> ConvertReport:
    """Write ``source`` as format ``to`` into ``target`` (``.parquet``, ``.jsonl``, ``.jsonl.gz``; prompts also ``.csv``).

    The target appears when it is whole. A conversion that was interrupted goes on from its last part when it is called
    again with the same arguments and an unchanged source. Bad rows, and rows that the target has no place for, go to
    ``quarantine.parquet`` next to the target, which replaces an older one.

    Args:
        rank: which ranking targets that hold one take; needed where pairs have both.
        ranking: what HH-RLHF's order means; see `learner.data.formats.read_source`.
        aggregate: take the labellings of one response together; see `learner.data.aggregate`. Reads the source twice.
        progress: called with the number of rows read, after every part.

    Raises:
        DataError: the source cannot be read, fields would be lost, or no row has a place in the target.
        ConfigError: arguments that make no sense, or a target that is there already.
    """
    layout, ending = _checked_target(target, to, overwrite=overwrite, row_group=row_group)
    opened = open_source(source, revision=revision, split=split)
    if any(file.resolve() == target.resolve() for file in opened.files):
        raise ConfigError(f"{target} is the source: give another target")
    name = known_format(format).name if format else format_of(opened)
    if aggregate and name not in ("beavertails", "native"):
        raise ConfigError(f"--aggregate is for single labelled responses, and {source} is {name}")
    identity = _identity(opened, [name, to, rank, ranking, lossy, aggregate, row_group, ending])
    parts = Parts(target, layout.schema)
    with parts.locked():
        state = parts.state(identity)
        counts = _count_labels(opened, name, state) if aggregate else None
        job = _Job(known_format(name), layout, rank, ending, lossy, counts)
        try:
            _run(job, opened, _Output(parts, state, row_group, progress), ranking)
        except (ConfigError, _Refused):
            parts.discard()
            raise
        bad = parts.finish(state)
    return ConvertReport(name, state.rows, state.written, state.quarantined, tuple(state.dropped), state.merged, bad)


class _Output:
    """What was read since the last part, and how far the conversion is."""

    def __init__(self, parts: Parts, state: State, row_group: int, progress: Callable[[int], object]) -> None:
        self.state = state
        self._parts, self._row_group, self._progress = parts, row_group, progress
        self._ready: list[Row] = []
        self._bad: list[Row] = []
        self._size = 0

    def add(self, parsed: Parsed, rows: Sequence[Row], problem: Finding | None) -> None:
        """Count one row of the source; write a part if there is enough for one."""
        if problem is not None:
            self._bad.append(_bad_row(parsed, problem))
            self.state.quarantined += 1
        elif not rows:
            self.state.merged += 1
        self._ready += rows
        self.state.written += len(rows)
        self.state.rows += 1
        self.state.file_rows += 1
        self._size += len(parsed.excerpt) + (_length(parsed.record) if parsed.record is not None else 0)
        if len(self._ready) + len(self._bad) >= self._row_group or self._size >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write a part of what there is."""
        if self._ready or self._bad:
            self._parts.commit(self.state, self._ready, self._bad)
        self._ready, self._bad, self._size = [], [], 0
        self._progress(self.state.rows)


def _run(job: _Job, opened: Opened, output: _Output, ranking: Ranking | None) -> None:
    """Read what is left of the source and write it part by part."""
    state = output.state
    refused: list[tuple[Parsed, Finding]] = []
    places = {name: at for at, name in enumerate(opened.names)}
    start = (state.file, state.file_rows)
    for parsed in read_opened(opened, format=job.source.name, ranking=ranking, start=start):
        if places[parsed.file] != state.file:
            state.file, state.file_rows = places[parsed.file], 0
        rows: list[Row] = []
        problem = parsed.error
        if problem is None:
            try:
                rows, dropped = job.rows(parsed)
                state.dropped = sorted({*state.dropped, *dropped})
            except RowError as error:
                problem = error.finding
                refused.append((parsed, problem))
        output.add(parsed, rows, problem)
        if state.written:
            refused = refused[:1]
        elif len(refused) >= _HOPELESS:
            break
    if not state.written:
        raise _Refused(_nothing(opened, job, state, refused))
    output.flush()


class _Refused(DataError):
    """The conversion makes no sense for this data: nothing of it is kept for a second try."""


def _nothing(opened: Opened, job: _Job, state: State, refused: Sequence[tuple[Parsed, Finding]]) -> str:
    if not refused:
        return f"{opened.source}: none of its {state.rows} rows can be used; see: steelyard data check"
    parsed, problem = refused[0]
    return f"{parsed.file}: row {parsed.row}: {problem.message}; no row has a place in {job.to.name}"


def _count_labels(opened: Opened, name: str, state: State) -> LabelCounts:
    """A first pass that counts; responses of the rows that are done already have been given."""
    counts = LabelCounts()
    for index, parsed in enumerate(read_opened(opened, format=name)):
        if isinstance(parsed.record, LabelledResponse):
            counts.add(parsed.record)
            if index < state.rows:
                counts.first(parsed.record)
    return counts


def _checked_target(target: Path, to: str, *, overwrite: bool, row_group: int) -> tuple[Format, str]:
    if to not in TARGETS:
        raise ConfigError(f"no format '{shorten(to)}' to write; known: {', '.join(TARGETS)}")
    ending = ending_of(target)
    if ending == ".csv" and to != "prompts":
        raise ConfigError(f"{target}: CSV holds prompts alone; write {to} as .parquet or .jsonl")
    if target.is_dir():
        raise ConfigError(f"{target} is a folder: give a file")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} is there already: give --overwrite, or another name")
    if row_group < 1:
        raise ConfigError(f"a row group of {row_group} rows cannot be: give at least 1")
    return TARGETS[to], ending


def _identity(opened: Opened, options: Sequence[Any]) -> str:
    """A digest that changes with the source's files and with every option that changes the target."""
    files = [(str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in opened.files]
    text = json.dumps([files, opened.names, list(options)], default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _check_csv(rows: Sequence[Row]) -> None:
    for row in rows:
        if row["messages"] is not None:
            raise RowError("not_expressible", "CSV holds prompts of one turn, and this has more")
        if strange := [tag for tag in row["tags"] if SEPARATOR in tag or tag != tag.strip() or not tag]:
            raise RowError("not_expressible", f"CSV cannot hold the tag '{shorten(strange[0])}'")


def _bad_row(parsed: Parsed, problem: Finding) -> Row:
    return {
        "file": _storable(parsed.file),
        "row": parsed.row,
        "kind": problem.kind,
        "reason": _storable(problem.message),
        "excerpt": _storable(parsed.excerpt),
    }


def _storable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _length(record: Record) -> int:
    """Characters of a record's texts."""
    texts: Iterator[str] = (turn["content"] for turn in record.prompt)
    answers = getattr(record, "responses", None) or (getattr(record, "response", ""),)
    return sum(map(len, texts)) + sum(map(len, answers))
