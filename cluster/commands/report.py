"""`steelyard report`: write a run's report again."""

from __future__ import annotations

from typing import Annotated

import typer


def report(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name below runs/.")],
    baseline: Annotated[
        str | None, typer.Option(help="Of a run with arms: the arm that the others are compared with.")
    ] = None,
) -> None:
    """Write the HTML report of a run, finished or not, and print its path; a run with arms gets their comparison."""
    from configs.exits import ConfigError
    from serving.report import write_comparison, write_report
    from serving.runs import find_run

    root = find_run(run)
    if (root / "arms").is_dir():
        typer.echo(write_comparison(root, baseline))
        return
    if baseline is not None:
        raise ConfigError(f"--baseline compares arms, and {root.name} has none: leave it out")
    typer.echo(write_report(root))
