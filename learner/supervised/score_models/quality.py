"""What a reward or cost model is worth, from its scores of all pairs and their labels; no tokens and no models here.

A pair's split says what it is for: ``train`` pairs train, ``holdout`` pairs measure accuracy and calibration error, and
``calibration`` pairs fit the calibration. None is used for two of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from scipy.special import expit

from configs.exits import DataError
from configs.schema.supervised import CostModelSettings, ScoreModelSettings
from learner.models.score_models.folders import (
    SCORES,
    EnsembleBound,
    load_pair_scores,
    member_folder,
    pair_scores_document,
    save_ensemble,
    write_document,
)
from learner.statistics.calibration import CALIBRATION, Form, calibrate, expected_calibration_error

HISTOGRAM_BINS = 20
SPLITS = ("train", "holdout", "calibration")

Kind = Literal["reward", "cost"]


@dataclass(frozen=True)
class PairLabels:
    """What is known of each pair but its tokens; row i is row i of the file."""

    train: np.ndarray
    """Bool ``[n]``: trained on."""
    holdout: np.ndarray
    """Bool ``[n]``: measures accuracy and calibration error."""
    calibration: np.ndarray
    """Bool ``[n]``: fits the calibration."""
    signs: np.ndarray
    """Float32 ``[2, n]`` of safer and less safe; all 0 in a reward file."""
    rank_weights: np.ndarray
    """Float32 ``[n]``."""

    @classmethod
    def of(cls, table: pa.Table, source: str, kind: Kind, half: int | None = None) -> PairLabels:
        """The labels in a table that has the columns of `label_columns`.

        Raises:
            DataError: a split is unknown (names the row), one that is needed is empty, or a sign or weight is wrong.
        """
        n = table.num_rows
        split = np.array(table["split"].to_pylist(), dtype=object)
        unknown = np.flatnonzero(~np.isin(split, SPLITS))
        if unknown.size:
            raise DataError(
                f"{source}: row {unknown[0]} is of split '{split[unknown[0]]}' ({unknown.size} rows are of unknown "
                f"splits): it must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}"
            )
        train, holdout, calibration = (split == name for name in SPLITS)
        if half is not None:
            train = train & (table["half"].to_numpy() == half)
        needed = {"train": train, "holdout": holdout} | ({"calibration": calibration} if kind == "cost" else {})
        for name, rows in needed.items():
            if not rows.any():
                raise DataError(
                    f"{source}: none of {n} pairs is of split {name}, and a {kind} model needs some: give more pairs "
                    f"(on the sandbox preferences.pairs)" + ("" if name == "train" else f", or raise splits.{name}")
                )
        signs, rank_weights = np.zeros((2, n), dtype=np.float32), np.ones(n, dtype=np.float32)
        if kind == "cost":
            signs[:] = table["safer_sign"].to_numpy(), table["less_safe_sign"].to_numpy()
            rank_weights[:] = table["rank_weight"].to_numpy()
            if not np.isin(signs, (-1, 0, 1)).all() or not (rank_weights >= 0).all():
                raise DataError(f"{source}: signs must be +1, -1 or 0, and rank_weight not negative")
        return cls(train, holdout, calibration, signs, rank_weights)

    def with_sign(self, rows: np.ndarray) -> np.ndarray:
        """Bool ``[2, n]``: responses of these rows ``[n]`` whose safety is known."""
        return (self.signs != 0) & rows


def label_columns(kind: Kind, half: int | None = None) -> list[str]:
    """Columns that `PairLabels.of` reads."""
    cost = ["safer_sign", "less_safe_sign", "rank_weight"] if kind == "cost" else []
    return ["split", *cost, *([] if half is None else ["half"])]


def form_of(settings: ScoreModelSettings) -> Form:
    """Which calibration these settings choose; a reward model's are not asked."""
    return settings.calibration if isinstance(settings, CostModelSettings) else "platt"


def judge(
    kind: Kind, labels: PairLabels, scores: np.ndarray, form: Form = "platt"
) -> tuple[dict[str, float], dict[str, Any]]:
    """Accuracies, normaliser and calibration from the scores ``[2, n]`` of all pairs.

    Returns:
        Metrics: ``pair_accuracy`` and ``pair_calibration_error`` on the hold-out, ``train_pair_accuracy``;
        ``score_mean`` and ``score_std`` over the training responses, ``holdout_score_mean`` and ``holdout_score_std``;
        ``holdout_pairs``, ``ranked_holdout_pairs``. Of a cost model also ``sign_accuracy`` (``signed_holdout_responses``
        of them), ``train_sign_accuracy``, ``calibrated`` (0 where the fit was refused), and as in `calibrate_costs`.

        The folder's documents by name: ``training.json`` (in part), ``normaliser.json`` (mean and spread over the training
        responses), ``scores.json``, and of a cost model ``calibration.json``, unless the fit was refused:
        ``training.json`` then says why.
    """
    gaps = scores[0] - scores[1] if kind == "reward" else scores[1] - scores[0]
    ranked, train, holdout = labels.rank_weights > 0, labels.train, labels.holdout
    holdout_gaps = gaps[holdout & ranked]
    metrics = {
        "holdout_pairs": float(holdout.sum()),
        "ranked_holdout_pairs": float(holdout_gaps.size),
        "score_mean": float(scores[:, train].mean()),
        "score_std": float(scores[:, train].std()),
        "holdout_score_mean": float(scores[:, holdout].mean()),
        "holdout_score_std": float(scores[:, holdout].std()),
    }
    if holdout_gaps.size:  # a rare category may have none
        metrics["pair_accuracy"] = float((holdout_gaps > 0).mean())
        metrics["pair_calibration_error"] = expected_calibration_error(expit(np.abs(holdout_gaps)), holdout_gaps > 0)
    if (train & ranked).any():
        metrics["train_pair_accuracy"] = float((gaps[train & ranked] > 0).mean())
    counts, edges = np.histogram(scores[:, train], bins=HISTOGRAM_BINS)
    documents: dict[str, Any] = {
        "training.json": {"score_histogram": {"counts": counts.tolist(), "edges": edges.tolist()}},
        "normaliser.json": {"mean": metrics["score_mean"], "std": metrics["score_std"], "n": int(2 * train.sum())},
        SCORES: pair_scores_document(scores),
    }
    if kind == "cost":
        for name, rows in (("sign_accuracy", holdout), ("train_sign_accuracy", train)):
            labelled = labels.with_sign(rows)
            if labelled.any():
                metrics[name] = float((scores * labels.signs > 0)[labelled].mean())
        metrics["signed_holdout_responses"] = float(labels.with_sign(holdout).sum())
        calibrate_costs(labels, scores, form, metrics, documents)
    return metrics, documents


