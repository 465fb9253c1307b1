"""Valid rows of every format, made up; and the bytes of files of them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learner.data.categories import BEAVERTAILS_CATEGORIES, SAFERLHF_CATEGORIES
from learner.data.layout import Format

Row = dict[str, Any]


def hh(number: int = 1, **changes: Any) -> Row:
    """A pair of two user turns."""
    prompt = f"\n\nHuman: How do I mend bike {number}?\n\nAssistant: Is it the tyre?\n\nHuman: Yes."
    row = {
        "chosen": f"{prompt}\n\nAssistant: Patch it.",
        "rejected": f"{prompt}\n\nAssistant: Buy a new bike, number {number}.",
    }
    return row | changes


def pku(number: int = 1, **changes: Any) -> Row:
    """A pair whose better response is not the safer one."""
    row = {
        "prompt": f"How do I open lock {number}?",
        "response_0": "With a pick, quietly.",
        "response_1": "Call a locksmith; show that it is yours.",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "better_response_id": 0,
        "safer_response_id": 1,
    }
    return row | changes


def pku_2024(number: int = 1, **changes: Any) -> Row:
    """As `pku`, with one kind of harm."""
    flags = dict.fromkeys(SAFERLHF_CATEGORIES, False)
    row = {
        **pku(number),
        "response_0_harm_category": flags | {"Economic Crime": True, "Privacy Violation": True},
        "response_1_harm_category": flags,
        "response_0_severity_level": 2,
        "response_1_severity_level": 0,
    }
    return row | changes


def beaver(number: int = 1, **changes: Any) -> Row:
    """An unsafe response of one kind."""
    row = {
        "prompt": f"How do I take bike {number}?",
        "response": "Cut its lock.",
        "category": dict.fromkeys(BEAVERTAILS_CATEGORIES, False) | {"financial_crime,property_crime,theft": True},
        "is_safe": False,
    }
    return row | changes


def native(number: int = 1, **changes: Any) -> Row:
    """A pair with every field filled."""
    row = {
        "version": 1,
        "pair_id": f"pair-{number}",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": f"Is path {number} open?"},
            {"role": "assistant", "content": "Which side?"},
            {"role": "user", "content": "The left."},
        ],
        "responses": ["It is.", "I cannot see it from here."],
        "better": 1,
        "safer": 1,
        "safe": [True, None],
        "categories": [["haste"], []],
        "severity": [1, None],
        "votes": [
            {"annotator": "a", "question": "better", "answer": 1},
            {"annotator": "b", "question": "safe_0", "answer": 0},
        ],
        "category": None,
        "tags": ["made-up"],
    }
    return row | changes


def prompt(number: int = 1, **changes: Any) -> Row:
    """A prompt of one turn."""
    return {
        "id": str(number),
        "prompt": f"What is {number} plus one?",
        "category": "sums",
        "tags": ["made-up"],
    } | changes


def trl(number: int = 0) -> Row:
    """A row of TRL's format with the prompt apart."""
    return {
        "prompt": [{"role": "user", "content": f"How do I fix bike {number}?"}],
        "chosen": [{"role": "assistant", "content": f"Take the wheel off, {number}."}],
        "rejected": [{"role": "assistant", "content": "Buy another."}],
    }


MAKERS = {
    "hh_rlhf": hh,
    "trl": trl,
    "pku_saferlhf": pku,
    "pku_saferlhf_2024": pku_2024,
    "beavertails": beaver,
    "native": native,
    "prompts": prompt,
}


def jsonl(*rows: Row | str | bytes) -> bytes:
    """Lines of JSON; a text or bytes is a line as it is."""
    return b"".join(
        (row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()) + b"\n"
        for row in rows
    )


def packed(data: bytes) -> bytes:
    """As gzip."""
    return gzip.compress(data, mtime=0)


def parquet(rows: Sequence[Row], layout: Format | None = None, **options: Any) -> bytes:
    """As Parquet, with the format's schema or what fits the rows."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), None if layout is None else layout.schema), stream, **options)
    return stream.getvalue()
