"""One cell of the results: an arm of a preset with a seed; its settings, its digests, and the command that repeats it.

Imports no engine, so that looking at the results is instant.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cluster.run_folder.code_digest import ROOT, code_digest
from cluster.run_folder.digests import digest
from configs.load import arm_settings, load_settings
from configs.schema.run import DIRECT_ALGORITHMS, LOOP_ALGORITHMS, RunSettings

TABLE, SWEEP = "results", "limit_sweep"
BASELINE = "projected_rate"
FIXED = "fixed_"
"""Arms of this prefix are the weights that never move."""
FIGURES = ("cluster.runs.pipeline:stages_of", "cluster.experiments.studies.figures")
"""Entries of the code that makes a run's figures; commands, report and this package make none."""
_NOT_OF_THE_RESULT = {"name", "storage", "scratch", "reuse_from", "arms", "seeds"}


@dataclass(frozen=True, order=True)
class Cell:
    """An arm of a preset with one seed."""

    preset: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its row's file, without the suffix."""
        return f"{self.preset}-{self.arm}-seed{self.seed}"

    @property
    def is_fixed(self) -> bool:
        """Whether the weight never moves, as one of the seven that are searched through."""
        return self.preset == TABLE and self.arm.startswith(FIXED)

    def settings(self) -> RunSettings:
        """The resolved settings of this run."""
        return arm_settings(preset_settings(self.preset), self.arm, self.seed)

    def overrides(self) -> dict[str, Any]:
        """What the arm changes."""
        return dict(preset_settings(self.preset).arms[self.arm])

    def command(self) -> str:
        """A `steelyard run` line with the same settings, but for the run's name."""
        changes = [f"{key}={_as_yaml(value)}" for key, value in self.overrides().items()]
        name = self.name.replace("_", "-")
        command = [
            "steelyard",
            "run",
            self.preset,
            "arms={}",
            "seeds=[]",
            f"name={name}",
            f"seed={self.seed}",
            *changes,
        ]
        return shlex.join(command)


@cache
def preset_settings(preset: str) -> RunSettings:
    """A packaged comparison."""
    return load_settings(preset)


def cells_of(preset: str) -> list[Cell]:
    """Every cell that the preset declares, seed by seed."""
    settings = preset_settings(preset)
    return [Cell(preset, arm, seed) for seed in settings.seeds for arm in settings.arms]


def config_digest(settings: RunSettings) -> str:
    """sha256 (hex) of everything in the settings that may change a figure; the seed is part of it."""
    return digest(settings_of_result(settings))


def settings_of_result(settings: RunSettings) -> dict[str, Any]:
    """Everything in the settings that may change a figure, as JSON."""
    return relevant(settings.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT))


def relevant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the sections that only other algorithms read."""
    algorithm = settings["algorithm"]
    unread = {
        "direct": algorithm not in DIRECT_ALGORITHMS,
        "best_of_k": algorithm != "best_of_k",
        "selection": algorithm not in LOOP_ALGORITHMS,
    }
    return {name: value for name, value in settings.items() if not unread.get(name, False)}


def covers(present: Any, recorded: Any) -> bool:
    """Whether settings of today say what those of then said; a key that did not exist then takes its default silently."""
    if isinstance(recorded, dict) and isinstance(present, dict):
        return all(key in present and covers(present[key], value) for key, value in recorded.items())
    return bool(present == recorded)


@cache
def logic_digest(root: Path = ROOT) -> str:
    """Digest of the code that makes a run's figures: the stages of every kind of run, and what the studies read of them."""
    return code_digest(FIGURES, root)


def _as_yaml(value: object) -> str:
    """One line that YAML reads back as the same value."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()
