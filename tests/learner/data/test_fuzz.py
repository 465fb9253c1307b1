"""Fuzzing of the readers: whatever the bytes, every row is a record or one clear finding, and what is read is written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.data.fields import RowError
from learner.data.formats import FORMATS, read_source
from learner.data.kinds import KINDS
from learner.data.lines import read_lines
from learner.data.raw import RawRow
from learner.data.records import EXCERPT, Parsed
from learner.data.turns import split_transcript, transcript_of
from tests.learner.data import made_up as m

ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".parquet")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
SCRAPS = st.sampled_from(
    [
        b"",
        b"\x00",
        b"\xff",
        b'"',
        b"{",
        b"]",
        b"\r",
        b"\n",
        b",",
        b"\\u",
        b"\\ud800",
        b"NaN",
        b"\xef\xbb\xbf",
        b"\n\nHuman: ",
        b"\n\nAssistant:",
        b"1e999",
        b"PAR1",
        b"\x1f\x8b",
    ]
)


@contextmanager
def written(data: bytes, ending: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"helpful{ending}"
        path.write_bytes(data)
        yield str(path)


def check(rows: list[Parsed]) -> None:
    """What holds of every row that is read."""
    for row in rows:
        assert (row.record is None) == (row.error is not None)
        assert len(row.excerpt) <= EXCERPT
        for found in row.findings:
            assert found.kind in KINDS
            assert found.message.isprintable()
            assert len(found.message) < 400
    assert rows


def valid(name: str, ending: str) -> bytes:
    rows = [m.MAKERS[name](number) for number in range(3)]
    if ending == ".parquet":
        return m.parquet(rows, None if name == "prompts" else FORMATS[name])
    if ending == ".csv":
        return b'id,prompt,tags\r\n1,"a, ""b""",x;y\r\n2,plain,\r\n3,"two\nlines",z\r\n'
    return m.packed(m.jsonl(*rows)) if ending.endswith(".gz") else m.jsonl(*rows)


@given(st.binary(max_size=300), st.sampled_from(ENDINGS), st.sampled_from(list(FORMATS)))
def test_any_bytes(data: bytes, ending: str, name: str) -> None:
    with written(data, ending) as path:
        check(list(read_source(path, format=name)))


@settings(max_examples=150)
@given(st.data())
def test_valid_files_with_wounds(data: st.DataObject) -> None:
    name, ending = data.draw(st.sampled_from(list(FORMATS))), data.draw(st.sampled_from(ENDINGS))
    raw = bytearray(valid(name, ending))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 12))
        raw[at : at + cut] = data.draw(SCRAPS | st.binary(max_size=4))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    with written(bytes(raw), ending) as path:
        check(list(read_source(path, format=name)))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _places(each, (*path, key))


@settings(max_examples=200)
@given(st.data(), st.sampled_from(list(FORMATS)))
def test_valid_rows_with_another_value_somewhere(data: st.DataObject, name: str) -> None:
    row = json.loads(json.dumps(m.MAKERS[name]()))
    *way, last = data.draw(st.sampled_from(sorted(filter(None, _places(row)), key=str)))
    holder = row
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(JSON)
    lines = m.jsonl(m.MAKERS[name](1), json.dumps(row), m.MAKERS[name](3))
    with written(lines, ".jsonl") as path:
        rows = list(read_source(path, format=name))
    check(rows)
    assert [each.row for each in rows] == [1, 2, 3]
    assert rows[0].record is not None
    assert rows[2].record is not None


@settings(max_examples=100)
@given(st.data(), st.sampled_from(list(FORMATS)))
def test_rows_of_any_shape(data: st.DataObject, name: str) -> None:
    keys = st.sampled_from(sorted(FORMATS[name].known)) | st.text(max_size=5)
    rows = data.draw(st.lists(st.dictionaries(keys, JSON, max_size=8), min_size=1, max_size=3))
    with written(m.jsonl(*rows), ".jsonl") as path:
        check(list(read_source(path, format=name)))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() and text == text.lstrip()
)


@pytest.mark.parametrize("name", ["native", "hh_rlhf"])
@given(st.lists(TEXTS, min_size=1, max_size=7).filter(lambda texts: len(texts) % 2), TEXTS, TEXTS)
def test_what_is_written_is_read_again(name: str, prompt: list[str], one: str, two: str) -> None:
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(prompt)]
    row = {"version": 1, "messages": turns, "responses": [one, two], "better": 0}
    with written(m.jsonl(row), ".jsonl") as path:
        (first,) = read_source(path, format="native")
    assert first.record is not None
    try:
        rows = FORMATS[name].write(first.record, None)
    except RowError as error:
        refused = error.finding.kind
    else:
        refused = None
    if refused:
        assert refused == "not_expressible"
        return
    with written(m.jsonl(*rows), ".jsonl") as path:
        (second,) = read_source(path, format=name)
    assert second.record == first.record


@given(
    st.lists(st.sampled_from(["\n\nHuman: ", "\n\nAssistant: ", "\n", " ", "x", "Human:", "\n\nHuman:"]), max_size=9)
)
def test_transcripts_of_scraps(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        turns = split_transcript(text, "chosen")
    except RowError as error:
        turns, refused = [], error.finding.kind
    if not turns:
        assert refused == "broken_order"
        return
    assert turns[-1][0] == "assistant"
    again = transcript_of([{"role": role, "content": said} for role, said in turns[:-1]], turns[-1][1])
    assert split_transcript(again, "chosen") == turns


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=8), st.booleans())
def test_lines_are_numbered_and_complete(lines: list[bytes], ends: bool) -> None:
    data = b"x\n" + b"\n".join(lines) + (b"\n" if ends else b"")
    with written(data, ".jsonl") as path:
        found = list(read_lines(Path(path)))
    if any(isinstance(line, RawRow) for line in found):
        return  # much of it is zeros: taken for binary
    assert b"".join(line[1] for line in found) == data  # type: ignore[misc]
    assert [line[0] for line in found] == list(range(1, len(found) + 1))  # type: ignore[misc]
