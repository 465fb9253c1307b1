"""What `dpo` and `safe_dpo` take from labelled pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.crowd.direct_data import direct_pairs
from actors.crowd.tasks import write_rows
from configs.exits import DataError


def pair(
    better: int, safe: tuple[bool | None, bool | None], *, split: str = "train", equal: bool = False
) -> dict[str, Any]:
    return {
        "prompt_ids": [2, 9, 10],
        "response_0_ids": [20, 3],
        "response_1_ids": [20, 3] if equal else [21, 22, 3],
        "better_response_id": better,
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        "split": split,
    }


PAIRS = [
    pair(1, (True, True), split="holdout"),
    pair(1, (True, False)),
    pair(0, (True, False), split="calibration"),
    pair(0, (False, False)),
    pair(0, (True, None)),
    pair(0, (True, True), equal=True),
]


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    write_rows(PAIRS, tmp_path / "preferences.parquet")
    return tmp_path / "preferences.parquet"


def test_dpo_takes_every_pair_of_different_responses_by_helpfulness(preferences: Path, tmp_path: Path) -> None:
    counts = direct_pairs(preferences, tmp_path / "dpo.parquet", "dpo")
    rows = pq.read_table(tmp_path / "dpo.parquet").to_pylist()
    assert counts["pairs"] == 6 and counts["used"] == 5 and counts["identical"] == 1
    assert [counts[name] for name in ("unsafe", "unlabelled", "reordered", "margin")] == [0, 0, 0, 0]
    assert [len(row["better_ids"]) for row in rows] == [6, 6, 5, 5, 5]
    assert {row["margin_weight"] for row in rows} == {0.0}
    assert [row["split"] for row in rows] == ["holdout", "train", "calibration", "train", "train"]


def test_safe_dpo_reorders_drops_and_marks_where_the_margin_belongs(preferences: Path, tmp_path: Path) -> None:
    counts = direct_pairs(preferences, tmp_path / "safe.parquet", "safe_dpo")
    rows = pq.read_table(tmp_path / "safe.parquet").to_pylist()
    assert counts["used"] == 3 and counts["unsafe"] == 1 and counts["unlabelled"] == 1
    assert counts["reordered"] == 1 and counts["margin"] == 2
    assert (counts["train"], counts["holdout"], counts["calibration"]) == (1, 1, 1)
    assert rows[0]["better_ids"] == [2, 9, 10, 21, 22, 3] and rows[0]["worse_ids"] == [2, 9, 10, 20, 3]
    assert rows[1]["better_ids"] == [2, 9, 10, 20, 3], "the helpful answer was unsafe"
    assert [row["margin_weight"] for row in rows] == [0.0, 1.0, 1.0]
    assert {row["better_prompt_length"] for row in rows} == {row["worse_prompt_length"] for row in rows} == {3}


def test_a_crowd_without_safety_labels_is_refused_for_safe_dpo_only(tmp_path: Path) -> None:
    write_rows([pair(0, (None, None)), pair(1, (None, None))], tmp_path / "mixed.parquet")
    assert direct_pairs(tmp_path / "mixed.parquet", tmp_path / "out.parquet", "dpo")["used"] == 2
    with pytest.raises(DataError, match="a mixed crowd gives none"):
        direct_pairs(tmp_path / "mixed.parquet", tmp_path / "out.parquet", "safe_dpo")
