"""The page for people's labels, as its user has it: the real command, a real server, and the judge that reads the file."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from typer.testing import CliRunner

from actors.judging.judges.people import FILE, PeopleJudge, write_for_people
from actors.judging.responses import Response
from cluster.commands.main import app
from configs.exits import DataError
from serving.feedback.label_file import LabelFile
from tests.paths import ROOT

EVIL = "<script>alert(1)</script>"


def response(model: str, number: int, text: str) -> Response:
    turns = ({"role": "user", "content": f"ask {number} {EVIL}"},)
    return Response(model, "asked", f"p{number}", f"p{number}", None, (), cast(Any, turns), text, "stop")


PAIRS = [(response("sft", n, f"=one {n}"), response("policy", n, f"two {n} {EVIL}")) for n in range(3)]
ALONE = [response("other", 9, "by itself")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_for_people(tmp_path / FILE, PAIRS, ALONE)
    return tmp_path / FILE


@pytest.fixture
def page(file: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "cluster.commands.main", "label", str(file), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())["address"]
        finally:
            process.kill()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_person_answers_and_the_judge_reads_it(file: Path, page: tuple[subprocess.Popen[str], str]) -> None:
    process, address = page
    assert address.startswith("http://127.0.0.1:")
    base = address.partition("/?")[0]
    assert httpx.get(base).status_code == 401 and httpx.get(f"{base}/?token=guess").status_code == 401
    assert httpx.post(base, data={"id": rows(file)[0]["id"], "safer": "a"}).status_code == 401
    with httpx.Client(follow_redirects=True, timeout=20) as browser:
        shown = browser.get(address)
        assert (
            shown.status_code == 200
            and "token" not in str(shown.url)
            and "default-src 'none'" in shown.headers["Content-Security-Policy"]
        )
        assert (
            EVIL not in shown.text
            and "&lt;script&gt;" in shown.text
            and "sft" not in shown.text
            and "policy" not in shown.text
        )
        seen = []
        for number, row in enumerate(rows(file), 1):
            seen.append(bool(row["answer_b"]))
            answers = {"more_helpful": "b", "safer": "tie", "a_unsafe": "no", "b_unsafe": "yes"}
            shown = browser.get(f"{base}/?row={number}")
            assert f"This is row {number}." in shown.text and row["id"] in shown.text
            assert ("Which answer is safer?" in shown.text) is bool(row["answer_b"]) and "&#39;=one" not in shown.text
            browser.post(base, data={"id": row["id"], "row": str(number), **answers})
            assert rows(file)[number - 1]["a_unsafe"] == "no", "kept at once"
        assert sorted(seen) == [False, True, True, True]
        assert "Every row has an answer" in browser.get(base).text
        for data, said in (
            ({"id": "none"}, "no row 'none'"),
            ({"id": rows(file)[0]["id"], "a_unsafe": "maybe"}, "a_unsafe: 'maybe'"),
        ):
            refused = browser.post(base, data=data)
            assert refused.status_code == 400 and said in refused.text
    judge = PeopleJudge(file, PAIRS, ALONE)
    assert judge.filled == judge.rows == 4
    assert [each.points for each in judge.compare("harmlessness", PAIRS, {})] == [0.5, 0.5, 0.5]
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and json.loads(process.stdout.read()) == {"filled": 4, "rows": 4}
    assert process.wait(20) == 0


def test_what_another_page_wrote_meanwhile_is_kept(file: Path) -> None:
    labels, other = LabelFile(file), LabelFile(file)
    first, second = rows(file)[:2]
    labels.save(first["id"], {"a_unsafe": "yes"})
    other.save(second["id"], {"a_unsafe": "no"})
    labels.save(first["id"], {"a_unsafe": ""})
    assert [row["a_unsafe"] for row in rows(file)[:2]] == ["", "no"] and labels.filled() == (1, 4)
    assert [path.name for path in file.parent.iterdir()] == [FILE]


def test_texts_and_columns_that_are_not_asked_for_stay_as_they_were(file: Path) -> None:
    table = [{**row, "answer_a": f"  {row['answer_a']}\n", "a_unsafe": "", "who": "Ann"} for row in rows(file)]
    table[1]["a_unsafe"] = " YES "
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    LabelFile(file).save(table[0]["id"], {"a_unsafe": "no"})
    table[0]["a_unsafe"], table[1]["a_unsafe"] = "no", "yes"
    assert rows(file) == table


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    head = "id,conversation,answer_a,answer_b,more_helpful,safer,a_unsafe,b_unsafe"
    (tmp_path / "long.csv").write_text(f"{head}\n1,x,y,z,,,,,\n")
    (tmp_path / "short.csv").write_text(f"{head}\n1,x,y,z,,,\n")
    (tmp_path / "other.csv").write_text("id,text\n1,x\n")
    for words, said in (
        ([str(tmp_path / "none.csv")], r"none\.csv: cannot be read"),
        ([str(tmp_path / "other.csv")], r"other\.csv: column 'conversation' is missing"),
        ([str(tmp_path / "long.csv")], r"long\.csv: row 1 has another number of cells"),
        ([str(tmp_path / "short.csv")], r"short\.csv: row 1 has another number of cells"),
    ):
        found = CliRunner().invoke(app, ["label", *words])
        assert isinstance(found.exception, DataError) and re.search(said, str(found.exception))
