"""`steelyard metrics`: the catalogue of series."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from cluster.commands.common import AsJson


def metrics(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/metrics.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """List every series that a run gives to Prometheus."""
    from configs.metrics import CATALOGUE
    from configs.metrics import markdown as page

    if markdown:
        typer.echo(page(), nl=False)
    elif as_json:
        typer.echo(json.dumps([{**asdict(series), "exposed": series.exposed} for series in CATALOGUE], indent=1))
    else:
        for series in CATALOGUE:
            typer.echo(f"{series.exposed:<42} {series.kind:<10} {', '.join(series.labels):<14} {series.meaning}")
