"""Pairs of several sources and of several rounds as one file; Ray tasks next to the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from configs.exits import DataError

TRAIN = "train"


@ray.remote(num_cpus=0)
def join_pairs(parts: Sequence[str], path: str) -> int:
    """Join pairs of several policies into one file and remove the parts; returns the number of pairs."""
    table = joined([pq.read_table(part) for part in parts], "pair_id")
    _write(table, Path(path))
    for part in parts:
        Path(part).unlink()
    return int(table.num_rows)


@ray.remote(num_cpus=0)
def join_training(earlier: Sequence[str], current: str, path: str) -> dict[str, int]:
    """Write what a round's score models learn from: the earlier rounds' train pairs, and every pair of this round.

    What the earlier rounds kept out of training stays out: accuracy and calibration are about the current policy.

    Returns:
        ``training_pairs``, this round's and the earlier ones', and ``earlier_pairs`` among them.
    """
    tables = [table.filter(pc.equal(table["split"], TRAIN)) for table in map(pq.read_table, earlier)]
    current_table = pq.read_table(current)
    table = joined([*tables, current_table], "pair_id")
    _write(table, Path(path))
    trains = int(pc.sum(pc.equal(current_table["split"], TRAIN)).as_py() or 0)
    before = sum(int(earlier_table.num_rows) for earlier_table in tables)
    return {"training_pairs": before + trains, "earlier_pairs": before}


def joined(tables: Sequence[pa.Table], key: str) -> pa.Table:
    """Rows of all tables, in order; a column that one of them has no value for takes the others' type.

    Raises:
        DataError: two rows have the same key.
    """
    table = pa.concat_tables(tables, promote_options="permissive")
    if len(set(table[key].to_pylist())) != table.num_rows:
        raise DataError(f"two pairs have the same {key}: rounds must not share ids; this is a bug, please report it")
    return table


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
