"""The papers' plane by the run's own models, from what the loop learned from: its first steps next to its last.

The first batches are still SFT's answers, nearly; the last are the trained policy's. Both are on the loop's prompts, at its temperature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from serving.report.blocks.blocks import Picture
from serving.report.by_gold.pictures import Cloud, score_plane
from serving.report.run_files import RunFiles

STEPS = 3
"""Of the start and of the end."""
_FILE = re.compile(r"step-(\d+)-rank\d+\.parquet")


def rollout_planes(run: RunFiles) -> list[Picture]:
    """One picture per constraint; none of a run without rollouts."""
    files: dict[int, list[Path]] = {}
    for path in sorted(run.layout.rollouts_of(run.number).glob("step-*-rank*.parquet")):
        if match := _FILE.fullmatch(path.name):
            files.setdefault(int(match[1]), []).append(path)
    steps = sorted(files)
    if len(steps) < 2 * STEPS:
        return []
    ends = {"sft": steps[:STEPS], "policy": steps[-STEPS:]}
    rows = {
        model: [row for step in model_steps for path in files[step] for row in _read(path)]
        for model, model_steps in ends.items()
    }
    names = {
        "sft": f"steps {steps[0]} to {steps[STEPS - 1]}",
        "policy": f"steps {steps[-STEPS]} to {steps[-1]}",
    }
    return [score_plane(_clouds(rows, name), names, name) for name in _constraints(rows)]


def _read(path: Path) -> list[dict[str, float]]:
    """The file's scores; none where it cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            columns = [
                name for name in file.schema_arrow.names if name == "reward" or name.startswith(("cost/", "applies/"))
            ]
            rows: list[dict[str, float]] = file.read(columns=columns).to_pylist()
            return rows
    except (OSError, pa.ArrowInvalid):
        return []


def _constraints(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    keys = dict.fromkeys(key for model_rows in rows.values() for row in model_rows[:1] for key in row)
    return [key.removeprefix("cost/") for key in keys if key.startswith("cost/")]


def _clouds(rows: Mapping[str, Sequence[Mapping[str, float]]], constraint: str) -> dict[str, Cloud]:
    """(cost, reward) of the samples that the constraint applies to."""
    return {
        model: [
            (row[f"cost/{constraint}"], row["reward"])
            for row in model_rows
            if row.get(f"applies/{constraint}", 1.0) > 0
        ]
        for model, model_rows in rows.items()
    }
