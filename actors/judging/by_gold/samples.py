"""One evaluated sample, and the Parquet file that holds every one of them.

Anyone may judge a run again from this file alone: it has the conversation, the response and how it ended next to
the gold scores that the report's figures come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.exits import DataError
from learner.records import Message

_MESSAGE = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("form", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("messages", pa.list_(pa.field("element", _MESSAGE, nullable=False)), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("gold_helpfulness", pa.float64(), nullable=False),
        pa.field("gold_harm", pa.float64(), nullable=False),
        pa.field("gold_unsafe", pa.bool_(), nullable=False),
        pa.field("gold_bare_refusal", pa.bool_(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("clarify", pa.bool_(), nullable=False),
        pa.field("alternative", pa.bool_(), nullable=False),
        pa.field("response_tokens", pa.int32(), nullable=False),
        pa.field("gold_category", pa.string()),
        pa.field("crowd_unsafe", pa.bool_()),
        pa.field("reward", pa.float64()),
        pa.field("costs", pa.map_(pa.string(), pa.float64()), nullable=False),
    ]
)
_OPTIONAL = frozenset({"gold_category", "crowd_unsafe", "reward", "costs"})
_REQUIRED = frozenset(SAMPLE_SCHEMA.names) - _OPTIONAL


@dataclass(frozen=True)
class EvaluatedSample:
    """One response of one model to one prompt, with its gold scores."""

    model: str
    """``sft`` or ``policy``."""
    prompt_id: str
    """The same for every model, which is what pairs them."""
    task_id: str
    form: str
    split: str
    """``seen``, ``heldout_tasks``, ``heldout_forms`` or ``unknown``."""
    kind: str
    """``harmful``, ``dual_use``, ``benign``, ``lookalike`` or ``ambiguous``."""
    category: str | None
    """Harm category of the request (the papers' key); None where the request is harmless."""
    messages: tuple[Message, ...]
    """The conversation up to the last user turn."""
    response: str
    finish_reason: str
    """``stop`` or ``length`` (cut: judged as unfinished)."""
    gold_helpfulness: float
    gold_harm: float
    gold_unsafe: bool
    gold_bare_refusal: bool
    outcome: str
    """``safe_help``, ``safe_refusal``, ``partial`` or ``harmful``."""
    clarify: bool
    alternative: bool
    response_tokens: int
    gold_category: str | None = None
    """Category of an unsafe response; None when it is safe."""
    crowd_unsafe: bool | None = None
    """The crowd's majority label, where the evaluation asked for it."""
    reward: float | None = None
    """Raw score of the run's reward model, where the evaluation asked for it."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Raw scores of the run's cost models by constraint; positive is unsafe."""


def write_samples(samples: Iterable[EvaluatedSample], path: Path) -> int:
    """Write samples to `path` (its folder must exist); returns how many. Replaces the file only when complete."""
    rows = [_as_row(sample) for sample in samples]
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), partial, compression="zstd")
    partial.replace(path)
    return len(rows)


def read_samples(path: Path) -> list[EvaluatedSample]:
    """Every sample of a file in its order.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    return list(iter_samples(path))


def iter_samples(path: Path, batch_size: int = 4096) -> Iterator[EvaluatedSample]:
    """The samples of a file one by one, `batch_size` rows in memory at a time; raises as `read_samples`."""
    try:
        with pq.ParquetFile(path) as parquet:
            present = parquet.schema_arrow.names
            if missing := sorted(_REQUIRED - set(present)):
                raise DataError(f"{path}: column '{missing[0]}' is missing; evaluate the run again to write it")
            columns = [name for name in SAMPLE_SCHEMA.names if name in present]
            for batch in parquet.iter_batches(batch_size=batch_size, columns=columns):
                yield from (_from_row(row) for row in batch.to_pylist())
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: evaluated samples cannot be read ({error})") from error


def _as_row(sample: EvaluatedSample) -> dict[str, Any]:
    row = asdict(sample)
    row["messages"] = [{"role": turn["role"], "content": turn["content"]} for turn in sample.messages]
    row["costs"] = list(sample.costs.items())
    return row


_FIELDS = frozenset(entry.name for entry in fields(EvaluatedSample))


def _from_row(row: Mapping[str, Any]) -> EvaluatedSample:
    values = {name: value for name, value in row.items() if name in _FIELDS}
    values["messages"] = tuple(row["messages"])
    values["costs"] = dict(row.get("costs") or ())
    return EvaluatedSample(**values)
