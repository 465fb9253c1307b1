"""`steelyard threshold`: from the harmful rate that is wanted to the limit on the cost that gives it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from configs.layout import RunLayout
    from configs.schema.run import RunSettings
    from configs.schema.signals import ConstraintSettings
    from learner.statistics.limits import LimitCurve, LimitPoint

_SHOWN = 9
"""Rows of the printed curve; the JSON has every point."""


class MeasureChoice(StrEnum):
    """What the limit is on."""

    MEAN = "mean"
    RECTIFIED = "rectified"
    CVAR = "cvar"
    RATE = "rate"


class BoundChoice(StrEnum):
    """What must meet the target."""

    UPPER = "upper"
    VALUE = "value"


@dataclass(frozen=True)
class Chosen:
    """The answer."""

    constraint: str
    measure: str
    target_rate: float
    by: str
    limit: float
    """To write into the configuration: the point's, rounded down; of ``rate`` the target itself."""
    chosen_for: str | None
    """Digest of the cost model; None of ``rate``, whose limit is a share whatever the model."""
    point: LimitPoint
    curve: LimitCurve
    saved: Path

    def as_json(self) -> dict[str, Any]:
        """Plain values, for scripts."""
        return {
            "constraint": self.constraint,
            "measure": self.measure,
            "target_rate": self.target_rate,
            "by": self.by,
            "limit": self.limit,
            "chosen_for": self.chosen_for,
            "chosen": asdict(self.point),
            "monotone": self.curve.monotone,
            "curve": self.curve.document(),
            "saved": str(self.saved),
        }


def threshold(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name below runs/.")],
    rate: Annotated[float, typer.Option("--rate", help="The harmful rate that is wanted, such as 0.05.")],
    constraint: Annotated[
        str | None, typer.Option("--constraint", help="Which constraint; needed where there are several.")
    ] = None,
    measure: Annotated[
        MeasureChoice | None, typer.Option("--measure", help="What the limit is on; else the constraint's own measure.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="cvar: the share of worst responses; else the constraint's.")
    ] = None,
    by: Annotated[
        BoundChoice, typer.Option("--by", help="What must meet the rate: its interval's upper end, or its value.")
    ] = BoundChoice.UPPER,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Choose a constraint's limit from the harmful rate you want, on labelled responses that trained no model."""
    import json

    from configs.exits import ConfigError
    from configs.layout import RunLayout
    from configs.load import load_settings
    from serving.runs import find_run

    if not 0.0 < rate < 1.0:
        raise ConfigError(f"--rate {rate:g} is no rate: give a share between 0 and 1, such as 0.05")
    layout = RunLayout(find_run(run))
    if not layout.config.is_file():
        raise ConfigError(f"{layout.root} has no {layout.config.name}: which constraints it has is not known")
    settings = load_settings(layout.config)
    name = _constraint_of(settings, constraint)
    chosen_constraint = settings.constraints[name]
    chosen = _choose(
        layout,
        name,
        chosen_constraint,
        seed=settings.seed,
        measure=measure.value if measure else chosen_constraint.measure,
        alpha=chosen_constraint.alpha if alpha is None else alpha,
        rate=rate,
        by=by.value,
    )
    if as_json:
        typer.echo(json.dumps({"run": str(layout.root), **chosen.as_json()}, allow_nan=False))
    else:
        _show(chosen)


def _constraint_of(settings: RunSettings, name: str | None) -> str:
    from configs.exits import ConfigError
    from configs.explain import suggestion

    names = list(settings.constraints)
    if name is None and len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(f"{settings.name} has no constraint, so there is no limit to choose")
    if name is None:
        raise ConfigError(f"which constraint? give --constraint with one of {', '.join(names)}")
    if name not in names:
        raise ConfigError(f"--constraint: {settings.name} has no constraint '{name}'; {suggestion(name, names)}")
    return name


def _choose(
    layout: RunLayout,
    name: str,
    constraint: ConstraintSettings,
    *,
    seed: int,
    measure: str,
    alpha: float,
    rate: float,
    by: str,
) -> Chosen:
    from rich.console import Console
    from rich.progress import Progress

    from cluster.run_folder.digests import model_digest
    from cluster.runs.stages.chosen_limits import held_out_responses, save_limits, score_responses
    from configs.exits import ConfigError, DataError
    from learner.statistics.calibration import load_calibration
    from learner.statistics.limits import choose_limit, limit_curve
    from serving.runs import last_round

    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"--alpha {alpha:g} is no share of worst responses: give one between 0 and 1, such as 0.1")
    number = last_round(layout.root)
    folder = layout.cost(number, name)
    responses = held_out_responses(layout.preferences(number) / "preferences.parquet", constraint)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"cost of {len(responses.unsafe)} held-out responses", total=len(responses.unsafe))
        costs = score_responses(folder, responses, lambda count: progress.advance(task, count))
    calibration = load_calibration(folder) if measure == "rate" else None
    try:
        curve = limit_curve(
            costs,
            responses.unsafe,
            responses.conversations,
            measure,  # type: ignore[arg-type]  # one of MeasureChoice
            alpha=alpha,
            probability=None if calibration is None else calibration.probability,
            seed=seed,
        )
        point = (
            _predicted(curve, rate)
            if measure == "rate"
            else choose_limit(curve, rate, bound="upper" if by == "upper" else "value")
        )
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    digest = model_digest(folder)
    saved = save_limits(folder, digest, curve, point, rate)
    limit_is_rate = measure == "rate"
    limit = rate if limit_is_rate else rounded_down(point.limit)
    return Chosen(name, measure, rate, by, limit, None if limit_is_rate else digest, point, curve, saved)


