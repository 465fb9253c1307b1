"""`steelyard submit`: the job on a Ray cluster, through its job API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.common import AsJson, DryRun, Overrides, checked_settings, say_valid, storage_of
from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.schema.run import RunSettings


def submit(
    config: Annotated[str | None, typer.Argument(help="A YAML file, or the name of a preset.")] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of the cluster, such as http://head:8265; none: our own.")
    ] = None,
    stop: Annotated[
        str | None, typer.Option(metavar="RUN", help="Stop the job of this run; it can be resumed.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with this run, as it was configured.")
    ] = None,
    watch: Annotated[bool, typer.Option("--follow/--no-follow", help="Show the run until it ends.")] = True,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Submit a configuration as a Ray job and follow it; the same command goes on where it stopped."""
    if sum(given is not None for given in (config, stop, resume)) != 1:
        raise ConfigError("give one of: a configuration, --stop RUN, --resume RUN")
    if stop is not None:
        _stop(stop, address)
        return
    settings = checked_settings(config, overrides) if config else _resumed_settings(str(resume), overrides)
    storage = storage_of(settings)
    if address is not None and settings.storage is None:
        raise ConfigError("storage: a remote cluster needs a folder that every node shares; give storage=/path")
    if dry_run:
        say_valid(settings, as_json=as_json)
        return
    raise typer.Exit(_submit(settings, storage, address, watch=watch and not as_json, as_json=as_json))


def _submit(settings: RunSettings, storage: Path, address: str | None, *, watch: bool, as_json: bool) -> int:
    from cluster import jobs
    from cluster.follow import follow, print_failure

    console = Console()
    url = _dashboard(address, start=True)
    client = jobs.connect(url)
    if running := jobs.jobs_of_run(client, settings.name):
        raise ConfigError(
            f"name: run '{settings.name}' already runs as job {running[0].id}; follow, stop it, or choose another name"
        )
    job = jobs.submit(client, settings, storage=storage, local=address is None)
    layout = RunLayout(storage / settings.name)
    if as_json:
        typer.echo(json.dumps({"job": job.id, "run": settings.name, "folder": str(layout.root), "dashboard": url}))
        return 0
    console.print(f"Submitted {settings.name} as job {job.id}; dashboard {url}", highlight=False, soft_wrap=True)
    if not watch:
        return 0
    if not storage.is_dir() and address is not None:
        console.print(f"{storage} is not on this machine: what follows is the job's state only", highlight=False)
    followed = follow(job, layout.status, console, look_again=f"cat {layout.status}")
    if followed.detached:
        return 0
    if followed.exit_code:
        print_failure(job, followed.exit_code, console)
    else:
        console.print(f"Finished; its files are in {layout.root}", highlight=False, soft_wrap=True)
    return followed.exit_code or 0


def _stop(run: str, address: str | None) -> None:
    from cluster import jobs

    client = jobs.connect(_dashboard(address, start=False))
    running = jobs.jobs_of_run(client, run)
    if not running:
        raise ConfigError(f"--stop {run}: no job of that run is active")
    for job in running:
        job.stop()
        typer.echo(f"asked job {job.id} to stop; go on later: steelyard submit --resume {run}")


def _resumed_settings(run: str, overrides: list[str] | None) -> RunSettings:
    """A run's own configuration, kept in the place where the run is: under ``runs/``, or the folder given."""
    layout = RunLayout(Path(run).absolute() if "/" in run else Path.cwd() / "runs" / run)
    if not layout.config.is_file():
        raise ConfigError(f"--resume {run}: no {layout.config}; give the name of a run under runs/, or its folder")
    settings = checked_settings(str(layout.config), overrides)
    return settings.model_copy(update={"storage": layout.root.parent})


def _dashboard(address: str | None, *, start: bool) -> str:
    from cluster.head import ensure_head, find_head, state_dir

    if address is not None:
        return address
    head = ensure_head(state_dir()) if start else find_head(state_dir())
    if head is None:
        raise ConfigError("no Ray head of this folder runs; give --address of the cluster")
    return head.dashboard_url
