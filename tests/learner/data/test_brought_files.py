"""Files and formats as people have them: packed in their ways, broken off, and pairs in TRL's several shapes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.exits import DataError
from configs.schema.data import SourceSettings
from learner.data.convert import convert
from learner.data.formats import detect_format, read_source
from learner.data.records import PreferencePair
from learner.data.sources import find_source, rows_of
from tests.learner.data import made_up

QUESTION, ANSWER, OTHER = "How do I dry figs?", "In the sun.", "No."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}


def lines(n: int, start: int = 0) -> bytes:
    return "".join(json.dumps(made_up.beaver(number)) + "\n" for number in range(start, start + n)).encode()


@pytest.mark.parametrize("packing", PACK)
def test_packed_lines_are_read_and_cut_ones_are_an_error(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"train.jsonl{packing}"
    data = PACK[packing](lines(300))
    path.write_bytes(data)
    assert sum(row.error is None for row in read_source(str(path))) == 300
    path.write_bytes(data[: len(data) // 2])
    errors = [row.error.kind for row in read_source(str(path), format="beavertails") if row.error is not None]
    assert errors[-1] == "truncated_file"
    path.write_bytes(lines(3))
    (only,) = read_source(str(path), format="beavertails")
    assert only.error is not None and "take" in only.error.message and packing in only.error.message


def test_a_folder_is_read_whole_whatever_packs_its_files(tmp_path: Path) -> None:
    for number, (packing, pack) in enumerate(PACK.items()):
        (tmp_path / f"part-{number}.ndjson{packing}").write_bytes(pack(lines(6, 10 * number)))
    assert sum(row.error is None for row in read_source(str(tmp_path))) == 24


def test_a_name_without_its_packing_says_what_to_add(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(lzma.compress(lines(3)))
    (only,) = read_source(str(path), format="beavertails")
    assert only.error is not None and only.error.message == "it is xz: add .xz to its name"


def test_a_file_that_breaks_off_ends_a_run_instead_of_counting_as_a_row(tmp_path: Path) -> None:
    data = gzip.compress(lines(5000))
    (tmp_path / "train.jsonl.gz").write_bytes(data[: len(data) // 50])
    source = find_source(SourceSettings(source="train.jsonl.gz"), tmp_path, "data.harmlessness.0")
    with pytest.raises(DataError, match=r"train\.jsonl\.gz: row \d+: the file ends in the middle of its gzip data"):
        list(rows_of([source]))


SHAPES: dict[str, dict[str, Any]] = {
    "explicit messages": {"prompt": [user(QUESTION)], "chosen": [assistant(ANSWER)], "rejected": [assistant(OTHER)]},
    "implicit messages": {
        "chosen": [user(QUESTION), assistant(ANSWER)],
        "rejected": [user(QUESTION), assistant(OTHER)],
    },
    "ultrafeedback": {
        "prompt": QUESTION,
        "chosen": [user(QUESTION), assistant(ANSWER)],
        "rejected": [user(QUESTION), assistant(OTHER)],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    },
    "texts": {"prompt": QUESTION, "chosen": ANSWER, "rejected": OTHER},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_chosen_and_rejected_is_a_pair(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(SHAPES[shape]) + "\n")
    assert detect_format(str(path)) == "trl"
    (row,) = read_source(str(path))
    expected = PreferencePair((user(QUESTION),), (ANSWER, OTHER), better=0)
    assert row.record == expected and row.findings == ()
    (safer,) = read_source(str(path), ranking="safer")
    assert isinstance(safer.record, PreferencePair) and (safer.record.better, safer.record.safer) == (None, 0)


def test_pairs_in_a_shape_of_their_own_are_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"chosen": [user("a"), assistant("b"), user("c"), assistant("d")], "rejected": [user("x"), assistant("y")]},
        {"prompt": [user("a")], "chosen": [user("b")], "rejected": [assistant("c")]},
        {"chosen": [], "rejected": []},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    errors = [row.error for row in read_source(str(path), format="trl")]
    assert [error.kind if error else None for error in errors] == ["broken_order"] * 3


def test_the_own_export_is_read_back(tmp_path: Path) -> None:
    source, target = tmp_path / "hh.jsonl", tmp_path / "trl.jsonl"
    source.write_text("".join(json.dumps(made_up.hh(number)) + "\n" for number in range(4)))
    convert(str(source), target, to="trl", ranking="better")
    first = [row.record for row in read_source(str(source), ranking="better")]
    again = [row.record for row in read_source(str(target))]
    assert again == first and len(again) == 4


@pytest.mark.parametrize("field", ["response_1", "response_a", "completions", "output", "human_ref_A", "answers"])
def test_what_holds_answers_is_not_read_as_prompts(tmp_path: Path, field: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": QUESTION, field: ANSWER}) + "\n")
    with pytest.raises(DataError, match=f"no format fits the fields prompt, {field}"):
        detect_format(str(path))


def test_null_fields_of_messages_say_nothing_and_others_are_refused_by_name(tmp_path: Path) -> None:
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
    messages = [
        [{"role": "user", "content": QUESTION, "name": None}],
        [{"role": "user", "content": "b", "name": "Ann"}],
    ]
    table = {"version": [1, 1], "responses": [["a", "b"]] * 2, "better": [0, 0]}
    pq.write_table(pa.table({**table, "messages": pa.array(messages, pa.list_(message))}), tmp_path / "rows.parquet")
    first, second = read_source(str(tmp_path / "rows.parquet"))
    assert first.error is None
    assert second.error is not None and "unknown field 'name'" in second.error.message
