"""The worth of score models against chance and length, on made-up scores whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from scipy.stats import binomtest

from configs.exits import DataError
from learner.models.score_models.folders import pair_scores_document
from learner.supervised.score_models.baselines import PairShapes, equal_bins, measure_worth, pair_worth
from learner.supervised.score_models.quality import PairLabels

IDS = pa.list_(pa.int32())


def labels(split: list[str], kind: str = "reward", weights: list[float] | None = None) -> PairLabels:
    n = len(split)
    signs, ranked = np.zeros((2, n), dtype=np.float32), np.asarray(weights or [1.0] * n, dtype=np.float32)
    train, holdout, calibration = (
        np.array([each == name for each in split]) for name in ("train", "holdout", "calibration")
    )
    return PairLabels(train, holdout, calibration, signs, ranked)


def worth_of(right: list[bool], longer_won: list[bool | None], train_longer: int = 90, turns: list[int] | None = None):
    """100 training pairs of which the longer response won so many, and held-out pairs as given."""
    by = [1 if won else -1 for won in (np.arange(100) < train_longer)]
    by += [0 if won is None else 1 if won else -1 for won in longer_won]
    lengths = np.array([[10 + each for each in by], [10] * len(by)])
    scores = np.array([[0.0] * 100 + [1.0 if each else -1.0 for each in right], [0.0] * len(by)])
    shapes = PairShapes(lengths, np.array([1] * 100 + (turns or [1] * len(right))))
    return pair_worth("reward", labels(["train"] * 100 + ["holdout"] * len(right)), scores, shapes)


def test_a_model_that_only_likes_length_does_not_beat_it() -> None:
    longer = [True] * 70 + [False] * 30
    worth = worth_of(longer, longer)
    assert not worth.near_chance and worth.beats_length is False and worth.doubtful
    assert (worth.comparison.model_only, worth.comparison.length_only, worth.comparison.p_value) == (0, 0, 1.0)
    assert worth.sentence == (
        "70.0 % [60, 78] on 100 held-out pairs; length alone 70.0 %, which it is not shown to beat (p 1)"
    )


def test_a_model_that_knows_more_beats_length_by_mcnemar_on_the_same_pairs() -> None:
    longer = [True] * 60 + [False] * 40
    right = [True] * 55 + [False] * 5 + [True] * 25 + [False] * 15
    worth = worth_of(right, longer)
    assert (worth.comparison.model_only, worth.comparison.length_only) == (25, 5)
    assert worth.comparison.p_value == binomtest(25, 30).pvalue
    assert worth.beats_length and not worth.doubtful
    assert worth.sentence.endswith("length alone 60.0 %, which it beats (p 0.00032)")


def test_near_chance_is_said_first() -> None:
    worth = worth_of([True] * 101 + [False] * 89, [True, False] * 95)
    assert worth.near_chance and worth.doubtful
    assert worth.sentence == "near chance: 53.2 % [46, 60] on 190 held-out pairs; length alone 50.0 %"
    below = worth_of([False] * 90 + [True] * 10, [True, False] * 50)
    assert below.doubtful and not below.near_chance and below.sentence.startswith("worse than chance: 10.0 %")


def test_equal_lengths_count_as_a_coin_and_stay_out_of_the_comparison() -> None:
    worth = worth_of([True] * 10, [True] * 4 + [False] * 2 + [None] * 4)
    assert worth.length.ties == 4 and worth.length.expected_accuracy == 0.6
    assert worth.comparison.n == 6 and worth.accuracy.n == 10


def test_without_different_lengths_that_is_said() -> None:
    worth = worth_of([True] * 10, [None] * 10)
    assert worth.length is None and worth.beats_length is None and "length alone says nothing" in worth.sentence
    assert worth.accuracy.value == 1.0 and not worth.doubtful


def test_both_are_given_by_turns() -> None:
    worth = worth_of([True, True, False, False], [True, False, True, True], turns=[1, 1, 2, 9])
    assert {turns: (each.value, each.n) for turns, each in worth.by_turns.items()} == {
        1: (1.0, 2),
        2: (0.0, 1),
        5: (0.0, 1),
    }
    assert {turns: each.value for turns, each in worth.length.by_turns.items()} == {1: 0.5, 2: 1.0, 5: 1.0}
    json.dumps(worth.document(), allow_nan=False)


def test_a_cost_is_right_where_the_less_safe_response_scores_higher_and_unranked_pairs_do_not_count() -> None:
    scores = np.array([[0.0, 0.0, 0.0, 5.0], [1.0, 2.0, -1.0, 0.0]])
    shapes = PairShapes(np.array([[2, 2, 2, 2], [1, 1, 1, 1]]), np.ones(4, dtype=np.int64))
    split = ["train", "holdout", "holdout", "holdout"]
    worth = pair_worth("cost", labels(split, weights=[1, 1, 1, 0]), scores, shapes)
    assert (worth.accuracy.value, worth.accuracy.n) == (0.5, 2)
    nothing = pair_worth("cost", labels(split, weights=[1, 0, 0, 0]), scores, shapes)
    assert nothing.accuracy is None and nothing.doubtful and "not measured" in nothing.sentence
    json.dumps(nothing.document(), allow_nan=False)


def test_bins_hold_equally_many_pairs_and_a_perfect_model_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.5, 1.0, 20_000)
    bins = equal_bins(probabilities, rng.random(20_000) < probabilities)
    assert len(bins) == 10 and {each.n for each in bins} == {2000}
    assert max(abs(each.predicted - each.observed) for each in bins) < 0.035  # three standard errors
    assert (
        len(equal_bins(np.full(25, 0.5), np.ones(25))) == 2 and equal_bins(np.array([0.7]), np.array([True]))[0].n == 1
    )


def written(folder: Path, n: int = 40, **columns) -> Path:
    table = {
        "better_ids": pa.array([[1, 2, *range(index % 3 + 1)] for index in range(n)], IDS),
        "better_prompt_length": pa.array([2] * n, pa.int32()),
        "worse_ids": pa.array([[1, 2, 3, 4]] * n, IDS),
        "worse_prompt_length": pa.array([2] * n, pa.int32()),
        "turns": pa.array([1 + index % 2 for index in range(n)], pa.int16()),
        "split": ["holdout" if index % 4 == 0 else "train" for index in range(n)],
        "half": [index % 2 for index in range(n)],
    }
    parquet.write_table(pa.table(table | columns), folder / "reward.parquet", row_group_size=7)
    return folder / "reward.parquet"


def test_lengths_are_those_of_responses_over_all_row_groups(tmp_path: Path) -> None:
    shapes = PairShapes.read(written(tmp_path))
    assert shapes.lengths[0].tolist() == [1 + index % 3 for index in range(40)]
    assert set(shapes.lengths[1]) == {2} and shapes.turns[:2].tolist() == [1, 2]


def test_a_folder_is_measured_from_its_scores_and_its_file(tmp_path: Path) -> None:
    path, rng = written(tmp_path), np.random.default_rng(0)
    scores = rng.normal(size=(2, 40))
    (tmp_path / "scores.json").write_text(json.dumps(pair_scores_document(scores)))
    held = np.arange(0, 40, 4)
    worth = measure_worth(tmp_path, "reward", path)
    assert worth.accuracy.value == (scores[0] > scores[1])[held].mean() and worth.accuracy.n == 10
    assert measure_worth(tmp_path, "reward", path, half=1).length.train.n < worth.length.train.n
    (tmp_path / "scores.json").write_text(json.dumps(pair_scores_document(scores[:, :9])))
    with pytest.raises(DataError, match=r"judged on 9 pairs and .* has 40"):
        measure_worth(tmp_path, "reward", path)


def test_a_file_without_turns_or_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    parquet.write_table(pq_without(written(tmp_path), "turns"), tmp_path / "reward.parquet")
    with pytest.raises(DataError, match="has no column 'turns'"):
        PairShapes.read(tmp_path / "reward.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        PairShapes.read(tmp_path / "absent.parquet")


def pq_without(path: Path, name: str) -> pa.Table:
    return parquet.read_table(path).drop_columns([name])
