"""Typed access to one row of untrusted data: what is wrong becomes a finding, never an exception that escapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from learner.data.kinds import finding
from learner.data.records import EXCERPT, Finding, Severity

MAX_ROW = 8 * 2**20
"""Bytes of one row of a file, and characters of its texts together; a longer one is set aside, not read into memory."""
_SHOWN = 40


class RowError(Exception):
    """The row cannot be used; caught where rows are read and turned into a finding."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.finding = finding(kind, printable(message))


class Notes:
    """What was found in one row; of each kind the first finding, so that counting findings counts rows."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, kind: str, message: str, severity: Severity | None = None) -> None:
        """Note a finding of a known kind."""
        self.keep(finding(kind, message, severity))

    def keep(self, finding: Finding) -> None:
        """Note a finding unless there is one of its kind."""
        self._found.setdefault(finding.kind, finding)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """In the order in which they came."""
        return tuple(self._found.values())

    @property
    def failed(self) -> bool:
        """Whether one of them is an error."""
        return any(finding.severity == "error" for finding in self._found.values())


class Fields:
    """The fields of one row, or of an object in it; getters raise `RowError` with the field's name."""

    def __init__(self, raw: Mapping[str, Any], where: str = "") -> None:
        self.raw = raw
        self._where = where

    def name(self, key: str) -> str:
        """The field as a message calls it."""
        return f"'{self._where}{key}'"

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw.get(key) is not None

    def get(self, key: str) -> Any:
        """The field, whatever it is, null excepted."""
        if key not in self.raw:
            raise RowError("missing_field", f"field {self.name(key)} is missing")
        if self.raw[key] is None:
            raise RowError("missing_field", f"field {self.name(key)} is null")
        return self.raw[key]

    def text(self, key: str) -> str:
        """A text that UTF-8 can hold."""
        return checked_text(self.name(key), self.get(key))

    def boolean(self, key: str) -> bool:
        """True or false; no 0, no "true"."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise wrong_type(self.name(key), value, "true or false")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number in a range."""
        return checked_integer(self.name(key), self.get(key), low, high)

    def items(self, key: str, read_entry: Callable[[str, Any], Any], *, count: int | None = None) -> tuple[Any, ...]:
        """A list; ``read_entry`` takes the place's name and its value."""
        value = self.get(key)
        if not isinstance(value, list | tuple):
            raise wrong_type(self.name(key), value, "a list")
        if count is not None and len(value) != count:
            raise RowError("wrong_type", f"{self.name(key)} has {len(value)} entries, not {count}")
        return tuple(read_entry(f"'{self._where}{key}[{index}]'", entry) for index, entry in enumerate(value))

    def flags(self, key: str, flag_names: Sequence[str]) -> tuple[str, ...]:
        """The names that are true in an object that has every known name, and no other, as true or false."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise wrong_type(self.name(key), value, "an object of true and false")
        inner = Fields(value, f"{self._where}{key}.")
        if unknown := sorted(str(name) for name in value if name not in flag_names):
            raise RowError("wrong_type", f"{self.name(key)} has the unknown category '{shorten(unknown[0])}'")
        return tuple(name for name in flag_names if inner.boolean(name))


def checked_text(name: str, value: Any) -> str:
    """The value as a text.

    Raises:
        RowError: no text, or half of a surrogate pair, which no UTF-8 file can hold.
    """
    if not isinstance(value, str):
        raise wrong_type(name, value, "a text")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"half a surrogate pair (U+{ord(value[error.start]):04X}) at character {error.start + 1}"
            raise RowError("bad_encoding", f"{name} has {half}") from error
    return value


def checked_integer(name: str, value: Any, low: int, high: int) -> int:
    """The value as a whole number from ``low`` to ``high``.

    Raises:
        RowError: something else.
    """
    expected = " or ".join(map(str, range(low, high + 1))) if high - low < 2 else f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong_type(name, value, expected)
    return value


def wrong_type(name: str, value: Any, expected: str) -> RowError:
    """The error for a value of another type or out of range."""
    return RowError("wrong_type", f"{name} is {described(value)}, not {expected}")


def described(value: Any) -> str:
    """A value in a message: numbers and short texts as they are, the rest by type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        big = isinstance(value, int) and abs(value) >= 10**_SHOWN
        return "a huge number" if big else f"the number {value}"
    if isinstance(value, str):
        return f'the text "{shorten(value)}"'
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def shorten(text: str) -> str:
    """A piece of untrusted text for a message: one printable line, not long."""
    line = printable(text[: _SHOWN + 1])
    return f"{line[:_SHOWN]}…" if len(text) > _SHOWN else line


def printable(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def excerpt_of(raw: bytes | Mapping[str, Any] | None) -> str:
    """The first `EXCERPT` characters of a raw row."""
    if raw is None:
        return ""
    if isinstance(raw, bytes):
        return raw[: 4 * EXCERPT].decode("utf-8", errors="replace")[:EXCERPT]
    parts, length = [], 0
    for key, value in raw.items():
        parts.append(f"{key}: {value[:EXCERPT] if isinstance(value, str) else repr(value)[:EXCERPT]}")
        length += len(parts[-1])
        if length > EXCERPT:
            break
    return ", ".join(parts)[:EXCERPT].encode("utf-8", errors="replace").decode("utf-8")


def oversized(fields: Any) -> bool:
    """Whether the texts of a row, at any depth, are together longer than `MAX_ROW` characters."""
    size, waiting = 0, [fields]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
            size += len(value)
        elif isinstance(value, str | bytes):
            size += len(value)
        if size > MAX_ROW:
            return True
    return False