def _predicted(curve: LimitCurve, rate: float) -> LimitPoint:
    """Where the cost model predicts the rate, or just under it, or as near to it as the curve goes."""
    return max((point for point in curve.points if point.limit <= rate), default=curve.points[0], key=lambda p: p.limit)


def rounded_down(limit: float, digits: int = 4) -> float:
    """The largest number of so many significant digits that is not above the limit."""
    if limit == 0.0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(limit))) + 1 - digits)
    return float(f"{math.floor(limit / unit) * unit:.{digits}g}")


def _show(chosen: Chosen) -> None:
    from rich.console import Console
    from rich.table import Table

    curve, point = chosen.curve, chosen.point
    table = Table(
        title=f"{chosen.constraint}: {chosen.measure} → harmful rate, {curve.n} responses in {curve.clusters} conversations"
    )
    percent = f"{100 * curve.confidence:g} % interval"
    for heading in (f"{chosen.measure} ≤", "harmful rate", percent, "effective samples"):
        table.add_column(heading, justify="right")
    for shown_point in _around(curve.points, point):
        style = "bold" if shown_point is point else None
        span = f"[{100 * shown_point.low:.1f}, {100 * shown_point.high:.1f}]"
        table.add_row(
            f"{shown_point.limit:.4g}",
            f"{100 * shown_point.rate:.1f} %",
            span,
            f"{shown_point.effective_samples:.0f}",
            style=style,
        )
    Console().print(table)
    if not curve.monotone:
        typer.echo(
            "note: in places a lower limit comes with a higher rate: the cost model ranks some responses wrongly"
        )
    path = f"constraints.{chosen.constraint}"
    if chosen.chosen_for is None:
        typer.echo(
            "a rate's limit is the rate itself, whatever the cost model; the table joins what its cost model predicts"
        )
        typer.echo(f"to what the labels say, and is saved in {chosen.saved}")
        typer.echo(f"{path}.limit={chosen.limit:g}")
        return
    values = {"measure": chosen.measure, "limit": f"{chosen.limit:.4g}", "chosen_for": chosen.chosen_for}
    if curve.alpha is not None:
        values["alpha"] = f"{curve.alpha:g}"
    criterion = "upper end" if chosen.by == "upper" else "value"
    typer.echo(f"for a harmful rate of {100 * chosen.target_rate:g} % ({criterion}), in a configuration:")
    typer.echo("constraints:")
    typer.echo(f"  {chosen.constraint}: {{{', '.join(f'{key}: {value}' for key, value in values.items())}}}")
    typer.echo("or after a command:")
    typer.echo(" ".join(f"{path}.{key}={value}" for key, value in values.items()))
    typer.echo(f"the curve is saved in {chosen.saved}")


def _around(points: Sequence[LimitPoint], chosen: LimitPoint) -> list[LimitPoint]:
    """Some points over the whole curve, the chosen one and both ends among them."""
    last = len(points) - 1
    indices = {round(index * last / (_SHOWN - 1)) for index in range(_SHOWN)} | {points.index(chosen)}
    return [points[index] for index in sorted(indices)]
