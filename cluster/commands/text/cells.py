"""A figure with its interval, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cell_text(cell: Mapping[str, Any] | None, *, share: bool) -> str:
    """``2.1 %`` over ``[1.2, 3.4]``, or ``2.64`` over ``[2.58, 2.70]``; a dash where nothing was measured."""
    if not cell or cell.get("value") is None:
        return "–"
    scale, digits = (100.0, 1) if share else (1.0, 2)

    def number(name: str) -> str:
        return f"{round(cell[name] * scale, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0

    value = f"{number('value')}{' %' if share else ''}"
    if cell.get("low") is None or cell.get("high") is None:
        return value
    return f"{value}\n[{number('low')}, {number('high')}]"
