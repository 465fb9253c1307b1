"""From parsed rows to one file: what each row becomes is the caller's; counting, row groups and wholeness are here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.exits import DataError
from learner.data.records import Message, Parsed, PreferencePair, PromptOnly, Record
from learner.data.row_groups import ROWS, RowGroups
from learner.data.splits import SplitTally, Unit
from learner.data.tokenise import UnusableRow


@dataclass(frozen=True)
class SetReport:
    """What a writer did."""

    path: Path
    rows: int
    """Rows of the source."""
    quarantined: int
    """Rows of it that could not be read."""
    written: int
    """Rows of the file; a pair with two safe responses and no ranking gives two demonstrations."""
    left_out: dict[str, int]
    """Reason → rows that could be read and have no place in the file."""
    examples: dict[str, str]
    """Reason → the first such row, with its file and row."""
    cut: int
    """Responses that had no room and lost their end."""
    purposes: dict[str, int]
    """Purpose → rows of the file."""
    split: dict[str, Any]
    """`learner.data.splits.split_document` of the prompts in the file."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Made:
    """One row of the file of a training set."""

    columns: dict[str, Any]
    purpose: str
    prompt: Sequence[Message]
    values: int
    """List entries, for the size of row groups."""
    cut: int = 0
    """Responses in it that lost their end."""


Maker = Callable[[Record, str], Sequence[Made]]
"""(record, how messages call its prompt) → rows of the file. Raises `UnusableRow`."""


def write_set(
    rows: Iterable[Parsed], path: Path, schema: pa.Schema, by: Unit, make: Maker, progress: Callable[[int], object]
) -> SetReport:
    """Write what `make` makes of every good row; rows that it refuses are counted by the kind of `UnusableRow`.

    Raises:
        DataError: no row came out, or the file cannot be written; an older file stays then.
    """
    count = _Count(by)
    with RowGroups(path, schema) as file:
        for parsed in rows:
            for made_row in count.made(parsed, make):
                file.add(made_row.columns, made_row.values)
            if count.rows % ROWS == 0:
                progress(count.rows)
        if not file.rows:
            raise DataError(count.nothing(path))
    progress(count.rows)
    return count.report(path, file.rows)


class _Count:
    """What became of the rows so far."""

    def __init__(self, by: Unit) -> None:
        self.rows = 0
        self._quarantined = 0
        self._cut = 0
        self._left_out: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._purposes: Counter[str] = Counter()
        self._tally = SplitTally(by)

    def made(self, parsed: Parsed, make: Maker) -> Sequence[Made]:
        """Rows of the file, of one row of the source."""
        self.rows += 1
        if parsed.record is None or parsed.error is not None:
            self._quarantined += 1
            return ()
        try:
            made_rows = make(parsed.record, _name(parsed))
        except UnusableRow as error:
            self._left_out[error.kind] += 1
            self._examples.setdefault(error.kind, f"{parsed.file}: row {parsed.row}: {error}")
            return ()
        for made_row in made_rows:
            self._cut += made_row.cut
            self._purposes[made_row.purpose] += 1
            self._tally.add(made_row.purpose, made_row.prompt)
        return made_rows

    def nothing(self, path: Path) -> str:
        """Why there is no file."""
        if not self._left_out:
            return f"{path.name}: none of {self.rows} rows of the source can be read; see: steelyard data check"
        (kind, most_rows), *_others = self._left_out.most_common(1)
        return (
            f"{path.name}: none of {self.rows} rows has a place in it; {most_rows} because of: {self._examples[kind]}"
        )

    def report(self, path: Path, written: int) -> SetReport:
        """The whole of it."""
        return SetReport(
            path=path,
            rows=self.rows,
            quarantined=self._quarantined,
            written=written,
            left_out=dict(sorted(self._left_out.items())),
            examples=dict(sorted(self._examples.items())),
            cut=self._cut,
            purposes=dict(sorted(self._purposes.items())),
            split=self._tally.document(),
        )


def _name(parsed: Parsed) -> str:
    """How messages call a row's prompt."""
    record = parsed.record
    identity = record.pair_id if isinstance(record, PreferencePair) else None
    identity = record.prompt_id if isinstance(record, PromptOnly) else identity
    return identity or str(parsed.row)
