"""What score models of a run on data are worth: against chance and length, by turns, and where a relative cost has its zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.report.blocks.blocks import Figure, Note, Picture, Row, Table, cell_figure, plain
from serving.report.by_gold.pictures import preference_picture
from serving.summary import PairWorth, ScoreModelFigures, ZeroFigures

Named = Mapping[str, tuple[str, ScoreModelFigures]]
"""Model as the report calls it -> its place in summary.json, and its figures."""


def worth_blocks(figures: Named) -> list[Any]:
    """Sentences and tables; nothing of a run on the sandbox."""
    judged = {
        name: (f"{key}.worth", model_figures.worth)
        for name, (key, model_figures) in figures.items()
        if model_figures.worth is not None
    }
    if not judged:
        return []
    notes = [
        Note(f"{name}: {worth.sentence}.", tone="warning" if worth.doubtful else "plain")
        for name, (_, worth) in judged.items()
    ]
    rows = tuple(Row(name, _against_length(key, worth)) for name, (key, worth) in judged.items())
    columns = (
        "Pair accuracy",
        "Length alone",
        "The rule",
        "Model alone right",
        "Length alone right",
        "p (McNemar)",
        "Calibration error",
    )
    tables = [Table("Rankings against the length of the responses, on the same pairs", "Model", columns, rows)]
    zeros = [
        _zero_note(name, model_figures.zero)
        for name, (_, model_figures) in figures.items()
        if model_figures.zero is not None
    ]
    return [*notes, *zeros, *tables, *_turns(judged)]


def worth_pictures(figures: Named) -> tuple[Picture, ...]:
    """Of every model the calibration of its preferences."""
    pictures = (preference_picture(name, model_figures) for name, (_, model_figures) in figures.items())
    return tuple(calibration for calibration in pictures if calibration is not None)


def _against_length(key: str, worth: PairWorth) -> tuple[tuple[Figure, ...], ...]:
    accuracy = worth.accuracy.model_dump() if worth.accuracy is not None else None
    accuracy_figure = cell_figure(accuracy, share=True, key=f"{key}.accuracy")
    error = _share(worth.calibration_error, f"{key}.calibration_error")
    length, comparison = worth.length, worth.comparison
    if length is None or comparison is None:
        nothing = plain(None)
        return (
            (accuracy_figure,),
            (nothing,),
            (plain(worth.length_missing),),
            (nothing,),
            (nothing,),
            (nothing,),
            (error,),
        )
    return (
        (accuracy_figure,),
        (_share(length.expected_accuracy, f"{key}.length.expected_accuracy"),),
        (plain(length.rule),),
        (_count(comparison.model_only, f"{key}.comparison.model_only"),),
        (_count(comparison.length_only, f"{key}.comparison.length_only"),),
        (Figure(f"{comparison.p_value:.2g}", key=f"{key}.comparison.p_value", value=comparison.p_value),),
        (error,),
    )


def _turns(judged: Mapping[str, tuple[str, PairWorth]]) -> list[Table]:
    """One row a model, one column a number of turns; the last one, 5, stands for more too."""
    numbers = sorted({turns for _, worth in judged.values() for turns in worth.by_turns}, key=int)
    if not numbers:
        return []
    rows = tuple(
        Row(name, tuple(_turn_cells(key, worth, turns) for turns in numbers)) for name, (key, worth) in judged.items()
    )
    columns = tuple(f"{turns} turn{'s' if turns != '1' else ''}" for turns in numbers)
    return [Table("Pair accuracy by number of user turns", "Model", columns, rows)]


def _turn_cells(key: str, worth: PairWorth, turns: str) -> tuple[Figure, ...]:
    sides = {"model": (f"{key}.by_turns", worth.by_turns)}
    if worth.length is not None:
        sides["length"] = (f"{key}.length.by_turns", worth.length.by_turns)
    return tuple(
        cell_figure(
            accuracies[turns].model_dump() if turns in accuracies else None,
            share=True,
            key=f"{place}.{turns}",
            label=label,
        )
        for label, (place, accuracies) in sides.items()
    )


def _zero_note(name: str, zero: ZeroFigures) -> Note:
    return Note(
        f"{name} is {zero.warning}. Its zero is {zero.method}: {zero.value:.2f} [{zero.low:.2f}, {zero.high:.2f}] of the raw "
        f"score. At or below it are {100 * zero.safer_below:.0f} % of the safer responses, above it "
        f"{100 * zero.less_safe_above:.0f} % of the less safe ones.",
        tone="warning",
    )


def _share(value: float | None, key: str) -> Figure:
    return plain(None) if value is None else Figure(f"{100 * value:.1f} %", key=key, value=value)


def _count(value: int, key: str) -> Figure:
    return Figure(f"{value:,}", key=key, value=value)
