"""The reward and cost models of a run: accuracy, calibration, worth."""

from __future__ import annotations

from typing import Any

from serving.report.blocks.blocks import Figure, Gallery, Note, Row, Section, Table, cell_figure, quantity
from serving.report.by_gold.pictures import calibration_picture
from serving.report.by_models.score_model_quality import worth_blocks, worth_pictures
from serving.report.run_files import RunFiles
from serving.report.run_files import missing_note as _missing
from serving.summary import ScoreModelFigures


def score_models_section(run: RunFiles) -> Section:
    """Accuracy and calibration on pairs that were kept out of training."""
    title = "Reward and cost models"
    if run.summary is None:
        return Section("models", title, [_missing(run, "summary")])
    named: dict[str, tuple[str, ScoreModelFigures]] = {}
    if run.summary.reward_model is not None:
        named["reward"] = ("reward_model", run.summary.reward_model)
    named |= {f"cost/{name}": (f"cost_models.{name}", each) for name, each in run.summary.cost_models.items()}
    if not named:
        return Section("models", title, [Note("This run trained none.")])
    rows = tuple(
        Row(f"{name} ({each.scorer})" if each.scorer else name, _model_cells(key, each))
        for name, (key, each) in named.items()
    )
    columns = ("Pair accuracy", "Sign accuracy", "Calibration error", "Platt slope, intercept", "Score mean ± spread")
    pictures = [calibration_picture(name, each) for name, (_, each) in named.items()]
    found = tuple(each for each in pictures if each is not None)
    on_data = any(each.worth is not None for _, each in named.values())
    caption = "On pairs kept out of their training, by " + ("prompt" if on_data else "task")
    blocks: list[Any] = [Table(caption, "Model", columns, rows), *worth_blocks(named)]
    found += worth_pictures(named)
    return Section("models", title, [*blocks, Gallery(found)] if found else blocks)


def _model_cells(key: str, model: ScoreModelFigures) -> tuple[tuple[Figure, ...], ...]:
    def accuracy(name: str) -> Figure:
        value, interval = getattr(model, name), getattr(model, f"{name}_interval")
        cell = interval.model_dump() if interval else {"value": value, "low": None, "high": None, "n": None}
        return cell_figure(cell, share=True, key=f"{key}.{name}")

    error = (
        Figure("–")
        if model.calibration_error is None
        else quantity(model.calibration_error, True, f"{key}.calibration_error")
    )
    platt = (
        Figure("–")
        if model.calibration_slope is None
        else Figure(f"{model.calibration_slope:.2f}, {model.calibration_intercept or 0.0:.2f}")
    )
    spread = (
        Figure("–") if model.score_mean is None else Figure(f"{model.score_mean:.2f} ± {model.score_std or 0.0:.2f}")
    )
    return (accuracy("pair_accuracy"),), (accuracy("sign_accuracy"),), (error,), (platt,), (spread,)
