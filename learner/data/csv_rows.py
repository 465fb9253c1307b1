"""Records of a CSV file. A quote that is never closed costs its own record, not the rest of the file."""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from learner.data.fields import MAX_ROW, shorten
from learner.data.lines import Line, read_lines
from learner.data.raw import RawRow, unusable

UNCLOSED_AT_MOST = 20
"""Quotes without an end after which a file is given up: each costs reading `MAX_ROW` bytes again."""
_UNCLOSED = "a quote is never closed"


class _Lines:
    """Physical lines with a way back, and what went wrong while they were read."""

    def __init__(self, path: Path) -> None:
        self._source = read_lines(path)
        self._ahead: deque[Line] = deque()
        self.taken: list[Line] = []
        self.size = 0
        self.problem: RawRow | None = None
        csv.field_size_limit(MAX_ROW)

    def __iter__(self) -> Iterator[str]:
        """Lines for one record; ends at the cap or at a problem, which the csv module sees as the end of the file."""
        while self.size <= MAX_ROW and (line := self._next()) is not None:
            self.taken.append(line)
            self.size += len(line[1])
            yield line[1].decode("utf-8")

    def _next(self) -> Line | None:
        if self._ahead:
            return self._ahead.popleft()
        if self.problem is not None:
            return None
        line = next(self._source, None)
        if isinstance(line, RawRow):
            self.problem = line
            return None
        return line

    def accept(self) -> None:
        """The taken lines made a record."""
        self.taken, self.size = [], 0

    def give_back(self) -> None:
        """Only the first taken line is spent."""
        self._ahead.extendleft(reversed(self.taken[1:]))
        self.accept()

    def raw(self) -> bytes:
        """The beginning of what was taken."""
        return b"".join(line[1] for line in self.taken[:8])[:4096]

    def exhausted(self) -> bool:
        """Whether no line is left; a problem that can be passed over was yielded before."""
        line = self._next()
        if line is not None:
            self._ahead.appendleft(line)
        return line is None


def read_csv(path: Path) -> Iterator[RawRow]:
    """The records below the heading, as named texts; errors are rows too. The heading has no number."""
    lines = _Lines(path)
    names, error = _record(lines)
    lines.accept()
    if names is None or (error := _wrong_heading(names)):
        kind = "bad_encoding" if error.startswith("byte") else "bad_csv"
        yield lines.problem or unusable(1, kind, f"the heading cannot be used: {error}")
        return
    names = [name.strip() for name in names]
    row = unclosed = 0
    while True:
        if lines.exhausted():
            if lines.problem is None:
                break
            row += 1
            yield RawRow(row, lines.problem.data, lines.problem.problem)
            lines.problem = None
            continue
        values, error = _record(lines)
        if values == []:  # a blank line
            lines.accept()
            continue
        row += 1
        if values is not None and len(values) == len(names):
            lines.accept()
            yield RawRow(row, dict(zip(names, values, strict=True)))
            continue
        why = f"{len(values)} fields where the heading has {len(names)}" if values is not None else error
        kind = "bad_encoding" if error.startswith("byte") else "bad_csv"
        yield unusable(row, kind, f"line {lines.taken[0][0]}: {why}", lines.raw())
        unclosed += error == _UNCLOSED
        if unclosed > UNCLOSED_AT_MOST:
            yield unusable(row + 1, "bad_csv", "too many quotes are never closed: the rest of the file is not read")
            return
        lines.give_back()
    if row == 0:
        yield unusable(1, "not_data", "the file has a heading and no record")


def _record(lines: _Lines) -> tuple[list[str] | None, str]:
    """The next record, or None and why there is none."""
    try:
        return next(csv.reader(iter(lines), strict=True), None), ""
    except UnicodeDecodeError as error:
        return None, f"byte {error.start + 1} is not UTF-8"
    except csv.Error as error:
        if "unexpected end" in str(error) or "field larger" in str(error):
            return None, _UNCLOSED
        return None, shorten(str(error))


def _wrong_heading(names: list[str]) -> str:
    """Why a heading cannot be used; empty: it can."""
    clean = [name.strip() for name in names]
    if twice := [name for name, times in Counter(clean).items() if times > 1]:
        return f"the column '{shorten(twice[0])}' is there twice"
    if "" in clean:
        return "a column has no name"
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        return f"one column, '{shorten(names[0])}': separate columns with commas"
    return ""
