"""Which runs of the studies are there, what they say, and about how long the missing ones take."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.experiments.results.cells import TABLE, Cell, preset_settings
from cluster.experiments.results.plan import own_seconds, shared_seconds
from cluster.experiments.results.probe import same_code
from cluster.experiments.results.rows import Row, read_rows
from cluster.experiments.studies.catalogue import MODELS_ONLY, STUDIES, Study
from cluster.experiments.studies.effects import Finding, Verdict, find, together, verdict_line


@dataclass(frozen=True)
class StudyStanding:
    """One study and the rows it can be judged by."""

    study: Study
    rows: Mapping[Cell, Row]
    """Those with the figures that the study reads."""
    stale: Mapping[str, tuple[str, ...]]
    """Why, by the name of a row that other code, another configuration or another world has made: judged by, and said so."""
    minutes_left: float | None
    """Of the missing runs; None before any run was measured."""

    @property
    def missing(self) -> list[Cell]:
        """Runs without a fresh row, in the order in which they run."""
        return [cell for cell in self.study.cells() if cell not in self.rows or cell.name in self.stale]

    @property
    def minutes(self) -> float:
        """That the rows took which are there, without the stages that they share with others."""
        return math.fsum(_seconds(row) for row in self.rows.values()) / 60

    @property
    def findings(self) -> list[Finding]:
        """Every effect over the seeds that have it."""
        by_seed: dict[int, dict[str, Row]] = defaultdict(dict)
        for cell in self.study.cells():
            if cell in self.rows:
                by_seed[cell.seed][cell.arm] = self.rows[cell]
        return [find(effect, by_seed) for effect in self.study.effects]

    @property
    def verdict(self) -> Verdict:
        """Of the claim as a whole."""
        return together(self.findings)

    @property
    def line(self) -> str:
        """The verdict's one line."""
        return verdict_line(self.study.letter, self.findings, len(self.stale))

    def document(self) -> dict[str, Any]:
        """The same for a script."""
        return {
            "letter": self.study.letter,
            "name": self.study.name,
            "claim": self.study.claim,
            "verdict": str(self.verdict),
            "line": self.line,
            "effects": [
                {"title": finding.effect.title, "claim": finding.effect.claim_text, "by_seed": dict(finding.by_seed)}
                | dict(finding.interval)
                for finding in self.findings
            ],
            "runs": len(self.study.cells()),
            "missing": [cell.name for cell in self.missing],
            "stale": len(self.stale),
            "minutes": self.minutes,
            "minutes_left": self.minutes_left,
        }


def standings(folder: Path, code_digest: str, studies: Sequence[Study] = STUDIES) -> list[StudyStanding]:
    """Hold the rows in `folder` against the studies; the probes of changed code are next to it."""
    codes = same_code(folder.parent, code_digest)
    recorded = read_rows(folder, {TABLE}.union(*(study.presets for study in studies)))
    stale = {cell: reasons for cell, row in recorded.items() if (reasons := row.stale(codes))}
    fresh = {cell: row for cell, row in recorded.items() if cell not in stale}
    study_standings = []
    for study in studies:
        rows = usable(study, recorded)
        old = {cell.name: stale[cell] for cell in rows if cell in stale}
        study_standings.append(StudyStanding(study, rows, old, minutes_left(study, recorded, fresh)))
    return study_standings


def usable(study: Study, recorded: Mapping[Cell, Row]) -> dict[Cell, Row]:
    """The study's rows; one of the results table that lacks the figures which this study reads is made again."""
    of_study = {cell: recorded[cell] for cell in study.cells() if cell in recorded}
    return {
        cell: row
        for cell, row in of_study.items()
        if row.figures or (cell.preset == TABLE and cell.arm not in study.reads_figures_of)
    }


def minutes_left(study: Study, recorded: Mapping[Cell, Row], fresh: Mapping[Cell, Row]) -> float | None:
    """About how long the missing runs take: as long as that arm, or any arm, took on another seed.

    The stages that arms share count once for each seed and size of model that has no fresh row.
    """
    usable_rows = usable(study, fresh)
    missing = [cell for cell in study.cells() if cell not in usable_rows]
    whole = [row for row in recorded.values() if row.preset not in MODELS_ONLY]
    if not missing or not whole:
        return None if missing else 0.0
    seconds = math.fsum(_own_estimate(cell, list(recorded.values()), whole) for cell in missing)
    begun_runs = {_beginning(cell) for cell in fresh}
    shared = math.fsum(shared_seconds(row) for row in whole) / len(whole)
    return (seconds + shared * len({_beginning(cell) for cell in missing} - begun_runs)) / 60


def _seconds(row: Row) -> float:
    return row.seconds.get("reward_model", 0.0) if row.preset in MODELS_ONLY else own_seconds(row)


def _own_estimate(cell: Cell, recorded: Sequence[Row], whole: Sequence[Row]) -> float:
    trained = [row.seconds["reward_model"] for row in recorded if "reward_model" in row.seconds]
    if cell.preset in MODELS_ONLY and trained:
        return math.fsum(trained) / len(trained)
    alike = [row for row in recorded if (row.preset, row.arm) == (cell.preset, cell.arm)] or whole
    return math.fsum(own_seconds(row) for row in alike) / len(alike)


def _beginning(cell: Cell) -> tuple[int, str]:
    """Runs that are equal in this share their first stages."""
    return cell.seed, preset_settings(cell.preset).model.model_dump_json()
