"""A relative cost's zero: where it is placed, and that nothing in the folder is left in the raw score's unit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.exits import DataError
from configs.schema.data import ZeroSettings
from configs.schema.supervised import CostModelSettings
from learner.models.score_models.folders import Affine, affine_of, load_pair_scores, member_folder
from learner.supervised.score_models.declared_zero import place_zero
from learner.supervised.score_models.quality import PairLabels, finish_ensemble, judge, label_columns

N = 60


def pairs(folder: Path, **changes) -> Path:
    columns = {
        "split": [("train", "holdout", "calibration")[index % 3] for index in range(N)],
        "safer_sign": [0] * N,
        "less_safe_sign": [0] * N,
        "rank_weight": [1.0] * N,
    }
    parquet.write_table(pa.table(columns | changes), folder / "cost-harm.parquet")
    return folder / "cost-harm.parquet"


def trained(folder: Path, data: Path, scores: np.ndarray) -> dict[str, float]:
    """A cost model's folder as training leaves it."""
    folder.mkdir(parents=True)
    labels = PairLabels.of(parquet.read_table(data, columns=label_columns("cost")), str(data), "cost")
    metrics, documents = judge("cost", labels, scores)
    documents["training.json"]["metrics"] = metrics
    for name, content in documents.items():
        (folder / name).write_text(json.dumps(content))
    return metrics | {"seconds": 1.0, "steps": 1.0, "pairs": 20.0}


def raw_scores(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, N)) + np.array([[4.0], [6.0]])


def test_everything_in_the_folder_moves_by_the_zero_of_the_calibration_pairs(tmp_path: Path) -> None:
    data, raw = pairs(tmp_path), raw_scores()
    metrics = trained(tmp_path / "cost", data, raw)
    zero, moved = place_zero(tmp_path / "cost", data, ZeroSettings(), metrics, seed=1)
    kept = np.arange(N) % 3 == 2
    assert zero.value == pytest.approx((np.median(raw[0, kept]) + np.median(raw[1, kept])) / 2) and zero.n == 20
    assert affine_of(tmp_path / "cost") == Affine(1.0, -zero.value)
    np.testing.assert_allclose(load_pair_scores(tmp_path / "cost"), raw - zero.value)
    again, documents = judge("cost", *_labels_and(data, raw - zero.value))
    for name in ("score_mean", "score_std", "holdout_score_mean", "holdout_score_std", "pair_accuracy"):
        assert moved[name] == pytest.approx(again[name]), name
    normaliser = json.loads((tmp_path / "cost" / "normaliser.json").read_text())
    assert normaliser == pytest.approx(documents["normaliser.json"])
    training = json.loads((tmp_path / "cost" / "training.json").read_text())
    assert training["score_histogram"]["edges"] == pytest.approx(documents["training.json"]["score_histogram"]["edges"])
    assert training["metrics"] == moved and moved["seconds"] == 1.0
    assert json.loads((tmp_path / "cost" / "zero.json").read_text()) == zero.document()


def _labels_and(data: Path, scores: np.ndarray) -> tuple[PairLabels, np.ndarray]:
    return PairLabels.of(parquet.read_table(data, columns=label_columns("cost")), str(data), "cost"), scores


def test_the_rule_and_its_quantile_are_the_settings(tmp_path: Path) -> None:
    data, raw = pairs(tmp_path), raw_scores()
    for name, settings in (("q", ZeroSettings(rule="quantile", quantile=0.9)), ("s", ZeroSettings(rule="separating"))):
        zero, _ = place_zero(tmp_path / name, data, settings, trained(tmp_path / name, data, raw), seed=0)
        assert zero.rule == settings.rule
        if settings.quantile:
            assert zero.value == pytest.approx(np.quantile(raw[:, np.arange(N) % 3 == 2], 0.9))


def test_an_ensemble_gets_one_zero_of_its_combined_score(tmp_path: Path) -> None:
    data, folder, settings = pairs(tmp_path), tmp_path / "cost", CostModelSettings(ensemble=2, ensemble_spread=1.0)
    raw = [raw_scores(0), raw_scores(1)]
    members = [trained(member_folder(folder, index), data, each) for index, each in enumerate(raw)]
    metrics = finish_ensemble(folder, "cost", data, settings, members)
    zero, moved = place_zero(folder, data, ZeroSettings(), metrics, seed=0)
    combined = np.mean(raw, axis=0) + np.std(raw, axis=0)
    np.testing.assert_allclose(load_pair_scores(folder), combined - zero.value)
    np.testing.assert_allclose(load_pair_scores(member_folder(folder, 1)), raw[1])
    assert moved["ensemble_spread"] == metrics["ensemble_spread"] and affine_of(member_folder(folder, 1)) is None


def test_a_second_zero_is_refused(tmp_path: Path) -> None:
    data = pairs(tmp_path)
    metrics = trained(tmp_path / "cost", data, raw_scores())
    place_zero(tmp_path / "cost", data, ZeroSettings(), metrics, seed=0)
    with pytest.raises(DataError, match="has its zero already"):
        place_zero(tmp_path / "cost", data, ZeroSettings(), metrics, seed=0)


def test_a_calibration_of_the_raw_score_goes(tmp_path: Path) -> None:
    # Labels on calibration and hold-out alone: a fit was possible, though nothing with a label trained the cost.
    signs = [0 if index % 3 == 0 else 1 for index in range(N)]
    data = pairs(tmp_path, safer_sign=[-each for each in signs], less_safe_sign=signs)
    metrics = trained(tmp_path / "cost", data, raw_scores())
    assert metrics["calibrated"] == 1.0 and (tmp_path / "cost" / "calibration.json").exists()
    _, moved = place_zero(tmp_path / "cost", data, ZeroSettings(), metrics, seed=0)
    assert moved["calibrated"] == 0.0 and not any(name.startswith("calibration_") for name in moved)
    assert not (tmp_path / "cost" / "calibration.json").exists()


def test_too_few_ranked_calibration_pairs_are_said_with_the_fix(tmp_path: Path) -> None:
    weights = [1.0 if index % 3 != 2 or index == 2 else 0.0 for index in range(N)]
    data = pairs(tmp_path, rank_weight=weights)
    metrics = trained(tmp_path / "cost", data, raw_scores())
    with pytest.raises(DataError, match=r"cost-harm\.parquet: .*at least 2 pairs.*raise splits\.calibration"):
        place_zero(tmp_path / "cost", data, ZeroSettings(), metrics, seed=0)