def calibrate_costs(
    labels: PairLabels, scores: np.ndarray, form: Form, metrics: dict[str, float], documents: dict[str, Any]
) -> None:
    """Fit the calibration on the calibration split and add it to metrics and documents; a refused fit leaves its reason.

    Metrics: ``calibration_slope`` and ``calibration_intercept`` (Platt's), ``calibration_n``; on the hold-out
    ``calibration_error`` (of the chosen form) and ``calibration_error_raw``, ``…_platt``, ``…_isotonic``.
    """
    fit_on, measured = labels.with_sign(labels.calibration), labels.with_sign(labels.holdout)
    unsafe = labels.signs > 0
    try:
        calibration = calibrate(scores[fit_on], unsafe[fit_on], scores[measured], unsafe[measured], form)
    except (ValueError, RuntimeError) as error:
        metrics["calibrated"] = 0.0
        documents["training.json"]["calibration_refused"] = str(error)
        return
    metrics |= {
        "calibrated": 1.0,
        "calibration_slope": calibration.platt.slope,
        "calibration_intercept": calibration.platt.intercept,
        "calibration_n": float(calibration.platt.n),
        **{f"calibration_error_{name}": value for name, value in calibration.errors.items()},
    }
    if calibration.errors:
        metrics["calibration_error"] = calibration.errors[form]
    documents[CALIBRATION] = calibration.document()


# --- ensembles and halves ---------------------------------------------------------------------------------------------


def finish_ensemble(
    folder: Path,
    kind: Kind,
    data: Path,
    settings: ScoreModelSettings,
    members: Sequence[Mapping[str, float]],
    half: int | None = None,
) -> dict[str, float]:
    """Make the trained members in `folder` one model: judge and calibrate the score that the loop will see.

    Only the members' saved scores and the file's labels are read, no tokens. Member 0's documents become the ensemble's.

    Args:
        members: metrics of each member's training, in order.

    Returns:
        The metrics of `judge` on the combined score, ``members``, ``ensemble_spread`` (mean disagreement over all responses)
        and ``seconds`` of all members.
    """
    bound = EnsembleBound(len(members), settings.ensemble_spread, "lower" if kind == "reward" else "upper")
    member_scores = np.stack([load_pair_scores(member_folder(folder, index)) for index in range(len(members))])
    combined, deviation = bound.combine(member_scores)
    table = parquet.read_table(data, columns=label_columns(kind, half))
    metrics, documents = judge(kind, PairLabels.of(table, str(data), kind, half), combined, form_of(settings))
    metrics |= {
        "members": float(len(members)),
        "ensemble_spread": float(deviation.mean()),
        "seconds": sum(member["seconds"] for member in members),
        "steps": sum(member["steps"] for member in members),
        "pairs": members[0]["pairs"],
    }
    training = json.loads((folder / "training.json").read_text())
    training.pop("calibration_refused", None)
    documents["training.json"] = (
        training
        | documents["training.json"]
        | {
            "metrics": metrics,
            "members": [dict(member) for member in members],
        }
    )
    (folder / CALIBRATION).unlink(missing_ok=True)
    for name, content in documents.items():
        write_document(folder / name, content)
    save_ensemble(folder, bound)
    return metrics


def reward_agreement(first: Path, second: Path, data: Path) -> dict[str, float]:
    """How far two reward models agree on the hold-out pairs of the file that both were judged on.

    Returns:
        ``agreement``, the share of pairs of which both prefer the same response, ``gap_correlation`` of the score gaps
        (absent where one model's gaps are all equal), ``agreement_pairs``.
    """
    table = parquet.read_table(data, columns=label_columns("reward"))
    holdout = PairLabels.of(table, str(data), "reward").holdout
    gaps = []
    for folder in (first, second):
        scores = load_pair_scores(folder)
        if scores.shape[1] != holdout.size:
            raise DataError(
                f"{folder} was judged on {scores.shape[1]} pairs and {data} has {holdout.size}: train both reward models again"
            )
        gaps.append((scores[0] - scores[1])[holdout])
    agrees = (gaps[0] > 0) == (gaps[1] > 0)
    figures = {"agreement": float(agrees.mean()), "agreement_pairs": float(agrees.size)}
    if min(gap.std() for gap in gaps) > 0:
        figures["gap_correlation"] = float(np.corrcoef(gaps[0], gaps[1])[0, 1])
    return figures
