"""`steelyard why`: what one sample was taught, token by token."""

from __future__ import annotations

from typing import Annotated

import typer


def why(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name below runs/.")],
    sample: Annotated[str | None, typer.Option("--sample", help="The sample's id; --list shows them.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the samples instead.")] = False,
    step: Annotated[int | None, typer.Option(help="With --list: only this step's.")] = None,
    round_number: Annotated[
        int | None, typer.Option("--round", min=1, help="Of a run of several rounds: this one's, not the last.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Show one sample: prompt, response, reward, costs, multipliers, and the advantage of every token."""
    import json

    from rich.console import Console

    from configs.exits import ConfigError
    from serving.explain.why import explain, list_samples, render
    from serving.runs import find_run

    root = find_run(run)
    if listing:
        rows = list_samples(root, step, round_number)
        if as_json:
            typer.echo(json.dumps(rows))
        for row in () if as_json else rows:
            scores = "  ".join(
                f"{name} {row[name]:+.2f}" for name in row if name == "reward" or name.startswith("cost/")
            )
            typer.echo(f"{row['request_id']}  step {row['step']}  {scores}")
        return
    if sample is None:
        raise ConfigError("which sample? give --sample ID; `--list` shows the ids")
    story = explain(root, sample, round_number)
    if as_json:
        typer.echo(json.dumps(story.as_json()))
    else:
        Console().print(render(story))
