"""metrics.jsonl: one line per optimiser step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.exits import StoppedError


class NotFinite(StoppedError, ValueError):
    """A figure of a step is NaN or infinite; the step's own checks should have stopped it."""


class MetricsLog:
    """Appends to the file of one run; a resumed run drops the lines after its checkpoint first."""

    def __init__(self, path: Path, *, keep_steps: int = 0) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.kept = [line for text in _lines(path) if int((line := json.loads(text))["step"]) <= keep_steps]
        """Lines of the steps before a resume."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in self.kept))
        os.replace(temporary, path)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one step's line.

        Raises:
            NotFinite: a figure is not finite.
        """
        wrong = [name for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)]
        if wrong:
            raise NotFinite(
                f"step {line.get('step')}: the metrics {', '.join(wrong)} are not finite; go on from the last checkpoint with a "
                "lower learning rate"
            )
        with self._path.open("a") as file:
            file.write(json.dumps(dict(line)) + "\n")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
