"""One row as it is in its file, before any format has looked at it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from learner.data.fields import RowError, shorten
from learner.data.kinds import finding
from learner.data.records import Finding


@dataclass(frozen=True)
class RawRow:
    """A row, or what kept one from being read; exactly one `learner.data.records.Parsed` comes of each."""

    row: int
    data: bytes | Mapping[str, Any] | None
    """A line of JSON that is not decoded yet, or named fields; None: see `problem`."""
    problem: Finding | None = None
    last: bool = False
    """The file's last line, which has no line break: if it is broken, the file was cut."""


def unusable(row: int, kind: str, message: str, data: bytes | Mapping[str, Any] | None = None) -> RawRow:
    """A row, or a place of the file, that cannot be read."""
    return RawRow(row, data, finding(kind, message))


def decoded(raw: RawRow) -> Mapping[str, Any]:
    """The row's fields; JSON is read strictly: no NaN, no key twice, no depth without end.

    Raises:
        RowError: no JSON object in UTF-8.
    """
    if raw.problem is not None or raw.data is None:
        raise ValueError("a row that was not read has no fields")
    if not isinstance(raw.data, bytes):
        return raw.data
    try:
        value = json.loads(raw.data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise RowError("bad_encoding", f"byte {error.start + 1} of the line is not UTF-8") from error
    except RecursionError as error:
        raise RowError("bad_json", "the line is nested too deeply") from error
    except json.JSONDecodeError as error:
        if raw.last and (error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")):
            raise RowError("truncated_file", f"the file ends in the middle of a line ({error.msg})") from error
        raise RowError("bad_json", f"no JSON: {error.msg} at character {error.pos + 1}") from error
    except ValueError as error:  # a number of thousands of digits
        raise RowError("bad_json", f"no JSON: {shorten(str(error))}") from error
    if not isinstance(value, dict):
        raise RowError("bad_json", "the line is JSON, but no object {…}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise RowError("bad_json", f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        earlier_keys: set[str] = set()
        twice = next(key for key, _value in pairs if key in earlier_keys or earlier_keys.add(key))  # type: ignore[func-returns-value]
        raise RowError("bad_json", f"the key '{shorten(twice)}' is there twice")
    return fields
