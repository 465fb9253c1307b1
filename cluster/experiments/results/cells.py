"""One cell of the results: an arm of a preset with a seed; its settings, its digests, and the command that repeats it.

Imports no engine, so that looking at the results is instant.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cluster.run_folder.digests import digest
from configs.load import arm_settings, load_settings
from configs.schema.run import DIRECT_ALGORITHMS, LOOP_ALGORITHMS, RunSettings

TABLE, SWEEP = "results", "limit_sweep"
BASELINE = "projected_rate"
FIXED = "fixed_"
"""Arms of this prefix are the weights that never move."""
CODE = (
    "cluster/runs/stages",
    "cluster/runs/answers/draw.py",
    "cluster/runs/loop/constraints.py",
    "cluster/runs/answers/judge_by_gold.py",
    "cluster/runs/loop/ppo_loop.py",
    "cluster/inputs/file_prompts.py",
    "cluster/inputs/sandbox_prompts.py",
    "cluster/inputs/sampler.py",
    "cluster/runs/rounds",
    "cluster/runs/answers/judge_by_models.py",
    "cluster/run_folder/digests.py",
    "cluster/runs/signals.py",
    "cluster/experiments/studies/figures.py",
)
"""What makes a run's figures, with all of `learner` and `actors` that it imports; commands, report and this package make none."""
STARTED = ("cluster/resources/engines.py",)
"""What brings the actors into a run: followed for its imports, not counted itself."""
COUNTED = ("learner", "actors")
"""Rooms whose imported modules count."""
_ROOT = Path(__file__).resolve().parents[3]
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
        words = ["steelyard", "run", self.preset, "arms={}", "seeds=[]", f"name={name}", f"seed={self.seed}", *changes]
        return shlex.join(words)


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


def covers(present: Any, then: Any) -> bool:
    """Whether settings of today say what those of then said; a key that did not exist then takes its default silently."""
    if isinstance(then, dict) and isinstance(present, dict):
        return all(key in present and covers(present[key], value) for key, value in then.items())
    return bool(present == then)


@cache
def logic_digest(root: Path = _ROOT) -> str:
    """sha256 (hex) of what the sources behind a run's figures do: comments, docstrings and layout do not count.

    A reworded sentence makes no figure stale, nor does a module that no run imports. Equal for equal sources under one
    minor version of Python.
    """
    return digest({path: _logic(root / path) for path in figure_sources(root)})


@cache
def figure_sources(root: Path = _ROOT) -> tuple[str, ...]:
    """The sources behind a run's figures, relative to `root`, in order."""
    named = {path for place in CODE for path in _files(root, place)}
    reached, waiting = set(), [*named, *(root / place for place in STARTED)]
    while waiting:
        path = waiting.pop()
        if path not in reached and path.exists():
            reached.add(path)
            waiting += _imported(root, path)
    counted = named | {path for path in reached if path.relative_to(root).parts[0] in COUNTED}
    return tuple(sorted(str(path.relative_to(root)) for path in counted))


def _files(root: Path, place: str) -> list[Path]:
    path = root / place
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _imported(root: Path, path: Path) -> list[Path]:
    """Files of the project that a source imports, at its top or inside a function."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    places = [root.joinpath(*name.split(".")) for name in names]
    return [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]


def _logic(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a bare text is a docstring of its module, class, function or field
            node.body = [each for each in body if not _is_text(each)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _as_yaml(value: object) -> str:
    """One line that YAML reads back as the same value."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()
