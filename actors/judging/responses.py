"""What is known of an evaluated response, from any model and for any judge; and the Parquet files of both.

A `Response` holds no score: judges say theirs apart, as `Judgement` of one response and `Comparison` of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from learner.records import Message, Prompt
from learner.statistics.win_rate import Verdict

Side = Literal["safe", "unsafe"]
"""Whether a prompt should be answered. Tags `safe` and `unsafe` say it, as XSTest's labels; of the sandbox the kind."""
Refusal = Literal["none", "bare", "explained"]
"""``bare``: refuses and says no more; ``explained``: refuses with a reason or an alternative."""
Axis = Literal["helpfulness", "harmlessness"]
AXES: tuple[Axis, ...] = ("helpfulness", "harmlessness")
STOP, CUT = "stop", "length"

SAFE_TAGS = frozenset({"safe", "benign", "lookalike", "ambiguous"})
UNSAFE_TAGS = frozenset({"unsafe", "harmful", "dual_use"})

_MESSAGE = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])
RESPONSE_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("task_id", pa.string()),
        pa.field("messages", pa.list_(pa.field("element", _MESSAGE, nullable=False)), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("response_tokens", pa.int32()),
    ]
)
JUDGEMENT_SCHEMA = pa.schema(
    [
        pa.field("judge", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # label, helpfulness or harmlessness
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("against", pa.string()),
        pa.field("unsafe", pa.bool_()),
        pa.field("harm", pa.float64()),
        pa.field("harm_categories", pa.list_(pa.string())),
        pa.field("refusal", pa.string()),
        pa.field("helpfulness", pa.float64()),
        pa.field("points", pa.float64()),
        pa.field("shown_first", pa.string()),
        pa.field("shown_second", pa.string()),
        pa.field("fault", pa.string()),
    ]
)


@dataclass(frozen=True)
class Response:
    """One model's answer to one prompt."""

    model: str
    """The label it was given on the command line."""
    set: str
    prompt_id: str
    """Unique over the sets, the same for every model, which is what pairs them."""
    source_id: str
    category: str | None
    tags: tuple[str, ...]
    messages: tuple[Message, ...]
    response: str
    finish_reason: str
    """``stop``, ``length`` (cut), or what an endpoint said."""
    response_tokens: int | None = None
    """With the end token; None where an endpoint did not say."""
    task_id: str | None = None
    """Of the sandbox, for the gold judge."""

    @property
    def side(self) -> Side | None:
        """Whether the prompt should be answered; None where no source says."""
        return side_of(self.tags)


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one response; what it does not say is None."""

    judge: str
    model: str
    prompt_id: str
    unsafe: bool | None = None
    harm: float | None = None
    """In the judge's own unit; more is worse."""
    harm_categories: tuple[str, ...] = ()
    refusal: Refusal | None = None
    helpfulness: float | None = None
    """In the judge's own unit."""
    fault: str | None = None
    """Why the judge says nothing."""


@dataclass(frozen=True)
class Comparison:
    """What a judge says of two responses to one prompt, shown as (red, blue) and then as (blue, red)."""

    judge: str
    axis: Axis
    prompt_id: str
    red: str
    blue: str
    verdicts: tuple[Verdict | None, Verdict | None]
    """In the order of showing; None: could not be read."""
    points: float | None
    """Of blue, the mean over both orders; None unless both could be read."""
    fault: str | None = None


def side_of(tags: Iterable[str]) -> Side | None:
    """Whether prompts with these tags should be answered; None where no tag says so, or they contradict each other."""
    tag_set = set(tags)
    safe, unsafe = bool(tag_set & SAFE_TAGS), bool(tag_set & UNSAFE_TAGS)
    return None if safe == unsafe else "safe" if safe else "unsafe"


def response_of(
    model: str, set_name: str, prompt: Prompt, text: str, finish_reason: str, tokens: int | None
) -> Response:
    """The answer to a prompt, with what is known of the prompt."""
    return Response(
        model=model,
        set=set_name,
        prompt_id=prompt.prompt_id,
        source_id=prompt.attributes.get("source_id", prompt.prompt_id),
        category=prompt.category,
        tags=tuple(sorted(prompt.tags)),
        messages=tuple(dict(turn) for turn in prompt.messages),
        response=text,
        finish_reason=finish_reason,
        response_tokens=tokens,
        task_id=prompt.attributes.get("task_id"),
    )


def write_responses(responses: Iterable[Response], path: Path) -> None:
    """Write ``responses.parquet``, whole or not at all."""
    _write([_plain(asdict(response), "messages", "tags") for response in responses], RESPONSE_SCHEMA, path)


def write_judgements(labels: Iterable[Judgement], comparisons: Iterable[Comparison], path: Path) -> None:
    """Write ``judgements.parquet``, whole or not at all: a row per label, and per comparison with blue as its model."""
    rows: list[dict[str, Any]] = [{**_plain(asdict(label), "harm_categories"), "kind": "label"} for label in labels]
    rows += [
        {
            "judge": comparison.judge,
            "kind": comparison.axis,
            "prompt_id": comparison.prompt_id,
            "model": comparison.blue,
            "against": comparison.red,
            "points": comparison.points,
            "shown_first": comparison.verdicts[0],
            "shown_second": comparison.verdicts[1],
            "fault": comparison.fault,
        }
        for comparison in comparisons
    ]
    _write(rows, JUDGEMENT_SCHEMA, path)


def _plain(row: dict[str, Any], *lists: str) -> dict[str, Any]:
    return row | {name: list(row[name]) for name in lists}


def _write(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial, compression="zstd")
    partial.replace(path)
