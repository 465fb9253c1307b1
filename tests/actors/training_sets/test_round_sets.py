"""Training sets of a later round on data: the files' training rows, and labelled pairs in the files' own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.training_sets.later_rounds import RoundSets, write_round_sets
from configs.exits import DataError
from learner.data.training_sets import COST_PAIRS, REWARD_PAIRS

made = write_round_sets._function  # the task's own function, in this process


def labelled(number: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pair_id": f"pair-{number}",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "split": split,
        "prompt_ids": [1, number],
        "response_0": "a",
        "response_1": "b",
        "response_0_ids": [7, 3],
        "response_1_ids": [8, 3],
        "better_response_id": 1,
        "safer_response_id": 0,
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "response_0_categories": [],
        "response_1_categories": ["privacy"],
    }
    return row | changes


def request(
    folder: Path, current: list[dict[str, Any]], earlier: list[dict[str, Any]] | None = None, **changes: Any
) -> RoundSets:
    files, paths = folder / "files", []
    files.mkdir(parents=True, exist_ok=True)
    sides = {
        "better_ids": [1, 2, 3],
        "better_prompt_length": 1,
        "worse_ids": [1, 4, 3],
        "worse_prompt_length": 1,
        "turns": 1,
    }
    for name, schema, more in (
        ("reward", REWARD_PAIRS, {"half": 0}),
        ("cost-harm", COST_PAIRS, {"safer_sign": 0, "less_safe_sign": 0, "rank_weight": 1.0}),
    ):
        rows = [{**sides, **more, "split": split} for split in ("train", "train", "holdout", "calibration")]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), files / f"{name}.parquet")
    for index, rows in enumerate([*([earlier] if earlier else []), current]):
        paths.append(folder / f"labelled-{index}.parquet")
        pq.write_table(pa.Table.from_pylist(rows), paths[-1])
    values: dict[str, Any] = {
        "files": files,
        "earlier": tuple(paths[:-1]),
        "current": paths[-1],
        "target": folder / "data",
        "by": "opening",
        "reward": True,
        "costs": {"harm": ()},
    }
    return RoundSets(**(values | changes))


def test_files_train_and_this_rounds_pairs_measure(tmp_path: Path) -> None:
    earlier = [labelled(1), labelled(2, "holdout")]
    current = [labelled(3), labelled(4, "holdout"), labelled(5, "calibration")]
    found = made(request(tmp_path, current, earlier))
    reward = pq.read_table(tmp_path / "data" / "reward.parquet").to_pylist()
    assert [row["split"] for row in reward] == ["train", "train", "train", "train", "holdout", "calibration"]
    assert reward[2]["better_ids"] == [1, 1, 8, 3] and reward[2]["worse_ids"] == [1, 1, 7, 3]
    assert {row["better_prompt_length"] for row in reward[2:]} == {2} and {row["turns"] for row in reward} == {1}
    cost = pq.read_table(tmp_path / "data" / "cost-harm.parquet").to_pylist()
    assert cost[3]["better_ids"] == [1, 3, 7, 3] and (cost[3]["safer_sign"], cost[3]["less_safe_sign"]) == (-1, 1)
    assert found["harm-labels"]["harm"] == {"pairs": 4, "signed": 4, "unsafe": 2}
    assert (found["training_pairs"], found["earlier_pairs"]) == (4, 3)
    assert found["sets"]["reward"]["purposes"] == {"train": 4, "holdout": 1, "calibration": 1}


def test_what_was_left_open_teaches_what_is_known(tmp_path: Path) -> None:
    current = [
        labelled(1, better_response_id=None),
        labelled(2, safer_response_id=None, is_response_0_safe=False),
        labelled(3, is_response_1_safe=None, response_1_categories=None),
        labelled(4, better_response_id=None, safer_response_id=None, is_response_0_safe=None, is_response_1_safe=None),
        labelled(5, response_1_ids=[7, 3]),
        labelled(6, safer_response_id=1),
    ]
    found = made(request(tmp_path, current))
    assert found["sets"]["reward"]["left_out"] == {"unranked": 2, "same_tokens": 1}
    assert found["sets"]["cost-harm"]["left_out"] == {"no_safety_label": 1, "same_tokens": 1, "contradictory_labels": 1}
    cost = pq.read_table(tmp_path / "data" / "cost-harm.parquet").to_pylist()[2:]
    assert [(row["safer_sign"], row["less_safe_sign"], row["rank_weight"]) for row in cost] == [
        (-1, 1, 1.0),
        (1, 1, 0.0),
        (-1, 0, 1.0),
    ]


def test_categories_count_for_their_constraint_alone(tmp_path: Path) -> None:
    made(request(tmp_path, [labelled(1)], reward=False, costs={"harm": ("theft",)}))
    row = pq.read_table(tmp_path / "data" / "cost-harm.parquet").to_pylist()[-1]
    assert (row["safer_sign"], row["less_safe_sign"], row["rank_weight"]) == (-1, -1, 0.0)
    assert not (tmp_path / "data" / "reward.parquet").exists()


def test_nothing_to_train_on_is_told(tmp_path: Path) -> None:
    asked = request(tmp_path, [labelled(1, better_response_id=None)])
    table = pq.read_table(asked.files / "reward.parquet")
    pq.write_table(table.slice(2), asked.files / "reward.parquet")  # only what measures is left
    with pytest.raises(
        DataError, match=r"reward: no labelled pair of any round can be trained on \(\{'unranked': 1\}\)"
    ):
        made(asked)
