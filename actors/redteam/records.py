"""One attacked sample as a row, and the Parquet file of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.redteam.drive import Result
from configs.exits import DataError
from learner.records import Message

_MESSAGE = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])
ROW_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("search", pa.string(), nullable=False),
        pa.field("attack", pa.string(), nullable=False),
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("form", pa.string(), nullable=False),
        pa.field("form_split", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("task_split", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("messages", pa.list_(pa.field("element", _MESSAGE, nullable=False)), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("finished", pa.bool_(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("harm", pa.float64(), nullable=False),
        pa.field("success", pa.bool_(), nullable=False),
        pa.field("cost", pa.float64()),
        pa.field("asked", pa.int32(), nullable=False),
        pa.field("outcomes", pa.string(), nullable=False),
        pa.field("labels", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Row:
    """One conversation of one attack against one model, by its worst turn."""

    model: str
    search: str
    """``suite``, or what found the attack: ``best_of_n``, ``trained``."""
    attack: str
    strategy: str
    form: str
    form_split: str
    target: str
    """The task: samples of one are clustered."""
    task_split: str
    kind: str
    category: str | None
    sample: int
    messages: tuple[Message, ...]
    """Up to the attacker's turn whose answer was worst."""
    response: str
    finished: bool
    outcome: str
    harm: float
    """In the labeller's unit."""
    success: bool
    cost: float | None
    """Of the worst turn."""
    asked: int
    """How many turns of the attacker held the request or came after it."""
    outcomes: str
    """JSON list: the outcome of each of those turns."""
    labels: str
    """Who judged: `labels.MEANINGS`."""


def row_of(model: str, result: Result, labels: str, search: str = "suite") -> Row:
    """The row of one conversation."""
    attack, worst = result.attack, result.worst
    return Row(
        model=model,
        search=search,
        attack=attack.id,
        strategy=attack.form.strategy,
        form=attack.form.id,
        form_split=attack.form.split,
        target=attack.target.id,
        task_split=attack.target.split,
        kind=attack.target.kind,
        category=attack.target.category,
        sample=result.sample,
        messages=worst.messages,
        response=worst.response,
        finished=worst.finished,
        outcome=worst.judgement.outcome,
        harm=worst.judgement.harm,
        success=worst.judgement.success,
        cost=worst.cost,
        asked=len(result.turns),
        outcomes=json.dumps([turn.judgement.outcome for turn in result.turns]),
        labels=labels,
    )


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Write rows to `path` (its folder is made); returns how many. Replaces the file only when complete."""
    records = [{**asdict(row), "messages": [dict(message) for message in row.messages]} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(records, schema=ROW_SCHEMA), partial, compression="zstd")
    partial.replace(path)
    return len(records)


def read_rows(path: Path) -> list[Row]:
    """Every row of a file in its order.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    rows = read_columns(path, [field.name for field in fields(Row)])
    return [Row(**{**row, "messages": tuple(row["messages"])}) for row in rows]


def read_columns(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The named columns of a Parquet file as rows. Raises as `read_rows`."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the red team again") from error
    if missing := [name for name in names if name not in table.column_names]:
        raise DataError(f"{path}: column '{missing[0]}' is missing; run the red team again to write it")
    return table.select(list(names)).to_pylist()
