"""`steelyard run`: the job in this very process, on this machine's own head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import AsJson, DryRun, Overrides, checked_settings, say_valid, storage_of
from cluster.resources.connection import join_own_head
from configs.load import dump_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.run_folder.status import OnStatus


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
    from cluster.resources.local_head import state_dir

    join_own_head(storage)
    resolved = state_dir() / "submitted" / f"{settings.name}.yaml"
    resolved.parent.mkdir(exist_ok=True)
    resolved.write_text(dump_settings(settings), encoding="utf-8")
    from cluster.job import main as job_main

    return int(job_main([str(resolved)], on_status=progress_lines()))


def progress_lines() -> OnStatus:
    """Shows a job of this very process: a line on stderr for each change of stage or step, between Ray's own."""
    from rich.console import Console

    from cluster.jobs.follow import LineView

    return LineView(Console(stderr=True)).show
