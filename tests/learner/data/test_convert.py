"""Conversion: round trips, refusals, the quarantine, and going on after an interruption."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.exits import ConfigError, DataError
from learner.data.convert import convert
from learner.data.formats import read_source
from learner.data.records import PromptOnly, Record
from tests.learner.data import made_up as m

ROWS = 23


class Interrupted(Exception):
    """As if the process were killed."""


def source(folder: Path, name: str, *rows: m.Row | str | bytes) -> Path:
    path = folder / f"helpful-{name}.jsonl"
    path.write_bytes(m.jsonl(*(rows or [m.MAKERS[name](number) for number in range(ROWS)])))
    return path


def records(path: Path, **options: Any) -> list[Record | None]:
    return [each.record for each in read_source(str(path), **options)]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("name", m.MAKERS)
def test_there_and_back_through_native(tmp_path: Path, name: str, ending: str) -> None:
    start = source(tmp_path, name)
    middle, end = tmp_path / f"native{ending}", tmp_path / f"helpful{ending}"
    first = convert(str(start), middle, to="native", row_group=5)
    assert (first.rows, first.written, first.quarantined, first.dropped_fields) == (ROWS, ROWS, 0, ())
    second = convert(str(middle), end, to=name, row_group=7)
    assert (second.source_format, second.written) == ("native", ROWS)
    assert records(end) == records(start)
    assert None not in records(end)
    if ending == ".parquet":
        assert pq.ParquetFile(middle).num_row_groups == 5
    if ending == ".jsonl" and name != "prompts":
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in (start, end)]
        assert lines[0] == lines[1]
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([start.name, middle.name, end.name])


def test_prompts_through_csv(tmp_path: Path) -> None:
    rows = [
        m.prompt(1, prompt='a "b",\r\nc'),
        m.prompt(2, tags=["x", "y"]),
        m.prompt(3, id=None, category=None, tags=[]),
    ]
    start = source(tmp_path, "prompts", *rows)
    convert(str(start), tmp_path / "p.csv", to="prompts")
    assert records(tmp_path / "p.csv") == records(start)


@pytest.mark.parametrize(
    ("name", "to", "lost"),
    [
        ("native", "hh_rlhf", "'categories', 'pair_id', 'safe', 'safer', 'severity', 'tags', 'votes'"),
        ("pku_saferlhf_2024", "pku_saferlhf", "'categories', 'severity'"),
        ("pku_saferlhf", "beavertails", "'better', 'safer'"),
        ("hh_rlhf", "prompts", "'better', 'responses'"),
    ],
)
def test_what_would_be_lost_is_named_and_dropped_only_on_request(tmp_path: Path, name: str, to: str, lost: str) -> None:
    rows = [m.MAKERS[name](number) for number in range(3)]
    if name == "native":
        for row in rows:
            row["messages"] = row["messages"][1:]
    start, target = source(tmp_path, name, *rows), tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"row 1: .* would be lost in .* give --lossy") as refused:
        convert(str(start), target, to=to, rank="better" if to == "hh_rlhf" else None)
    assert lost in str(refused.value)
    assert [each.name for each in tmp_path.iterdir()] == [start.name]
    report = convert(str(start), target, to=to, rank="better" if to == "hh_rlhf" else None, lossy=True)
    assert ", ".join(f"'{each}'" for each in report.dropped_fields) == lost
    assert report.written == (6 if to == "beavertails" else 3)
    assert None not in records(target, format=to)


@pytest.mark.parametrize(
    ("name", "to", "why"),
    [
        ("hh_rlhf", "pku_saferlhf", "needs the labels safer, safe"),
        ("pku_saferlhf", "pku_saferlhf_2024", "needs the label severity"),
        ("hh_rlhf", "beavertails", "3 turns"),
        ("prompts", "hh_rlhf", "a prompt alone"),
        ("beavertails", "trl", "one response"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, name: str, to: str, why: str) -> None:
    start = source(tmp_path, name)
    with pytest.raises(DataError, match=f"row 1: .*{why}"):
        convert(str(start), tmp_path / "out.parquet", to=to, lossy=True)
    assert [each.name for each in tmp_path.iterdir()] == [start.name]


def test_trl(tmp_path: Path) -> None:
    start, target = source(tmp_path, "pku_saferlhf"), tmp_path / "trl.parquet"
    with pytest.raises(ConfigError, match="give --rank"):
        convert(str(start), target, to="trl")
    prompt = [{"role": "user", "content": "How do I open lock 0?"}]
    said = [[{"role": "assistant", "content": m.pku(0)[f"response_{index}"]}] for index in (0, 1)]
    convert(str(start), target, to="trl", rank="better")
    assert pq.read_table(target).to_pylist()[0] == {"prompt": prompt, "chosen": said[0], "rejected": said[1]}
    report = convert(str(start), target, to="trl", rank="safer", overwrite=True)
    assert pq.read_table(target).to_pylist()[0] == {"prompt": prompt, "chosen": said[1], "rejected": said[0]}
    assert report.dropped_fields == ("better", "safe")


def test_bad_rows_and_rows_without_a_place_go_to_the_quarantine(tmp_path: Path) -> None:
    unranked = m.native(4, better=None, safer=None)
    start = source(tmp_path, "native", m.native(1), "{", m.native(3, tags=3), unranked)
    report = convert(str(start), tmp_path / "trl.jsonl", to="trl", rank="safer")
    assert (report.rows, report.written, report.quarantined) == (4, 1, 3)
    assert report.quarantine == tmp_path / "quarantine.parquet"
    bad = pq.read_table(report.quarantine).to_pylist()
    assert [(each["row"], each["kind"]) for each in bad] == [(2, "bad_json"), (3, "wrong_type"), (4, "not_expressible")]
    assert all(each["file"] == str(start) and each["reason"] for each in bad)
    assert bad[0]["excerpt"] == "{\n"


def test_a_truncated_file_gives_what_it_has(tmp_path: Path) -> None:
    start = tmp_path / "helpful.jsonl.gz"
    start.write_bytes(m.packed(m.jsonl(*(m.hh(number) for number in range(ROWS))))[:-8] + b"12345678")
    report = convert(str(start), tmp_path / "out.parquet", to="native")
    assert (report.rows, report.written, report.quarantined) == (ROWS + 1, ROWS, 1)


@pytest.mark.parametrize("ending", [".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_an_interrupted_conversion_goes_on(tmp_path: Path, ending: str, stop_at: int) -> None:
    folder = tmp_path / "helpful"
    folder.mkdir()
    for name in "abc":
        rows = [m.hh(number) if number != 4 else "broken" for number in range(9)]
        (folder / f"{name}.jsonl").write_bytes(m.jsonl(*rows))
    whole = tmp_path / f"whole{ending}"
    convert(str(folder), whole, to="native", row_group=4)
    expected_bad = pq.read_table(tmp_path / "quarantine.parquet").to_pylist()
    (tmp_path / "quarantine.parquet").unlink()

    target = tmp_path / f"target{ending}"
    calls: list[int] = []

    def stop(rows: int) -> None:
        calls.append(rows)
        if len(calls) == stop_at:
            raise Interrupted

    with pytest.raises(Interrupted):
        convert(str(folder), target, to="native", row_group=4, progress=stop)
    assert not target.exists()
    assert not (tmp_path / "quarantine.parquet").exists()
    again: list[int] = []
    report = convert(str(folder), target, to="native", row_group=4, progress=again.append)
    assert again[0] > calls[-1]  # nothing that was done is done again
    assert (report.rows, report.written, report.quarantined) == (27, 24, 3)
    assert target.read_bytes() == whole.read_bytes()
    assert pq.read_table(tmp_path / "quarantine.parquet").to_pylist() == expected_bad
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_another_source_or_option_starts_anew(tmp_path: Path) -> None:
    start, target = source(tmp_path, "hh_rlhf"), tmp_path / "out.jsonl"

    def stop(_rows: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        convert(str(start), target, to="native", row_group=4, progress=stop)
    start.write_bytes(m.jsonl(*(m.hh(number) for number in range(100, 103))))
    report = convert(str(start), target, to="native", row_group=4)
    assert (report.rows, report.written) == (3, 3)
    assert records(target) == records(start)


def test_two_conversions_of_one_target_do_not_meet(tmp_path: Path) -> None:
    start, target = source(tmp_path, "hh_rlhf"), tmp_path / "out.jsonl"

    def second(_rows: int) -> None:
        with pytest.raises(DataError, match="being written by another"):
            convert(str(start), target, to="native", row_group=4)

    assert convert(str(start), target, to="native", row_group=4, progress=second).written == ROWS


def test_aggregation_while_converting(tmp_path: Path) -> None:
    safe = {"is_safe": True, "category": dict.fromkeys(m.beaver()["category"], False)}
    rows = [m.beaver(1, **safe), m.beaver(2), m.beaver(1), m.beaver(1, **safe), m.beaver(3)]
    start, target = source(tmp_path, "beavertails", *rows), tmp_path / "out.jsonl"

    def stop(_rows: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        convert(str(start), target, to="beavertails", aggregate=True, row_group=2, progress=stop)
    report = convert(str(start), target, to="beavertails", aggregate=True, row_group=2)
    assert (report.rows, report.written, report.merged) == (5, 3, 2)
    written = [json.loads(line) for line in target.read_text().splitlines()]
    assert written == [m.beaver(1, **safe), m.beaver(2), m.beaver(3)]


def test_hopeless_conversions_end_early(tmp_path: Path) -> None:
    start = source(tmp_path, "prompts", *(m.prompt(number) for number in range(3000)))
    seen: list[int] = []
    with pytest.raises(DataError, match="a prompt alone"):
        convert(str(start), tmp_path / "out.jsonl", to="hh_rlhf", row_group=100, progress=seen.append)
    assert max(seen) <= 1000
    assert [each.name for each in tmp_path.iterdir()] == [start.name]


def test_wrong_targets(tmp_path: Path) -> None:
    start = source(tmp_path, "hh_rlhf")
    (tmp_path / "there.jsonl").write_text("mine")
    wrong = {
        "there.jsonl": "there already",
        "a.txt": "end it in",
        "a.csv": "CSV holds prompts",
        start.name: "is the source",
    }
    for name, why in wrong.items():
        with pytest.raises(ConfigError, match=why):
            convert(str(start), tmp_path / name, to="native", overwrite=name == start.name)
    with pytest.raises(ConfigError, match="no format 'x' to write"):
        convert(str(start), tmp_path / "a.jsonl", to="x")
    (tmp_path / "quarantine.parquet").write_text("mine")
    with pytest.raises(ConfigError, match="holds no quarantined rows"):
        convert(str(start), tmp_path / "a.jsonl", to="native")
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    assert not (tmp_path / "a.jsonl").exists()


def test_a_transcript_in_a_turn_is_not_written_as_a_transcript(tmp_path: Path) -> None:
    trap = [{"role": "user", "content": "Say\n\nHuman: x"}]
    rows = [
        {"version": 1, "messages": text, "responses": ["a", "b"], "better": 0}
        for text in ([{"role": "user", "content": "x"}], trap)
    ]
    report = convert(str(source(tmp_path, "native", *rows)), tmp_path / "out.jsonl.gz", to="hh_rlhf")
    assert (report.written, report.quarantined) == (1, 1)
    assert len(gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).splitlines()) == 1


def test_prompts_of_pairs(tmp_path: Path) -> None:
    start, target = source(tmp_path, "native"), tmp_path / "prompts.parquet"
    report = convert(str(start), target, to="prompts", lossy=True)
    assert report.written == ROWS
    assert all(
        isinstance(each, PromptOnly) and len(each.prompt) == 4 and each.tags == ("made-up",) for each in records(target)
    )
