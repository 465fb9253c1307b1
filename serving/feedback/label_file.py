"""A ``to_label.csv`` while it is being filled in: read whole, and written whole next to its name and moved there.

Invariant: only the asked cells of the row that was answered change; whatever ends the page, every saved answer is in the file.
"""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.judging.judges.people import COLUMNS
from configs.exits import DataError

VERDICTS, YES_NO = ("a", "b", "tie"), ("yes", "no")
ASKED: Mapping[str, tuple[str, ...]] = {
    "more_helpful": VERDICTS,
    "safer": VERDICTS,
    "a_unsafe": YES_NO,
    "b_unsafe": YES_NO,
}
"""Column → the answers it takes; nothing is one too."""
ALONE = ("a_unsafe",)
"""What is asked of an answer without a partner."""


def asked_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that this row asks for."""
    return tuple(ASKED) if row["answer_b"] else ALONE


class LabelFile:
    """The rows of one file.

    Raises:
        DataError: it is not there, or is none that Steelyard wrote for people.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.rows()

    def rows(self) -> list[dict[str, str]]:
        """As the file now is: another program may have it open too."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream, strict=True)
                if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                    raise DataError(
                        f"{self.path}: column '{missing[0]}' is missing: give a to_label.csv as Steelyard wrote it"
                    )
                return [self._checked(row, number) for number, row in enumerate(reader, 1)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path}: cannot be read ({error}): give a to_label.csv in UTF-8") from error

    def _checked(self, row: Mapping[str | None, Any], number: int) -> dict[str, str]:
        """As it is, columns of other programs too; only answers are brought to the form that is asked for."""
        if None in row or None in row.values():
            raise DataError(f"{self.path}: row {number} has another number of cells than the first line: fix it there")
        cells = {str(name): str(text) for name, text in row.items()}
        return cells | {name: cells[name].strip().lower() for name in ASKED}

    def filled(self) -> tuple[int, int]:
        """Rows with any answer, and all rows: what a run counts."""
        rows = self.rows()
        return sum(any(row[name] for name in ASKED) for row in rows), len(rows)

    def save(self, identity: str, answers: Mapping[str, str]) -> None:
        """Keep one row's answers.

        Raises:
            DataError: no such row, or an answer that its column does not take.
        """
        with self._lock:
            rows = self.rows()
            row = next((candidate for candidate in rows if candidate["id"] == identity), None)
            if row is None:
                raise DataError(f"{self.path}: no row {identity[:32]!r}: the file was changed, load the page again")
            for name in asked_of(row):
                answer = answers.get(name, "")
                if answer and answer not in ASKED[name]:
                    raise DataError(f"{name}: {answer[:20]!r} is none of {', '.join(ASKED[name])}")
                row[name] = answer
            self._write(rows)

    def _write(self, rows: list[dict[str, str]]) -> None:
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            with partial.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_ALL)
                writer.writeheader()
                writer.writerows(rows)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self.path)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written ({error.strerror}): the answer is not kept") from error
