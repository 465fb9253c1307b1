"""Every bad file of the corpus: one clear finding with file and row, good rows survive, little memory, no crash."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from configs.exits import DataError
from learner.data.fields import MAX_ROW
from learner.data.files import local_files
from learner.data.formats import FORMATS, detect_format, read_source
from learner.data.kinds import KINDS
from learner.data.lines import GIVE_UP
from learner.data.records import EXCERPT
from tests.learner.data import made_up as m
from tests.learner.data.bad_files import CORPUS, BadFile

MOST_MEMORY = 12 * MAX_ROW
"""Of a corpus file; the longest rows are little over `MAX_ROW`, and bytes, text and buffers of one may be there at once."""


def test_the_corpus_is_large_and_without_repeats() -> None:
    assert len(CORPUS) >= 60
    assert len({case.title for case in CORPUS}) == len(CORPUS)
    assert {kind for case in CORPUS for kind, _row in case.errors} <= KINDS.keys()


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.title)
def test_bad_file(case: BadFile, tmp_path: Path) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.data())
    tracemalloc.start()
    try:
        rows = list(read_source(str(path), format=case.format))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    errors = [(row.error.kind, row.row) for row in rows if row.error is not None]
    assert tuple(errors) == case.errors
    assert sum(row.record is not None for row in rows) == case.good
    for row in rows:
        assert row.file == str(path)
        assert (row.record is None) == (row.error is not None)
        assert len(row.excerpt) <= EXCERPT
        for found in row.findings:
            assert found.message
            assert found.message.isprintable()
            assert len(found.message) < 300
            assert found.kind in KINDS
    assert peak < MOST_MEMORY


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.title)
def test_the_format_of_a_bad_file_is_told_or_one_line_says_why_not(case: BadFile, tmp_path: Path) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.data())
    try:
        found = detect_format(str(path))
    except DataError as error:
        found = ""
        said = str(error)
    assert found in FORMATS or (str(path) in said and "\n" not in said)
    # Reading without a format says as much, whatever the file.
    try:
        errors = [row for row in read_source(str(path)) if row.error]
    except DataError as error:
        errors = []
        said = str(error)
    assert errors or str(path) in said


def test_a_bad_file_in_a_folder_costs_nothing_but_itself(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(m.jsonl(m.hh(1)))
    (tmp_path / "b.jsonl").write_bytes(b"<html>")
    (tmp_path / "c.jsonl.gz").write_bytes(m.packed(m.jsonl(m.hh(3), m.hh(4)))[:-9])
    (tmp_path / "d.jsonl").write_bytes(m.jsonl(m.hh(5)))
    (tmp_path / "README.md").write_text("nothing")
    rows = list(read_source(str(tmp_path)))
    assert [Path(row.file).name for row in rows if row.error] == ["b.jsonl", "c.jsonl.gz"]
    good = [Path(row.file).name for row in rows if row.record]
    assert (good[0], good[-1]) == ("a.jsonl", "d.jsonl")


def test_a_line_without_end_is_given_up(tmp_path: Path) -> None:
    """A gzip bomb: a gigabyte of one letter in a megabyte."""
    import gzip

    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(GIVE_UP // 2**22 + 8):
            stream.write(b"x" * 2**22)
    tracemalloc.start()
    try:
        started = time.monotonic()
        rows = list(read_source(str(path), format="hh_rlhf"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [(row.row, row.error.kind) for row in rows if row.error] == [(1, "too_long_row")]
    assert peak < MOST_MEMORY
    assert time.monotonic() - started < 60


def test_a_text_that_a_small_parquet_file_repeats_is_not_copied_for_every_row(tmp_path: Path) -> None:
    """A Parquet bomb: 4 GiB of text in some kilobytes; half of the rows' texts is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * 2**22]))
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"prompt": repeated}), path, store_schema=False)
    assert path.stat().st_size < 2**20
    peak = 0
    for row in read_source(str(path), format="prompts", limit=300):
        assert row.record is not None
        peak = max(peak, pa.total_allocated_bytes())
    assert peak < MOST_MEMORY


def test_a_table_of_quotes_does_not_take_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "quotes.csv"
    path.write_bytes(b"id,prompt\n" + b'"\n' + b'x""\n' * 50_000)
    started = time.monotonic()
    rows = list(read_source(str(path), format="prompts"))
    assert rows
    assert all(row.error for row in rows)
    assert time.monotonic() - started < 30


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    os.mkfifo(path)
    with pytest.raises(DataError, match="no regular file"):
        local_files(str(path))


def test_json_may_be_written_over_one_line_only(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n{"prompt": "x"}\n]\n')
    with pytest.raises(DataError, match="row 1"):
        detect_format(str(path))
