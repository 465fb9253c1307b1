import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from learner.supervised.score_models.axis_accuracy import axis_accuracies


def write(folder, rows, scores):
    names = ("split", "by", "agree", "kind")
    parquet.write_table(
        pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}), folder / "r.parquet"
    )
    (folder / "scores.json").write_text(json.dumps({"better": [s[0] for s in scores], "worse": [s[1] for s in scores]}))


def test_each_ranking_is_judged_on_its_own_pairs(tmp_path):
    rows = [
        ("holdout", "helpfulness", True, "benign"),  # right, and says nothing of harmlessness
        ("holdout", "helpfulness", False, "harmful"),  # right by helpfulness, so wrong by harmlessness
        ("holdout", "harmlessness", False, "harmful"),  # wrong by harmlessness, so right by helpfulness
        ("holdout", "harmlessness", True, "dual_use"),  # right by both
        ("train", "harmlessness", False, "harmful"),  # learned from: does not count
    ]
    write(tmp_path, rows, [(2, 1), (2, 1), (1, 2), (2, 1), (2, 1)])
    found = axis_accuracies(tmp_path, tmp_path / "r.parquet", ("harmful", "dual_use"))
    assert found["helpfulness"] == {"accuracy": 1.0, "conflicting": 1.0, "n": 4.0, "conflicting_n": 2.0}
    assert found["harmlessness"]["accuracy"] == pytest.approx(1 / 3)
    assert found["harmlessness"]["conflicting"] == 0.0 and found["harmlessness"]["n"] == 3.0


def test_without_a_conflicting_pair_nothing_is_said(tmp_path):
    write(tmp_path, [("holdout", "helpfulness", True, "harmful")], [(2, 1)])
    assert axis_accuracies(tmp_path, tmp_path / "r.parquet", ("harmful",)) == {}
