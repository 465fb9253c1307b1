"""Splits, accuracies and calibration of score models, ensembles and halves, from scores and labels alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.exits import DataError
from configs.schema.supervised import CostModelSettings, ScoreModelSettings
from learner.models.score_models.folders import (
    EnsembleBound,
    ensemble_of,
    load_pair_scores,
    member_folder,
    pair_scores_document,
)
from learner.statistics.calibration import fit_platt, load_calibration
from learner.supervised.score_models.quality import PairLabels, finish_ensemble, judge, label_columns, reward_agreement

SIX = ["train", "train", "holdout", "holdout", "calibration", "calibration"]


def table(**changes) -> pa.Table:
    columns = {
        "split": SIX,
        "safer_sign": [-1] * 6,
        "less_safe_sign": [1] * 6,
        "rank_weight": [1, 1, 1, 0, 1, 1],
        "half": [0, 1, 0, 1, 0, 1],
    }
    return pa.table(columns | changes)


def labels(kind="cost", half=None, **changes) -> PairLabels:
    return PairLabels.of(table(**changes), "pairs.parquet", kind, half)


def test_each_split_is_used_for_one_thing_only() -> None:
    # Of safer and less safe; each split alone has its own mistakes.
    scores = np.array([[-1.0, -2.0, 2.0, -1.0, -2.0, 1.0], [3.0, 4.0, 1.0, -2.0, 2.0, 3.0]])
    metrics, documents = judge("cost", labels(), scores)
    assert metrics["train_pair_accuracy"] == 1.0
    assert metrics["pair_accuracy"] == 0.0 and metrics["ranked_holdout_pairs"] == 1  # row 3 is not ranked
    assert metrics["sign_accuracy"] == 0.5 and metrics["signed_holdout_responses"] == 4
    assert documents["normaliser.json"] == {"mean": 1.0, "std": pytest.approx(np.std([-1, -2, 3, 4])), "n": 4}
    assert metrics["holdout_score_mean"] == 0.0 and metrics["holdout_pairs"] == 2
    # Expected: Platt's fit on the four responses of the calibration rows, nothing else.
    expected = fit_platt([-2.0, 1.0, 2.0, 3.0], [False, False, True, True])
    assert (metrics["calibration_slope"], metrics["calibration_n"]) == (expected.slope, 4)
    assert documents["calibration.json"]["platt"]["intercept"] == expected.intercept
    assert sum(each["n"] for each in documents["calibration.json"]["reliability"]) == 4  # of the hold-out


def test_the_chosen_form_is_the_reported_one() -> None:
    scores = np.array([[-1.0, -2.0, -2.0, -1.0, -2.0, 1.0], [3.0, 4.0, 1.0, 2.0, 2.0, 3.0]])
    for form in ("platt", "isotonic"):
        metrics, documents = judge("cost", labels(), scores, form)
        assert documents["calibration.json"]["form"] == form
        assert metrics["calibration_error"] == metrics[f"calibration_error_{form}"]


def test_a_refused_calibration_says_why_and_leaves_no_file() -> None:
    metrics, documents = judge("cost", labels(), np.array([[1.0] * 6, [-1.0] * 6]))
    assert metrics["calibrated"] == 0.0 and "calibration.json" not in documents
    assert "does not rank" in documents["training.json"]["calibration_refused"]


def test_unknown_and_empty_splits_are_refused_by_name() -> None:
    for changes, message in (
        ({"split": [*SIX[:4], "test", "calibration"]}, "row 4 is of split 'test'"),
        ({"split": ["train"] * 4 + ["calibration"] * 2}, "of split holdout"),
        ({"split": ["train"] * 4 + ["holdout"] * 2}, "of split calibration, and a cost model needs some"),
        ({"split": ["holdout"] * 4 + ["calibration"] * 2}, "of split train"),
        ({"safer_sign": [2, 1, 1, 1, 1, 1]}, "signs must be"),
        ({"rank_weight": [-1, 1, 1, 1, 1, 1]}, "rank_weight"),
    ):
        with pytest.raises(DataError, match=message):
            labels(**changes)
    assert labels("reward", split=["train"] * 4 + ["holdout"] * 2).calibration.sum() == 0  # it has no use for them


def test_halves_part_the_training_pairs_and_leave_the_others_whole() -> None:
    halves = [labels("reward", half) for half in (0, 1)]
    assert not (halves[0].train & halves[1].train).any()
    assert ((halves[0].train | halves[1].train) == labels("reward").train).all()
    assert all((half.holdout == labels("reward").holdout).all() for half in halves)
    with pytest.raises(DataError, match="of split train"):
        PairLabels.of(table(half=[0] * 6), "pairs.parquet", "reward", 1)


@pytest.mark.parametrize(("bound", "expected"), [("lower", [0.0, 1.0]), ("upper", [4.0, 1.0])])
def test_a_bound_is_the_mean_shifted_by_population_deviations(bound, expected) -> None:
    combined, deviation = EnsembleBound(2, 2.0, bound).combine(np.array([[1.0, 1.0], [3.0, 1.0]]))
    assert combined.tolist() == expected and deviation.tolist() == [1.0, 0.0]


def member(folder: Path, scores: np.ndarray) -> dict[str, float]:
    """A trained member as its folder and metrics look."""
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(pair_scores_document(scores)))
    (folder / "training.json").write_text(json.dumps({"task": "cost", "calibration_refused": "of one member"}))
    (folder / "calibration.json").write_text("{}")
    return {"seconds": 2.0, "steps": 5.0, "pairs": 2.0}


def test_an_ensemble_is_judged_and_calibrated_on_the_score_the_loop_will_see(tmp_path) -> None:
    parquet.write_table(table(), tmp_path / "pairs.parquet")
    rng = np.random.default_rng(0)
    truth = np.array([[-2.0, -1.0, -2.0, -1.0, -2.0, -0.1], [2.0, 1.0, 2.0, 1.0, 0.5, 2.0]])
    scores = [truth + rng.normal(0, 0.5, truth.shape) for _ in range(3)]
    folder = tmp_path / "cost"
    members = [member(member_folder(folder, index), each) for index, each in enumerate(scores)]
    settings = CostModelSettings(ensemble=3, ensemble_spread=1.5)
    metrics = finish_ensemble(folder, "cost", tmp_path / "pairs.parquet", settings, members)
    combined = np.mean(scores, axis=0) + 1.5 * np.std(scores, axis=0)
    np.testing.assert_allclose(load_pair_scores(folder), combined)
    expected = fit_platt(combined[:, 4:], [[False, False], [True, True]])
    assert load_calibration(folder).platt == expected and metrics["calibration_slope"] == expected.slope
    assert ensemble_of(folder) == EnsembleBound(3, 1.5, "upper")
    assert metrics["members"] == 3 and metrics["seconds"] == 6.0
    assert metrics["ensemble_spread"] == pytest.approx(np.std(scores, axis=0).mean())
    training = json.loads((folder / "training.json").read_text())
    assert "calibration_refused" not in training and training["task"] == "cost" and len(training["members"]) == 3


def test_a_reward_ensemble_takes_the_lower_bound_and_drops_what_member_0_left(tmp_path) -> None:
    parquet.write_table(table(), tmp_path / "pairs.parquet")
    folder, scores = tmp_path / "reward", np.array([[1.0] * 6, [0.0] * 6])
    members = [member(member_folder(folder, index), scores + 2 * index) for index in (0, 1)]
    finish_ensemble(folder, "reward", tmp_path / "pairs.parquet", ScoreModelSettings(ensemble=2), members)
    assert load_pair_scores(folder)[0].tolist() == [1.0] * 6  # mean 2 less one deviation of 1
    assert not (folder / "calibration.json").exists()


def test_two_reward_models_agree_on_the_holdout_alone(tmp_path) -> None:
    parquet.write_table(table(), tmp_path / "pairs.parquet")
    first = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0, 0.0, 0.0]])
    second = np.array([[0.0, 0.0, 2.0, 3.0, 0.0, 0.0], [9.0, 9.0, 0.0, 0.0, 9.0, 9.0]])
    for name, scores in (("first", first), ("second", second), ("short", second[:, :5])):
        member(tmp_path / name, scores)
    found = reward_agreement(tmp_path / "first", tmp_path / "second", tmp_path / "pairs.parquet")
    assert found["agreement"] == 0.5 and found["agreement_pairs"] == 2
    assert found["gap_correlation"] == pytest.approx(-1.0)  # two points: gaps (1, -1) against (2, 3)
    with pytest.raises(DataError, match=r"5 pairs and .* has 6"):
        reward_agreement(tmp_path / "first", tmp_path / "short", tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match=r"scores.json is missing"):
        reward_agreement(tmp_path / "first", tmp_path / "absent", tmp_path / "pairs.parquet")


def test_labels_are_read_without_tokens() -> None:
    assert label_columns("reward") == ["split"] and label_columns("reward", 1) == ["split", "half"]
    assert not any("ids" in name for name in label_columns("cost"))
