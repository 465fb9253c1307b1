"""`steelyard run`: the job in this very process, on this machine's own head."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import AsJson, DryRun, Overrides, checked_settings, say_valid, storage_of
from configs.load import dump_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.status import OnStatus


def run(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a configuration here, in the foreground; the same command goes on where it stopped."""
    settings = checked_settings(config, overrides)
    if dry_run:
        say_valid(settings, as_json=as_json)
        return
    raise typer.Exit(run_here(settings, storage_of(settings)))


def run_here(settings: RunSettings, storage: Path) -> int:
    """Run the job in this process against our own head, starting it if needed; returns the job's exit code."""
    from cluster.head import state_dir

    join_own_head(storage)
    resolved = state_dir() / "submitted" / f"{settings.name}.yaml"
    resolved.parent.mkdir(exist_ok=True)
    resolved.write_text(dump_settings(settings), encoding="utf-8")
    from cluster.job import main as job_main

    return int(job_main([str(resolved)], on_status=progress_lines()))


def progress_lines() -> OnStatus:
    """Shows a job of this very process: a line on stderr for each change of stage or step, between Ray's own."""
    from rich.console import Console

    from cluster.follow import LineView

    return LineView(Console(stderr=True)).show


def join_own_head(storage: Path) -> None:
    """Make this process a job of our own head, starting the head if needed. Ray must not have been imported yet."""
    from cluster.head import clean_environment, ensure_head, state_dir
    from cluster.jobs import STORAGE_VARIABLE

    head = ensure_head(state_dir())
    environment = clean_environment(os.environ) | head.environment() | {STORAGE_VARIABLE: str(storage)}
    os.environ.clear()
    os.environ.update(environment)  # before Ray is imported, and for as long as this process lives
