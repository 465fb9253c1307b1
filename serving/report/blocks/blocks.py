"""What a page is made of: figures, tables, pictures, notes, sections. Plain values; the template alone knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.judging.by_gold.figures import MEASURES

SHARES = frozenset(measure.name for measure in MEASURES if measure.share)
NOTHING = "–"


@dataclass(frozen=True)
class Figure:
    """One number as it is shown, and where in summary.json it comes from."""

    text: str
    interval: str = ""
    key: str = ""
    """Dotted path in summary.json; empty when the figure is not from there."""
    value: float | None = None
    n: int | None = None
    label: str = ""
    """Whose figure it is, where a cell shows several."""
    mark: Literal["", "better", "worse"] = ""
    """Said only where the paired difference excludes zero."""


@dataclass(frozen=True)
class Row:
    """A row: its header and, per column, the figures shown there."""

    header: str
    cells: tuple[tuple[Figure, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; `stacked` ones become cards on narrow screens."""

    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    kind: Literal["table"] = "table"
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A chart in both colour schemes, as data URIs."""

    title: str
    description: str
    """What it shows, for those who cannot see it."""
    light: str
    dark: str
    wide: bool = False
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    pictures: tuple[Picture, ...]
    kind: Literal["gallery"] = "gallery"


@dataclass(frozen=True)
class Note:
    """A sentence; `tone` colours it."""

    text: str
    tone: Literal["plain", "missing", "warning", "good", "bad"] = "plain"
    kind: Literal["note"] = "note"


@dataclass(frozen=True)
class Listing:
    """Preformatted text behind a disclosure."""

    caption: str
    text: str
    kind: Literal["listing"] = "listing"


@dataclass(frozen=True)
class Section:
    """A heading with blocks below it."""

    anchor: str
    title: str
    blocks: Sequence[Any]
    lead: str = ""


@dataclass(frozen=True)
class Tile:
    """A headline figure: before and after."""

    title: str
    before: Figure | None
    after: Figure
    note: str = ""


@dataclass(frozen=True)
class Page:
    """Everything the template needs."""

    title: str
    verdict: str
    tone: Literal["good", "bad", "open"]
    subtitle: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    conversations: Sequence[Any] = ()
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scored: bool = False
    """Whether the conversations were judged by score models, not by gold."""


def cell_figure(
    cell: Mapping[str, Any] | None, *, share: bool, key: str = "", label: str = "", signed: bool = False, mark: str = ""
) -> Figure:
    """Show a ``{value, low, high, n}`` cell; an absent or empty one is a dash."""
    if cell is None or cell.get("value") is None:
        return Figure(NOTHING, label=label)
    plus = "+" if signed else ""
    digits = 1 if share else 2

    def number(value: float) -> str:
        rounded = round((100 if share else 1) * value, digits) + 0.0  # + 0.0 turns -0.0 into 0.0
        return f"{rounded:{plus if rounded else ''}.{digits}f}".replace("-", "−")

    unit = ("\u00a0pts" if signed else "\u00a0%") if share else ""
    interval = "" if cell["low"] is None else f"[{number(cell['low'])}, {number(cell['high'])}]"
    return Figure(
        text=number(cell["value"]) + unit,
        interval=interval,
        key=key,
        value=cell["value"],
        n=cell["n"],
        label=label,
        mark=mark,  # type: ignore[arg-type]
    )


def plain(value: Any, digits: int = 2) -> Figure:
    """Show a number that has no interval, or a text."""
    if value is None:
        return Figure(NOTHING)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Figure(str(value))
    return Figure(f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}", value=float(value))


def quantity(value: float, share: bool, key: str) -> Figure:
    """Show a number without an interval, to three digits; a share in per cent."""
    return Figure(f"{100 * value:.3g} %" if share else f"{value:.3g}", key=key, value=value)
