"""`steelyard fetch`: bring a run's report and figures from the store it is kept in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from configs.exits import ConfigError


def fetch(
    run: Annotated[str, typer.Argument(help="A run's URL (s3://bucket/runs/name), or its name with --storage.")],
    storage: Annotated[
        str | None, typer.Option(help="URL or folder that holds runs; none: STEELYARD_STORAGE.", metavar="URL")
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder of run folders here.")] = Path("runs"),
    everything: Annotated[bool, typer.Option("--all", help="Models, samples and checkpoints too.")] = False,
) -> None:
    """Bring a run's report, summary and figures from a remote store."""
    from cluster.resources.connection import STORAGE_VARIABLE
    from cluster.run_folder.remote_store import RunStore

    place, name = storage or os.environ.get(STORAGE_VARIABLE), run
    if place is None or "/" in run:
        place, _, name = run.rstrip("/").rpartition("/")
    if not place or not name:
        raise ConfigError(f"{run}: which store? give a URL such as s3://bucket/runs/{run}, or --storage")
    if "://" not in place:
        place = str(Path(place).absolute())
    written = RunStore(place, name).fetch(to / name, everything=everything)
    if not written:
        raise ConfigError(f"{place}/{name}: no run is there; look at the name and the store's address")
    for path in written:
        typer.echo(str(path))
