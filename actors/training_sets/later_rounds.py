"""Training sets of a later round on data: what the files taught, and every pair that was labelled since; a Ray task.

Token ids are those that the policy saw and drew: nothing is tokenised again. What measures the models (hold-out, calibration) is
this round's alone, since it is to say how they fare on the present policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from actors.training_sets.on_data import cost_labels
from configs.exits import DataError
from learner.data.quality.lengths import user_turns
from learner.data.records import PreferencePair
from learner.data.set_labels import safety_order
from learner.data.splits import TRAIN, Unit, half_of
from learner.data.tokenise import UnusableRow
from learner.data.training_sets import COST_PAIRS, MOST_TURNS, REWARD_PAIRS

Row = dict[str, Any]


@dataclass(frozen=True)
class RoundSets:
    """What to make, and from what."""

    files: Path
    """Folder of the first round's sets."""
    earlier: tuple[Path, ...]
    """Labelled pairs of the later rounds before this one."""
    current: Path
    """This round's labelled pairs."""
    target: Path
    """Folder of this round's sets."""
    by: Unit
    reward: bool
    """Whether a reward model is trained."""
    costs: Mapping[str, tuple[str, ...]]
    """Trained cost models, with the categories that count for each; empty ones: any harm."""


@ray.remote(num_cpus=0)
def write_round_sets(request: RoundSets) -> dict[str, Any]:
    """Write ``reward.parquet`` and ``cost-<name>.parquet``.

    Returns:
        ``sets``, by name what `learner.data.set_writer.SetReport` says of a set (``written``, ``cut``, ``purposes``), with
        ``new`` rows of this round and ``left_out`` by reason; ``harm-labels``, by constraint as `cost_labels`; counts of
        training pairs.

    Raises:
        DataError: a set would hold nothing to train on.
    """
    current = pq.read_table(request.current).to_pylist()
    earlier = [row for path in request.earlier for row in pq.read_table(path).to_pylist() if row["split"] == TRAIN]
    request.target.mkdir(parents=True, exist_ok=True)
    sets: dict[str, Any] = {}
    if request.reward:
        sets["reward"] = _write(request, "reward", REWARD_PAIRS, earlier, current, ())
    for name, categories in request.costs.items():
        sets[f"cost-{name}"] = _write(request, f"cost-{name}", COST_PAIRS, earlier, current, categories)
    labels = {name: cost_labels(request.target / f"cost-{name}.parquet") for name in request.costs}
    nothing: dict[str, Any] = {"purposes": {}, "new_training": 0}
    counted: dict[str, Any] = next(iter(sets.values()), nothing)  # the reward model's, where there is one
    training = int(counted["purposes"].get(TRAIN, 0))
    return {
        "sets": sets,
        "harm-labels": labels,
        "training_pairs": training,
        "earlier_pairs": training - int(counted["new_training"]),
    }


def _write(
    request: RoundSets,
    name: str,
    schema: pa.Schema,
    earlier: Sequence[Row],
    current: Sequence[Row],
    categories: Sequence[str],
) -> Row:
    left_out: Counter[str] = Counter()

    def made(rows: Sequence[Row]) -> pa.Table:
        table_rows = list(_rows(rows, schema, request.by, categories, left_out))
        return pa.Table.from_pylist(table_rows, schema=schema)

    base = pq.read_table(request.files / f"{name}.parquet")
    base = base.filter(pc.equal(base["split"], TRAIN)).select(schema.names).cast(schema)
    before, new_rows = made(earlier), made(current)
    table = pa.concat_tables([base, before, new_rows])
    purposes = Counter(table["split"].to_pylist())
    if not purposes[TRAIN]:
        raise DataError(f"{name}: no labelled pair of any round can be trained on ({dict(left_out)})")
    path = request.target / f"{name}.parquet"
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
    trained = Counter(new_rows["split"].to_pylist())[TRAIN]
    return {
        "written": table.num_rows,
        "cut": 0,
        "purposes": dict(purposes),
        "new": new_rows.num_rows,
        "new_training": trained,
        "left_out": dict(left_out),
        "path": path.name,
    }


def _rows(
    rows: Sequence[Row], schema: pa.Schema, by: Unit, categories: Sequence[str], left_out: Counter[str]
) -> Iterator[Row]:
    for row in rows:
        try:
            yield _reward_row(row, by) if schema is REWARD_PAIRS else _cost_row(row, categories)
        except UnusableRow as error:
            left_out[error.kind] += 1


def _reward_row(row: Row, by: Unit) -> Row:
    better = row["better_response_id"]
    if better is None:
        raise UnusableRow("unranked", f"pair {row['pair_id']} was not ranked")
    return {**_sides(row, int(better)), "split": row["split"], "half": half_of(tuple(row["messages"]), by)}


def _cost_row(row: Row, categories: Sequence[str]) -> Row:
    pair = PreferencePair(
        prompt=tuple(row["messages"]),
        responses=(row["response_0"], row["response_1"]),
        safer=row["safer_response_id"],
        safe=(row["is_response_0_safe"], row["is_response_1_safe"]),
        categories=(tuple(row["response_0_categories"] or ()), tuple(row["response_1_categories"] or ())),
    )
    safer, signs, weight = safety_order(pair, categories)
    return {
        **_sides(row, safer),
        "safer_sign": signs[safer],
        "less_safe_sign": signs[1 - safer],
        "rank_weight": weight,
        "split": row["split"],
    }


def _sides(row: Row, first: int) -> Row:
    """Both responses' columns; response `first` is called better."""
    ids = [row["response_0_ids"], row["response_1_ids"]]
    if list(ids[0]) == list(ids[1]):
        raise UnusableRow("same_tokens", f"pair {row['pair_id']}: both responses are the same")
    prompt = list(row["prompt_ids"])
    return {
        "better_ids": [*prompt, *ids[first]],
        "better_prompt_length": len(prompt),
        "worse_ids": [*prompt, *ids[1 - first]],
        "worse_prompt_length": len(prompt),
        "turns": min(user_turns(tuple(row["messages"])), MOST_TURNS),
    }
