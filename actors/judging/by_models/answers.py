"""Answers that the run's own reward and cost models judge: the record and its Parquet file.

A run on data has no gold scorer: what is known of an answer is its text, how it ended, and what the score models say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.exits import DataError
from learner.records import Message

KEPT = "kept"
"""The set of prompts kept from training for the last judgement; further sets have the names of `data.evaluation`."""
SFT, POLICY = "sft", "policy"
MODELS = (SFT, POLICY)

_MESSAGE = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])
_SCORES = pa.map_(pa.string(), pa.float64())
SCORED_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("messages", pa.list_(pa.field("element", _MESSAGE, nullable=False)), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("response_tokens", pa.int32(), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("costs", _SCORES, nullable=False),
        pa.field("watched", _SCORES, nullable=False),
    ]
)


@dataclass(frozen=True)
class Scores:
    """What the score models say of one answer, as the driver holds it."""

    reward: float | None
    """None where the run has no reward signal."""
    costs: Mapping[str, float]
    """By constraint; above 0 is above the cost's zero."""
    watched: Mapping[str, float] = field(default_factory=dict)
    """Of models that only watch, such as the test-half reward model."""


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer of one model to one prompt, with the scores of the run's models."""

    model: str
    """``sft`` or ``policy``, or a snapshot's name."""
    set: str
    prompt_id: str
    """The same for every model, which is what pairs them."""
    source_id: str
    """The prompt's id in its file."""
    category: str | None
    tags: tuple[str, ...]
    messages: tuple[Message, ...]
    """The conversation up to the last user turn, also where the model saw only its end."""
    response: str
    """Text without the end token; other special tokens are written out."""
    finish_reason: str
    """``stop`` or ``length`` (cut)."""
    response_tokens: int
    """With the end token, where there is one."""
    reward: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    watched: Mapping[str, float] = field(default_factory=dict)


def write_answers(answers: Iterable[ScoredAnswer], path: Path) -> int:
    """Write answers to `path` (its folder must exist); returns how many. Replaces the file only when complete."""
    rows = [_as_row(answer) for answer in answers]
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCORED_SCHEMA), partial, compression="zstd")
    partial.replace(path)
    return len(rows)


def read_answers(path: Path) -> list[ScoredAnswer]:
    """Every answer of a file in its order.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: scored answers cannot be read ({' '.join(str(error).split())})") from error
    if missing := [name for name in SCORED_SCHEMA.names if name not in table.column_names]:
        raise DataError(f"{path}: column '{missing[0]}' is missing; evaluate the run again to write it")
    return [_from_row(row) for row in table.select(SCORED_SCHEMA.names).to_pylist()]


def _as_row(answer: ScoredAnswer) -> dict[str, Any]:
    row = asdict(answer)
    row["messages"] = [{"role": turn["role"], "content": turn["content"]} for turn in answer.messages]
    return row | {name: list(row[name].items()) for name in ("costs", "watched")}


_FIELDS = frozenset(entry.name for entry in fields(ScoredAnswer))


def _from_row(row: Mapping[str, Any]) -> ScoredAnswer:
    values = {name: value for name, value in row.items() if name in _FIELDS}
    values |= {name: tuple(row[name]) for name in ("tags", "messages")}
    return ScoredAnswer(**values | {name: dict(row[name]) for name in ("costs", "watched")})
