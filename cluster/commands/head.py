"""`steelyard head`: our own Ray head on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import AsJson

if TYPE_CHECKING:
    from cluster.resources.local_head import Head

app = typer.Typer(
    no_args_is_help=True, help="Start, stop or look at the Ray head of this folder.", rich_markup_mode=None
)


@app.command()
def start() -> None:
    """Start it, unless it runs."""
    from cluster.resources.local_head import ensure_head, state_dir

    head = ensure_head(state_dir())
    typer.echo(f"runs: dashboard {head.dashboard_url} (pid {head.main.pid}, started in {head.started_seconds:.1f} s)")
    _say_token(head)


@app.command()
def stop(
    clean: Annotated[bool, typer.Option("--clean", help="Also delete its files: sessions, logs.")] = False,
) -> None:
    """Stop it, and nothing else on this machine."""
    from cluster.resources.local_head import remove_head_files, state_dir, stop_head

    typer.echo("stopped" if stop_head(state_dir()) else "no head of this folder runs")
    if clean:
        remove_head_files(state_dir())


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say whether it runs, and where its dashboard is."""
    from cluster.resources.local_head import find_head, state_dir

    head = find_head(state_dir())
    if as_json:
        typer.echo(head.model_dump_json(indent=1) if head else json.dumps(None))
    elif head is None:
        typer.echo("no head of this folder runs; start one: steelyard head start")
    else:
        typer.echo(f"runs: dashboard {head.dashboard_url} (pid {head.main.pid})")
        _say_token(head)


def _say_token(head: Head) -> None:
    if head.token_file is not None:
        typer.echo(f"the dashboard asks for the token in {head.token_file}")
