"""A corpus of bad files, made by code: each with what must be found in it, where, and how many good rows survive."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learner.data.fields import MAX_ROW
from learner.data.formats import FORMATS
from tests.learner.data import made_up as m


@dataclass(frozen=True)
class BadFile:
    """One file; ``errors`` are the kinds and rows of all errors in it, in order."""

    title: str
    name: str
    data: Callable[[], bytes]
    errors: tuple[tuple[str, int], ...]
    good: int
    format: str = "hh_rlhf"


def _bad(
    title: str,
    name: str,
    data: Callable[[], bytes] | bytes,
    kind: str,
    row: int,
    good: int = 0,
    format: str = "hh_rlhf",
) -> BadFile:
    return BadFile(title, name, data if callable(data) else lambda: data, ((kind, row),), good, format)


def _row(title: str, bad: Any, kind: str, format: str = "hh_rlhf") -> BadFile:
    """A JSONL file with the bad row between two good ones."""
    make = m.MAKERS[format]
    return _bad(
        title, "mixed.jsonl", lambda: m.jsonl(make(1), bad() if callable(bad) else bad, make(3)), kind, 2, 2, format
    )


def _with(format: str, field: str, value: Any) -> m.Row:
    return m.MAKERS[format]() | {field: value}


def _without(format: str, field: str) -> m.Row:
    row = m.MAKERS[format]()
    del row[field]
    return row


def _transcripts(chosen: str, rejected: str = "\n\nHuman: Hi\n\nAssistant: No.") -> m.Row:
    return {"chosen": chosen, "rejected": rejected}


def _flags(change: dict[str, Any]) -> dict[str, Any]:
    return m.beaver()["category"] | change


def _noise(count: int) -> bytes:
    """Long rows that pack badly, so that cutting the packed file in the middle leaves some whole."""
    dice = random.Random(0)
    rows = [
        m.hh(i, note="".join(chr(dice.randrange(33, 126)) for _ in range(100_000)).replace("\\", ""))
        for i in range(count)
    ]
    return m.packed(m.jsonl(*rows))


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.jsonl", m.jsonl(m.hh()))
    return stream.getvalue()


def _parquet(rows: list[m.Row] | None = None, format: str = "pku_saferlhf") -> bytes:
    return m.parquet(rows or [m.MAKERS[format](i) for i in range(1, 4)], FORMATS[format] if rows is None else None)


def _parquet_of(columns: dict[str, pa.Array], names: list[str] | None = None) -> bytes:
    stream = io.BytesIO()
    table = pa.table(columns)
    pq.write_table(table if names is None else table.rename_columns(names), stream)
    return stream.getvalue()


def _damaged_parquet() -> bytes:
    """The second of two row groups has other bytes than its reader expects."""
    rows = [m.pku(i) | {"prompt": f"{i}-{random.Random(i).random()}" * 40} for i in range(40)]
    raw = bytearray(
        m.parquet(rows, row_group_size=20, compression="gzip", use_dictionary=False, write_statistics=False)
    )
    group = pq.read_metadata(io.BytesIO(bytes(raw))).row_group(1).column(0)
    start = group.data_page_offset
    raw[start + 40 : start + group.total_compressed_size] = b"\x00" * (group.total_compressed_size - 40)
    return bytes(raw)


def _bad_text_parquet() -> bytes:
    texts = [b"good one", b"\xff\xfe bad", b"good two"]
    column = pa.array(texts, pa.binary())
    storage = pa.Array.from_buffers(pa.string(), len(texts), column.buffers())
    return _parquet_of({"prompt": storage})


def _csv(*lines: str | bytes) -> bytes:
    return b"".join(
        (line if isinstance(line, bytes) else line.encode()) + b"\r\n" for line in ("id,prompt,type", *lines)
    )


def _long(size: int = MAX_ROW + 10) -> str:
    return json.dumps(m.hh(1, chosen="x" * size))


HTML = b"<!DOCTYPE html>\n<html><head><title>404</title></head>\n<body>Not found</body></html>\n"
DEEP = "[" * 100_000 + "]" * 100_000
HALF = '{"chosen": "\\ud800 x", "rejected": "y"}'

CORPUS: tuple[BadFile, ...] = (
    # The file as a whole.
    _bad("empty file", "a.jsonl", b"", "not_data", 1),
    _bad("empty packed file", "a.jsonl.gz", m.packed(b""), "not_data", 1),
    _bad("nothing at all named .gz", "a.jsonl.gz", b"", "not_data", 1),
    _bad("web page named .jsonl", "a.jsonl", HTML, "not_data", 1),
    _bad("web page with a BOM", "a.jsonl", b"\xef\xbb\xbf" + HTML, "not_data", 1),
    _bad("web page named .jsonl.gz", "a.jsonl.gz", HTML, "not_data", 1),
    _bad("web page named .csv", "a.csv", HTML, "not_data", 1, format="prompts"),
    _bad("web page named .parquet", "a.parquet", HTML, "not_data", 1),
    _bad("packed web page", "a.jsonl.gz", m.packed(HTML), "not_data", 1),
    _bad("ZIP named .gz", "a.jsonl.gz", _zip, "not_data", 1),
    _bad("ZIP named .jsonl", "a.jsonl", _zip, "not_data", 1),
    _bad("gzip without .gz", "a.jsonl", m.packed(m.jsonl(m.hh())), "not_data", 1),
    _bad("plain text named .gz", "a.jsonl.gz", m.jsonl(m.hh()), "not_data", 1),
    _bad("Parquet named .jsonl", "a.jsonl", _parquet, "not_data", 1),
    _bad(
        "Git LFS pointer",
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "not_data",
        1,
    ),
    _bad("pickle named .json", "a.json", b"\x80\x04\x95" + b"x" * 40, "not_data", 1),
    _bad("UTF-16 with BOM", "a.jsonl", m.jsonl(m.hh()).decode().encode("utf-16"), "bad_encoding", 1),
    _bad("UTF-16 without BOM", "a.jsonl", m.jsonl(m.hh()).decode().encode("utf-16-le"), "bad_encoding", 1),
    _bad("UTF-32", "a.csv", _csv("1,x,y").decode().encode("utf-32"), "bad_encoding", 1, format="prompts"),
    _bad("noise", "a.jsonl", bytes(range(255, 128, -1)) * 3, "bad_encoding", 1),
    BadFile("truncated gzip", "a.jsonl.gz", lambda: _noise(6)[:300_000], (("truncated_file", 4),), 3),
    _bad("gzip cut in its header", "a.jsonl.gz", m.packed(b"x")[:5], "truncated_file", 1),
    BadFile(
        "gzip with a wrong checksum",
        "a.jsonl.gz",
        lambda: m.packed(m.jsonl(m.hh(1), m.hh(2)))[:-8] + b"\0" * 8,
        (("truncated_file", 3),),
        2,
    ),
    BadFile(
        "gzip with noise behind it",
        "a.jsonl.gz",
        lambda: m.packed(m.jsonl(m.hh(1))) + b"noise",
        (("truncated_file", 2),),
        1,
    ),
    _bad("gzip with damaged data", "a.jsonl.gz", m.packed(b"x" * 99)[:12] + b"\xff" * 40, "truncated_file", 1),
    _bad("cut in the middle of a line", "a.jsonl", m.jsonl(m.hh(1), m.hh(2))[:-30], "truncated_file", 2, 1),
    _bad("Mac line ends", "a.jsonl", m.jsonl(m.hh(1), m.hh(2)).replace(b"\n", b"\r"), "bad_json", 1),
    _bad("two objects on a line", "a.jsonl", m.jsonl(json.dumps(m.hh(1)) + json.dumps(m.hh(2))), "bad_json", 1),
    # A line of JSON.
    _row("bad UTF-8", b'{"chosen": "\xff", "rejected": ""}', "bad_encoding"),
    _row("overlong UTF-8", b'{"chosen": "\xc0\xaf"}', "bad_encoding"),
    _row("half a surrogate pair", HALF, "bad_encoding"),
    _row("NaN", '{"chosen": NaN, "rejected": "x"}', "bad_json"),
    _row("Infinity", '{"chosen": -Infinity, "rejected": "x"}', "bad_json"),
    _row("a list", "[1, 2]", "bad_json"),
    _row("a number", "17", "bad_json"),
    _row("null", "null", "bad_json"),
    _row("a bare word", "chosen: x", "bad_json"),
    _row("single quotes", "{'chosen': 'x'}", "bad_json"),
    _row("trailing comma", '{"chosen": "x", "rejected": "y",}', "bad_json"),
    _row("duplicate keys", '{"chosen": "x", "chosen": "z", "rejected": "y"}', "bad_json"),
    _row("deep nesting", DEEP, "bad_json"),
    _row("deep objects", '{"a":' * 50_000 + "1" + "}" * 50_000, "bad_json"),
    _row("a number of 10,000 digits", '{"chosen": ' + "9" * 10_000 + "}", "bad_json"),
    _row("null byte", b'{"chosen": "a\x00b", "rejected": "x"}', "bad_json"),
    _row("huge row", _long, "too_long_row"),
    BadFile(
        "several bad rows",
        "a.jsonl",
        lambda: m.jsonl("{", m.hh(2), b"\xff", "[]", m.hh(5)),
        (("bad_json", 1), ("bad_encoding", 3), ("bad_json", 4)),
        2,
    ),
    # Fields.
    _row("missing field", {"chosen": "x"}, "missing_field"),
    _row("null field", _with("hh_rlhf", "rejected", None), "missing_field"),
    _row("an empty object", {}, "missing_field"),
    _row("mixed schemas", m.pku, "missing_field"),
    _row("a number for a text", _with("hh_rlhf", "chosen", 3), "wrong_type"),
    _row("messages for a transcript", _with("hh_rlhf", "chosen", [{"role": "user", "content": "x"}]), "wrong_type"),
    _row("a number as text", _with("pku_saferlhf", "better_response_id", "0"), "wrong_type", "pku_saferlhf"),
    _row("a fraction for an index", _with("pku_saferlhf", "safer_response_id", 0.0), "wrong_type", "pku_saferlhf"),
    _row("an index out of range", _with("pku_saferlhf", "safer_response_id", 2), "wrong_type", "pku_saferlhf"),
    _row("true for an index", _with("pku_saferlhf", "better_response_id", True), "wrong_type", "pku_saferlhf"),
    _row("0 for false", _with("pku_saferlhf", "is_response_0_safe", 0), "wrong_type", "pku_saferlhf"),
    _row("nested null", _with("beavertails", "category", _flags({"self_harm": None})), "missing_field", "beavertails"),
    _row("unknown category", _with("beavertails", "category", _flags({"rudeness": True})), "wrong_type", "beavertails"),
    _row("lacking category", _with("beavertails", "category", {"self_harm": True}), "missing_field", "beavertails"),
    _row("category as a list", _with("beavertails", "category", ["self_harm"]), "wrong_type", "beavertails"),
    _row(
        "severity of 4", _with("pku_saferlhf_2024", "response_1_severity_level", 4), "wrong_type", "pku_saferlhf_2024"
    ),
    _row(
        "no severity", _without("pku_saferlhf_2024", "response_0_severity_level"), "missing_field", "pku_saferlhf_2024"
    ),
    _row("another version", _with("native", "version", 2), "wrong_type", "native"),
    _row("three responses", _with("native", "responses", ["a", "b", "c"]), "wrong_type", "native"),
    _row("null among messages", _with("native", "messages", [None]), "wrong_type", "native"),
    _row("unknown role", _with("native", "messages", [{"role": "bot", "content": "x"}]), "wrong_type", "native"),
    _row("message without content", _with("native", "messages", [{"role": "user"}]), "missing_field", "native"),
    _row(
        "unknown question",
        _with("native", "votes", [{"annotator": "a", "question": "wise", "answer": 1}]),
        "wrong_type",
        "native",
    ),
    _row("misspelt field", _with("native", "beter", 1), "unknown_column", "native"),
    _row("one safety label", _with("native", "safe", [True]), "wrong_type", "native"),
    _row("null among tags", _with("native", "tags", ["a", None]), "wrong_type", "native"),
    _row(
        "both kinds of prompt",
        {"prompt": "x", "messages": [{"role": "user", "content": "x"}]},
        "missing_field",
        "prompts",
    ),
    _row("blank prompt", {"prompt": " \n "}, "empty_prompt", "prompts"),
    _row("no messages", {"messages": []}, "empty_prompt", "prompts"),
    # Conversations.
    _row("no marker", _transcripts("Hello."), "broken_order"),
    _row("no answer", _transcripts("\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Bye"), "broken_order"),
    _row(
        "the assistant begins",
        _transcripts(
            "\n\nAssistant: Hi\n\nHuman: So\n\nAssistant: No.", "\n\nAssistant: Hi\n\nHuman: So\n\nAssistant: Yes."
        ),
        "broken_order",
    ),
    _row("two prompts", _transcripts("\n\nHuman: Hello\n\nAssistant: Yes."), "prompt_mismatch"),
    _row("empty chosen", _transcripts("\n\nHuman: Hi\n\nAssistant: "), "empty_chosen"),
    _row(
        "empty rejected", _transcripts("\n\nHuman: Hi\n\nAssistant: A", "\n\nHuman: Hi\n\nAssistant:"), "empty_rejected"
    ),
    _row("empty turn", _transcripts(*(f"\n\nHuman: \n\nAssistant: {word}" for word in "ab")), "empty_prompt"),
    _row(
        "ends with the assistant",
        _with("native", "messages", [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
        "broken_order",
        "native",
    ),
    # CSV.
    BadFile(
        "stray quote",
        "a.csv",
        lambda: _csv("1,good,x", '2,"never closed,x', "3,good,x", "4,good,x"),
        (("bad_csv", 2),),
        3,
        "prompts",
    ),
    BadFile("text behind a quote", "a.csv", lambda: _csv('1,"a" b,x', "2,good,x"), (("bad_csv", 1),), 1, "prompts"),
    BadFile("too few fields", "a.csv", lambda: _csv("1,good,x", "2", "3,good,x"), (("bad_csv", 2),), 2, "prompts"),
    BadFile(
        "too many fields", "a.csv", lambda: _csv("1,good,x", "2,a,b,c", "3,good,x"), (("bad_csv", 2),), 2, "prompts"
    ),
    BadFile(
        "bad UTF-8 in CSV",
        "a.csv",
        lambda: _csv("1,good,x", b"2,\xe9,x", "3,good,x"),
        (("bad_encoding", 2),),
        2,
        "prompts",
    ),
    _bad("duplicate columns", "a.csv", b"id,prompt,prompt\n1,a,b\n", "bad_csv", 1, format="prompts"),
    _bad("column without a name", "a.csv", b"id,,prompt\n1,a,b\n", "bad_csv", 1, format="prompts"),
    _bad("semicolons", "a.csv", b"id;prompt\n1;a\n", "bad_csv", 1, format="prompts"),
    _bad("heading alone", "a.csv", b"id,prompt\n", "not_data", 1, format="prompts"),
    _bad("bad heading", "a.csv", b"id,pr\xffompt\n1,a\n", "bad_encoding", 1, format="prompts"),
    _bad("CSV without a needed column", "a.csv", b"chosen\nx\ny\n", "missing_field", 1),
    BadFile(
        "huge CSV record",
        "a.csv",
        lambda: _csv("1,good,x", "2," + "x" * MAX_ROW, "3,good,x"),
        (("too_long_row", 2),),
        2,
        "prompts",
    ),
    # Parquet.
    _bad("wrong magic", "a.parquet", lambda: b"PARX" + _parquet()[4:], "not_data", 1, format="pku_saferlhf"),
    _bad("truncated Parquet", "a.parquet", lambda: _parquet()[:-20], "truncated_file", 1, format="pku_saferlhf"),
    _bad("Parquet of 4 bytes", "a.parquet", b"PAR1", "truncated_file", 1, format="pku_saferlhf"),
    _bad("empty Parquet file", "a.parquet", b"", "not_data", 1, format="pku_saferlhf"),
    _bad(
        "Parquet without rows",
        "a.parquet",
        lambda: m.parquet([], FORMATS["pku_saferlhf"]),
        "not_data",
        1,
        format="pku_saferlhf",
    ),
    _bad(
        "noise for a footer",
        "a.parquet",
        lambda: _parquet()[:-40] + b"\xaa" * 32 + b"\x20\0\0\0PAR1",
        "truncated_file",
        1,
        format="pku_saferlhf",
    ),
    BadFile("damaged row group", "a.parquet", _damaged_parquet, (("truncated_file", 21),), 20, "pku_saferlhf"),
    BadFile("bad UTF-8 in Parquet", "a.parquet", _bad_text_parquet, (("bad_encoding", 2),), 2, "prompts"),
    _bad(
        "duplicate Parquet columns",
        "a.parquet",
        lambda: _parquet_of({"a": pa.array(["x"]), "b": pa.array(["y"])}, ["prompt", "prompt"]),
        "wrong_type",
        1,
        format="prompts",
    ),
    _bad(
        "Parquet without a needed column",
        "a.parquet",
        lambda: _parquet_of({"chosen": pa.array(["x", "y"])}),
        "missing_field",
        1,
    ),
    BadFile(
        "nulls in Parquet",
        "a.parquet",
        lambda: _parquet([m.pku(1), m.pku(2, response_1=None), m.pku(3)]),
        (("missing_field", 2),),
        2,
        "pku_saferlhf",
    ),
    BadFile(
        "a NaN for an index",
        "a.parquet",
        lambda: _parquet([m.pku(1, better_response_id=float("nan"))]),
        (("wrong_type", 1),),
        0,
        "pku_saferlhf",
    ),
    BadFile(
        "huge Parquet row",
        "a.parquet",
        lambda: _parquet_of({"prompt": pa.array(["a", "x" * (MAX_ROW + 1), "b"])}),
        (("too_long_row", 2),),
        2,
        "prompts",
    ),
)
