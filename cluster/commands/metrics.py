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
        typer.echo(json.dumps([{**asdict(one), "exposed": one.exposed} for one in CATALOGUE], indent=1))
    else:
        for one in CATALOGUE:
            typer.echo(f"{one.exposed:<42} {one.kind:<10} {', '.join(one.labels):<14} {one.meaning}")
