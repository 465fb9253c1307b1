"""The declared zero of a cost model that no safety label trained: fitted on calibration pairs, and kept with the model.

Its raw score has no zero of its own (`learner.statistics.cost_zero`). From here on the folder's score is the raw one minus the
zero, for every reader that loads it whole, and every figure in the folder's documents is of that score.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from configs.exits import DataError
from configs.schema.data import ZeroSettings
from learner.models.score_models.folders import (
    SCORES,
    load_pair_scores,
    pair_scores_document,
    save_affine,
    write_document,
)
from learner.statistics.calibration import CALIBRATION
from learner.statistics.cost_zero import CostZero, fit_cost_zero
from learner.supervised.score_models.quality import PairLabels, label_columns

ZERO = "zero.json"
"""In a relative cost model's folder: `CostZero.document`, in units of the raw score."""
_MEANS = ("score_mean", "holdout_score_mean")
"""Metrics that move with the zero."""


def place_zero(
    folder: Path, data: Path, settings: ZeroSettings, metrics: dict[str, float], seed: int
) -> tuple[CostZero, dict[str, float]]:
    """Fit the zero of the trained model, or ensemble, in `folder`, and move its score there; once for every training.

    Args:
        data: the cost file that it was trained from; the ranked pairs of split ``calibration`` place the zero.
        metrics: of its training, raw.
        seed: of the bootstrap.

    Returns:
        The zero, and the metrics of the moved score. A calibration, which labels outside the training pairs may have
        allowed, is dropped: it belongs to the raw score.

    Raises:
        DataError: too few ranked calibration pairs, or the zero was placed already.
    """
    if (folder / ZERO).exists():
        raise DataError(f"{folder} has its zero already: train the cost model again")
    labels = PairLabels.of(parquet.read_table(data, columns=label_columns("cost")), str(data), "cost")
    scores, rows = load_pair_scores(folder), labels.calibration & (labels.rank_weights > 0)
    try:
        zero = fit_cost_zero(
            scores[0, rows], scores[1, rows], rule=settings.rule, quantile=settings.quantile, seed=seed
        )
    except ValueError as error:
        raise DataError(f"{data.name}: {error}: give more pairs, or raise splits.calibration") from error
    moved = {name: value - zero.value if name in _MEANS else value for name, value in metrics.items()}
    moved = {name: value for name, value in moved.items() if not name.startswith("calibration_")} | {"calibrated": 0.0}
    write_document(folder / SCORES, pair_scores_document(scores - zero.value))
    _move_normaliser(folder / "normaliser.json", zero.value)
    _move_training(folder / "training.json", zero.value, moved)
    (folder / CALIBRATION).unlink(missing_ok=True)
    save_affine(folder, scale=1.0, offset=-zero.value)
    write_document(folder / ZERO, zero.document())
    return zero, moved


def _move_normaliser(path: Path, value: float) -> None:
    document: dict[str, Any] = json.loads(path.read_text())
    write_document(path, document | {"mean": document["mean"] - value})


def _move_training(path: Path, value: float, metrics: dict[str, float]) -> None:
    document: dict[str, Any] = json.loads(path.read_text())
    histogram = document["score_histogram"]
    edges = [edge - value for edge in histogram["edges"]]
    write_document(path, document | {"score_histogram": histogram | {"edges": edges}, "metrics": metrics})
