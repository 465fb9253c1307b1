"""`steelyard certify`: how far the certificate can be trusted, measured on made-up answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from learner.statistics.coverage import CoverageRow


def certify(
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Draw made-up answers of known rate and likeness, and count what holds.")
    ] = False,
    rate: Annotated[
        list[float] | None, typer.Option("--rate", help="True unsafe rates; default 0.01, 0.03, 0.06.")
    ] = None,
    correlation: Annotated[
        list[float] | None,
        typer.Option("--correlation", help="How alike answers to one conversation are; default 0, 0.1, 0.3, 0.65."),
    ] = None,
    clusters: Annotated[
        list[int] | None, typer.Option("--clusters", help="Conversations; default 20, 60, 120, 300.")
    ] = None,
    answers: Annotated[int, typer.Option("--answers", help="Answers to each conversation.")] = 4,
    simulations: Annotated[int, typer.Option("--simulations", help="Simulated certificates per row.")] = 500,
    confidence: Annotated[float, typer.Option("--confidence", help="Of bounds and intervals.")] = 0.95,
    limit: Annotated[float, typer.Option("--limit", help="The limit that is certified.")] = 0.05,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulation.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Show how often the certificate's bound and interval hold, where answers to one conversation are alike."""
    import json

    from configs.exits import ConfigError
    from learner.statistics.coverage import CLUSTERS, CORRELATIONS, RATES, simulate_coverage

    if not simulate:
        raise ConfigError(
            "steelyard certify needs --simulate: a run's own certificate is in its summary.json and report"
        )
    if not 0.5 < confidence < 1.0:
        raise ConfigError(f"--confidence {confidence:g} is no confidence: give one between 0.5 and 1, such as 0.95")
    if not 0.0 < limit < 1.0:
        raise ConfigError(f"--limit {limit:g} is no share: give one between 0 and 1, such as 0.05")
    shape = (tuple(rate or RATES), tuple(correlation or CORRELATIONS), tuple(clusters or CLUSTERS))
    try:
        cells = simulate_coverage(
            rates=shape[0],
            correlations=shape[1],
            clusters=shape[2],
            answers=answers,
            simulations=simulations,
            confidence=confidence,
            limit=limit,
            seed=seed,
        )
        rows = _with_progress(cells, len(shape[0]) * len(shape[1]) * len(shape[2]))
    except ValueError as error:
        raise ConfigError(f"steelyard certify --simulate: {error}") from error
    settings = {"answers": answers, "simulations": simulations, "confidence": confidence, "limit": limit, "seed": seed}
    if as_json:
        typer.echo(json.dumps([asdict(row) | settings for row in rows], allow_nan=False))
    else:
        _show(rows, answers, simulations, confidence, limit)


def _with_progress(cells: Iterable[CoverageRow], total: int) -> list[CoverageRow]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return list(
        track(cells, "simulating", total=total, console=console, transient=True, disable=not console.is_terminal)
    )


def _show(rows: list[CoverageRow], answers: int, simulations: int, confidence: float, limit: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    headers = ("rate", "alike", "conversations", "interval", "bound", "false")
    for header in (*headers, f"≤ {100 * limit:g} %"):
        table.add_column(header, justify="right")
    for row in rows:
        false = f"{100 * row.false_certificates:.1f} %" if row.rate > limit else "–"
        shares = (
            f"{100 * row.coverage:.1f} %",
            f"{100 * row.upper_coverage:.1f} %",
            false,
            f"{100 * row.certified:.1f} %",
        )
        table.add_row(f"{100 * row.rate:g} %", f"{row.correlation:g}", str(row.clusters), *shares)
    console = Console()
    console.print(table)
    console.print(
        f"{answers} answer{'s' if answers > 1 else ''} per conversation, {simulations} simulations a row. alike: correlation of two "
        f"answers to one conversation. interval and bound: how often they hold the true rate, {100 * confidence:g} % at least by "
        f"design. false: certificates of a rate above {100 * limit:g} %. ≤ {100 * limit:g} %: all certificates."
    )
