"""What is there, what is stale, what is missing, and about how long the rest takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.experiments.results.cells import Cell
from cluster.experiments.results.plan import Plan, Scope, make_plan, seconds_left
from cluster.experiments.results.probe import same_code
from cluster.experiments.results.rows import Row, read_rows


@dataclass(frozen=True)
class Standing:
    """The rows against the plan."""

    rows: Mapping[Cell, Row]
    stale: Mapping[str, tuple[str, ...]]
    """Reasons by the name of a stale row's cell."""
    plan: Plan

    @property
    def fresh(self) -> dict[Cell, Row]:
        """Rows that the present tree would give again."""
        return {cell: row for cell, row in self.rows.items() if cell.name not in self.stale}

    def state(self, cell: Cell) -> str:
        """``fresh``, ``stale (code)`` or ``missing``."""
        if cell not in self.rows:
            return "missing"
        reasons = self.stale.get(cell.name)
        return f"stale ({', '.join(reasons)})" if reasons else "fresh"

    @property
    def minutes_left(self) -> float | None:
        """Of the plan's cells without a fresh row; None before anything was measured."""
        seconds = seconds_left(self.plan, self.rows, self.fresh)
        return None if seconds is None else seconds / 60

    def counts(self) -> dict[str, int]:
        """Cells of the plan by state, the runs of a best weight that is not known yet among the missing."""
        states = [self.state(cell).split()[0] for cell in self.plan.cells]
        by_state = {name: states.count(name) for name in ("fresh", "stale", "missing")}
        return by_state | {"missing": by_state["missing"] + self.plan.undecided}

    def sentence(self) -> str:
        """``12 of 43 rows are there and fresh, 1 is stale, 30 are missing; about 95 minutes are left``."""
        counts = self.counts()
        counted = (
            f"{counts['fresh']} of {sum(counts.values())} rows are there and fresh, {counts['stale']} stale, "
            f"{counts['missing']} missing"
        )
        if counts["fresh"] == sum(counts.values()):
            return counted
        minutes = self.minutes_left
        return f"{counted}; " + (
            "how long they take is not known yet" if minutes is None else f"about {minutes:.0f} minutes are left"
        )

    def as_json(self) -> dict[str, Any]:
        """The same for a script."""
        cells = [
            {
                "preset": cell.preset,
                "arm": cell.arm,
                "seed": cell.seed,
                "state": self.state(cell),
                "command": cell.command(),
            }
            for cell in self.plan.cells
        ]
        return {"cells": cells, "undecided": self.plan.undecided, **self.counts(), "minutes_left": self.minutes_left}


def standing(folder: Path, scope: Scope, code_digest: str) -> Standing:
    """Read the rows and hold them against the plan of `scope`; the probes are next to their folder."""
    rows, codes = read_rows(folder), same_code(folder.parent, code_digest)
    stale = {cell.name: reasons for cell, row in rows.items() if (reasons := row.stale(codes))}
    fresh = {cell: row for cell, row in rows.items() if cell.name not in stale}
    return Standing(rows, stale, make_plan(scope, fresh))
