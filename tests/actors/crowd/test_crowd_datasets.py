"""Comparisons made from labelled pairs: sides, signs, splits and halves; the tasks' functions, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from actors.crowd.datasets import half_of, write_cost_comparisons, write_reward_comparisons
from configs.exits import DataError

write_reward, write_cost = write_reward_comparisons._function, write_cost_comparisons._function


def pair(index: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "task_id": f"task-{index}",
        "form": "plain",
        "split": "train",
        "prompt_ids": [2, 9],
        "pair_id": f"pair-{index}",
        "kind": "harmful",
        "response_0_ids": [5, 3],
        "response_1_ids": [6, 3],
        "better_response_id": 1,
        "safer_response_id": 0,
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "response_0_categories": [],
        "response_1_categories": ["weapons"],
    } | changes


def labelled(path: Path, *pairs: dict[str, Any]) -> str:
    parquet.write_table(pa.Table.from_pylist(list(pairs)), path / "preferences.parquet")
    return str(path / "preferences.parquet")


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found


def test_a_reward_comparison_has_the_pairs_split_and_its_conversations_half(tmp_path) -> None:
    source = labelled(
        tmp_path, pair(0), pair(1, split="holdout"), pair(2, split="calibration"), pair(3, response_1_ids=[5, 3])
    )
    counts = write_reward(source, str(tmp_path / "reward.parquet"))
    assert counts == {"pairs": 4, "used": 3, "train": 1, "holdout": 1, "calibration": 1}, "equal responses say nothing"
    found = rows(tmp_path / "reward.parquet")
    assert [row["split"] for row in found] == ["train", "holdout", "calibration"]
    assert found[0]["better_ids"] == [2, 9, 6, 3] and found[0]["worse_ids"] == [2, 9, 5, 3]
    assert [row["half"] for row in found] == [half_of(pair(index)) for index in range(3)]


def test_a_share_of_the_pairs_may_be_ranked_by_harmlessness_and_a_larger_share_keeps_them(tmp_path) -> None:
    source = labelled(tmp_path, *(pair(index) for index in range(40)))
    ranked = {}
    for share in (0.0, 0.3, 0.6, 1.0):
        counts = write_reward(source, str(tmp_path / "reward.parquet"), share)
        found = rows(tmp_path / "reward.parquet")
        ranked[share] = {index for index, row in enumerate(found) if row["by"] == "harmlessness"}
        assert counts.get("harmlessness", 0) == len(ranked[share])
        for row in found:  # response 0 is the safer one, response 1 the better one
            assert row["better_ids"] == [2, 9, 5 if row["by"] == "harmlessness" else 6, 3] and row["agree"] is False
    assert not ranked[0.0] and ranked[0.3] < ranked[0.6] < ranked[1.0] == set(range(40))


def test_halves_go_by_conversation_and_are_about_equal() -> None:
    assert half_of(pair(7)) == half_of(pair(7, split="holdout", response_0_ids=[1])), "not by row"
    halves = [half_of(pair(index, form=form)) for index in range(500) for form in ("plain", "polite")]
    assert 430 < sum(halves) < 570  # 1000 fair coins: 4.4 standard deviations
    assert any(half_of(pair(index)) != half_of(pair(index, form="polite")) for index in range(20))


def test_a_cost_comparison_has_signs_split_and_what_breaks_the_order_is_set_aside(tmp_path) -> None:
    source = labelled(
        tmp_path, pair(0, split="calibration"), pair(1, safer_response_id=1), pair(2, is_response_0_safe=None)
    )
    counts = write_cost(source, str(tmp_path / "cost.parquet"), [])
    assert counts == {"pairs": 3, "used": 1, "calibration": 1, "illogical": 1}
    (found,) = rows(tmp_path / "cost.parquet")
    assert found["better_ids"] == [2, 9, 5, 3] and (found["safer_sign"], found["less_safe_sign"]) == (-1, 1)
    assert found["split"] == "calibration" and found["rank_weight"] == 1.0 and "half" not in found


def test_only_chosen_categories_are_unsafe(tmp_path) -> None:
    source = labelled(tmp_path, pair(0))
    write_cost(source, str(tmp_path / "cost.parquet"), ["drugs"])
    (found,) = rows(tmp_path / "cost.parquet")
    assert (found["safer_sign"], found["less_safe_sign"], found["rank_weight"]) == (-1, -1, 0.0)


def test_pairs_without_splits_or_without_safety_labels_are_refused(tmp_path) -> None:
    old = {name: value for name, value in pair().items() if name != "split"}
    with pytest.raises(DataError, match="lacks the column split"):
        write_reward(labelled(tmp_path, old), str(tmp_path / "out.parquet"))
    with pytest.raises(DataError, match="no pair with two safety labels"):
        write_cost(labelled(tmp_path, pair(is_response_0_safe=None)), str(tmp_path / "out.parquet"), [])
