"""`steelyard export`: a run's figures for Prometheus, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.observability.telemetry.names import EXPORT_PORT


def export(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name below runs/; a comparison gives every arm.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="On loopback.")] = EXPORT_PORT,
    textfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write once, for node_exporter's textfile collector, and end.")
    ] = None,
) -> None:
    """Show a run, finished or going on, to a Prometheus: serve http://127.0.0.1:PORT/metrics until Ctrl-C."""
    from cluster.observability.telemetry.export import run_roots, serve, write_textfile
    from serving.runs import find_run

    roots = run_roots(find_run(run))
    if textfile is not None:
        write_textfile(roots, textfile)
        typer.echo(textfile)
        return
    server, thread = serve(roots, port)
    typer.echo(f"http://127.0.0.1:{port}/metrics shows {len(roots)} run(s); Ctrl-C ends it")
    try:
        thread.join()
    finally:
        server.shutdown()
