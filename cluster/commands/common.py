"""What several verbs share: their arguments, reading a configuration, and a run's place on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import DIRECT_ALGORITHMS, RunSettings

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as ppo.steps=20.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything that can be checked, start nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def finite(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """Callback of options that take a number: inf passes any `min`, and nan what click's own comparisons refuse.

    Raises:
        ConfigError: it is one of these.
    """
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"{parameter.opts[-1]} {value}: give a finite number")
    return value


def checked_settings(config: str, overrides: list[str] | None) -> RunSettings:
    """The resolved configuration, checked against its world or files too; imports no engine.

    Raises:
        ConfigError, DataError: one line with key, reason and fix.
    """
    from cluster.inputs.sources import check_inputs

    settings = load_settings(config, overrides or ())
    check_inputs(settings)
    return settings


def storage_of(settings: RunSettings) -> Path:
    """Folder of run folders: the configured one, that in which a remote store's runs are worked on, else ``runs/`` here."""
    if isinstance(settings.storage, str):
        from cluster.run_folder.remote_store import working_folder

        return working_folder(settings.storage, settings.scratch)
    return settings.storage or Path.cwd() / "runs"


def layout_of(settings: RunSettings) -> RunLayout:
    """Where this run's files are."""
    return RunLayout(storage_of(settings) / settings.name)


def sentence(settings: RunSettings) -> str:
    """The configuration's objective and constraints as one sentence."""
    scorer = settings.objective.scorer
    reward_source = settings.objective.signal if scorer is None else scorer.python or scorer.path
    goal = "minimise cost" if settings.objective.signal == "none" else f"maximise {reward_source}"
    limits = []
    for name, constraint in settings.constraints.items():
        prompts = f"{', '.join(constraint.subset)} prompts" if constraint.subset else "every prompt"
        dual = f", multiplier fixed at {constraint.dual.initial:g}" if constraint.dual.form == "fixed" else ""
        limits.append(f"{constraint.measure} of {name} ≤ {constraint.limit:g} over {prompts}{dual}")
    subject = f" subject to {'; '.join(limits)}" if limits else " with no constraint"
    arms = f"; {len(settings.arms)} arms x {len(settings.seeds) or 1} seeds" if settings.arms else ""
    return f"{settings.name}: {goal}{subject} ({_effort(settings)}, seed {settings.seed}{arms})"


def _effort(settings: RunSettings) -> str:
    """The algorithm, and how much of it."""
    if settings.algorithm in DIRECT_ALGORITHMS:
        return f"{settings.algorithm}, {settings.direct.epochs} epochs over the pairs"
    if settings.algorithm == "best_of_k":
        return f"the best of {settings.best_of_k.k} answers"
    return f"{settings.algorithm}, {settings.ppo.steps} steps of {settings.ppo.batch_size}"


def say_valid(settings: RunSettings, *, as_json: bool) -> None:
    """The answer of a dry run."""
    if as_json:
        typer.echo(json.dumps(settings.model_dump(mode="json")))
    else:
        typer.echo(f"valid — {sentence(settings)}")
