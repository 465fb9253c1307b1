"""Prompts alone: JSONL, CSV such as XSTest's, or Parquet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from learner.data.fields import Fields, Notes, RowError, checked_text, wrong_type
from learner.data.layout import Format, Ranking, Row, filled_fields
from learner.data.native_format import read_messages
from learner.data.records import PromptOnly, Record
from learner.data.turns import checked_prompt

SEPARATOR = ";"
"""Between the tags of a prompt in CSV."""
_ANSWERS = re.compile(
    r"(chosen|rejected|response|answer|completion|output|summary|human_ref|generated|conversation)s?([_-]?\w)?|version|preference.*",
    re.IGNORECASE,
)
"""Fields that hold answers or say which is better: a row with one is no prompt alone."""
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def _read(fields: Fields, notes: Notes, _ranking: Ranking) -> Record:
    has_text, has_messages = fields.has("prompt"), fields.has("messages")
    if has_text == has_messages:
        problem = "both are there" if has_text else "neither is there"
        raise RowError("missing_field", f"a prompt is in 'prompt' or in 'messages', and {problem}")
    if has_text and isinstance(fields.raw["prompt"], str):
        turns = [("user", fields.text("prompt"))]
    else:
        turns = read_messages(fields, "prompt" if has_text else "messages")
    category = _either(fields, "category", "type")
    tags = [*_tags(fields), *([fields.text("label")] if fields.has("label") else [])]
    return PromptOnly(checked_prompt(turns, notes), category, tuple(dict.fromkeys(tags)), _identity(fields))


def _identity(fields: Fields) -> str | None:
    for key in ("prompt_id", "id"):
        if fields.has(key):
            value = fields.raw[key]
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
            return fields.text(key) or None
    return None


def _either(fields: Fields, *keys: str) -> str | None:
    return next((fields.text(key) for key in keys if fields.has(key) and fields.raw[key] != ""), None)


def _tags(fields: Fields) -> tuple[str, ...]:
    if not fields.has("tags"):
        return ()
    if isinstance(fields.raw["tags"], str):
        return tuple(tag.strip() for tag in fields.text("tags").split(SEPARATOR) if tag.strip())
    if not isinstance(fields.raw["tags"], list | tuple):
        raise wrong_type("'tags'", fields.raw["tags"], f"a list, or a text with {SEPARATOR} between")
    return fields.items("tags", checked_text)


def _write(record: Record, _rank: Ranking | None) -> list[Row]:
    row: Row = {"id": None, "prompt": None, "messages": None, "category": None, "tags": list(record.tags)}
    if isinstance(record, PromptOnly):
        row |= {"id": record.prompt_id, "category": record.category}
    turns = [dict(turn) for turn in record.prompt]
    row |= {"prompt": turns[0]["content"]} if len(turns) == 1 else {"messages": turns}
    return [row]


def _holds(record: Record, _rank: Ranking | None) -> set[str]:
    return filled_fields(record) if isinstance(record, PromptOnly) else {"tags"}


def _no_answers(row: Mapping[str, Any]) -> bool:
    return ("prompt" in row or "messages" in row) and not any(_ANSWERS.fullmatch(str(key)) for key in row)


PROMPTS = Format(
    name="prompts",
    summary="Prompts alone: 'prompt' (text or messages) or 'messages', and maybe id, category or type, label, tags",
    required=frozenset(),
    optional=frozenset({"prompt", "messages", "prompt_id", "id", "category", "type", "label", "tags"}),
    read=_read,
    write=_write,
    holds=_holds,
    schema=pa.schema(
        [
            ("id", pa.string()),
            ("prompt", pa.string()),
            ("messages", _MESSAGES),
            ("category", pa.string()),
            ("tags", pa.list_(pa.string())),
        ]
    ),
    looks_right=_no_answers,
)
