"""What pairs carry from their prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from actors.crowd.tasks import Provenance, pair_request_id, write_pairs
from learner.models.modules import build_tokenizer
from learner.records import Prompt, RolloutChunk, RolloutMeta

ATTRIBUTES = {"task_id": "t", "kind": "benign", "form": "plain"}


def test_a_pair_is_of_its_prompts_purpose_and_trains_where_none_is_given(tmp_path: Path) -> None:
    build_tokenizer(["good", "bad"], 32).save_pretrained(str(tmp_path))
    prompts = [
        Prompt(
            "kept", ({"role": "user", "content": "good"},), "sandbox", attributes={**ATTRIBUTES, "purpose": "holdout"}
        ),
        Prompt("free", ({"role": "user", "content": "bad"},), "sandbox", attributes=ATTRIBUTES),
        Prompt("half", ({"role": "user", "content": "bad"},), "sandbox", attributes=ATTRIBUTES),
    ]
    drawn = [("kept", 0), ("kept", 1), ("free", 0), ("free", 1), ("half", 0)]
    metas = tuple(RolloutMeta(pair_request_id(name, side), name, 1, 2, "stop", 1, "g") for name, side in drawn)
    ids = tuple(np.array([2, 6 + side, 3], dtype=np.int32) for _, side in drawn)
    chunk = RolloutChunk(metas, ids, tuple(np.zeros(2, dtype=np.float32) for _ in drawn))
    path = tmp_path / "pairs.parquet"
    written = write_pairs._function(
        prompts, str(tmp_path / "tokenizer.json"), str(path), Provenance("d", (1.0,), 2, 0, 1), chunk
    )
    rows = pq.read_table(path).to_pylist()
    assert written == 2, "the third prompt has only one response"
    assert [(row["pair_id"], row["split"]) for row in rows] == [("kept", "holdout"), ("free", "train")]
    assert rows[0]["response_0_ids"] == [6, 3] and rows[0]["response_1"] == "bad"
