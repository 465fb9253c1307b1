"""The pairs that `dpo` and `safe_dpo` learn from, ordered by each one's own reading of the labels; a Ray task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from actors.crowd.tasks import write_rows
from configs.exits import DataError
from learner.algorithms import dpo, safe_dpo

ALGORITHMS: Mapping[str, ModuleType] = {"dpo": dpo, "safe_dpo": safe_dpo}

_SCHEMA = pa.schema(
    [
        ("better_ids", pa.list_(pa.int32())),
        ("better_prompt_length", pa.int32()),
        ("worse_ids", pa.list_(pa.int32())),
        ("worse_prompt_length", pa.int32()),
        ("margin_weight", pa.float32()),
        ("split", pa.string()),
    ]
)


@ray.remote(num_cpus=0)
def write_direct_pairs(preferences_path: str, path: str, kind: Literal["dpo", "safe_dpo"]) -> dict[str, int]:
    """Write the ordered pairs of `learner.supervised.direct.DirectTask`; returns what became of ``preferences.parquet``."""
    return direct_pairs(Path(preferences_path), Path(path), kind)


def direct_pairs(preferences: Path, path: Path, kind: Literal["dpo", "safe_dpo"]) -> dict[str, int]:
    """`write_direct_pairs` in this process.

    Returns:
        ``pairs`` read; ``identical`` (two equal responses), ``unsafe`` (both unsafe) and ``unlabelled`` pairs (no ranking, or
        no safety label where one is needed) that were left out; ``reordered`` (safety overruled helpfulness), ``margin``
        (safe against unsafe) and the pairs of each split among the ``used`` ones.

    Raises:
        DataError: no pair can be used, because the crowd gave no safety labels.
    """
    table = pq.read_table(preferences).to_pylist()
    rows: list[dict[str, Any]] = []
    counts = Counter(
        dict.fromkeys(
            ("identical", "unsafe", "unlabelled", "reordered", "margin", "train", "holdout", "calibration"), 0
        )
    )
    for pair in table:
        safe = (pair["is_response_0_safe"], pair["is_response_1_safe"])
        if pair["response_0_ids"] == pair["response_1_ids"]:
            counts["identical"] += 1
            continue
        better = pair["better_response_id"]
        comparison = None if better is None else ALGORITHMS[kind].compare(int(better), safe)
        if comparison is None:
            counts["unlabelled" if better is None or None in safe else "unsafe"] += 1
            continue
        rows.append(_row(pair, comparison))
        counts["reordered"] += comparison.better != int(better)
        counts["margin"] += comparison.margin_weight > 0
        counts[pair["split"]] += 1
    if not rows:
        raise DataError(
            f"{preferences} has no pair that {kind} can use: safe_dpo needs safety labels, and a mixed crowd gives none; "
            "use preferences.crowd.mode decoupled"
        )
    write_rows(rows, path, _SCHEMA)
    return {"pairs": len(table), "used": len(rows), **counts}


def _row(pair: Mapping[str, Any], comparison: dpo.Comparison) -> dict[str, Any]:
    row: dict[str, Any] = {"margin_weight": comparison.margin_weight, "split": pair["split"]}
    for name, side in (("better", comparison.better), ("worse", 1 - comparison.better)):
        row[f"{name}_ids"] = [*pair["prompt_ids"], *pair[f"response_{side}_ids"]]
        row[f"{name}_prompt_length"] = len(pair["prompt_ids"])
    return row
