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
    figures: dict[str, tuple[str, ScoreModelFigures]] = {}
    if run.summary.reward_model is not None:
        figures["reward"] = ("reward_model", run.summary.reward_model)
    figures |= {
        f"cost/{name}": (f"cost_models.{name}", model_figures)
        for name, model_figures in run.summary.cost_models.items()
    }
    if not figures:
        return Section("models", title, [Note("This run trained none.")])
    rows = tuple(
        Row(f"{name} ({model_figures.scorer})" if model_figures.scorer else name, _model_cells(key, model_figures))
        for name, (key, model_figures) in figures.items()
    )
    columns = ("Pair accuracy", "Sign accuracy", "Calibration error", "Platt slope, intercept", "Score mean ± spread")
    pictures = [calibration_picture(name, model_figures) for name, (_, model_figures) in figures.items()]
    shown_pictures = tuple(calibration for calibration in pictures if calibration is not None)
    on_data = any(model_figures.worth is not None for _, model_figures in figures.values())
    caption = "On pairs kept out of their training, by " + ("prompt" if on_data else "task")
    blocks: list[Any] = [Table(caption, "Model", columns, rows), *worth_blocks(figures)]
    shown_pictures += worth_pictures(figures)
    return Section("models", title, [*blocks, Gallery(shown_pictures)] if shown_pictures else blocks)


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
