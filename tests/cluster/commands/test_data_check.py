"""`steelyard data check`: one object on stdout, people's text on stderr, bad rows in a file, and the exit code."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from cluster.commands.data_check import check
from cluster.commands.guard import guarded
from configs.exits import ConfigError, DataError, Exit
from learner.data.kinds import KINDS
from learner.data.quarantine import Quarantine
from learner.data.records import Finding, Parsed
from tests.paths import ROOT

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
app.command(name="check")(check)
KEYS = ["file", "format", "rows", "ok_rows", "quarantined", "findings", "balance", "agreement"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def found(result: Result) -> dict[str, Any]:
    """The one object on stdout."""
    (line,) = result.stdout.splitlines()
    value = json.loads(line)
    assert list(value) == KEYS
    assert all(list(each) == ["kind", "severity", "count", "rows"] for each in value["findings"])
    assert {each["kind"] for each in value["findings"]} <= set(KINDS)
    return value


def counts(result: Result) -> dict[str, tuple[int, list[int]]]:
    return {each["kind"]: (each["count"], each["rows"]) for each in found(result)["findings"]}


def turns(*texts: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[index % 2]}: {text}" for index, text in enumerate(texts))


def hh(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = "".join(json.dumps({"chosen": one, "rejected": two}) + "\n" for one, two in rows)
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))
    return path


def pku(path: Path, rows: list[dict[str, Any]]) -> Path:
    usual = {
        "prompt": "How?",
        "response_0": "Like this.",
        "response_1": "I cannot say.",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "better_response_id": 0,
        "safer_response_id": 1,
    }
    path.write_text("".join(json.dumps(usual | {"prompt": f"How {at}?"} | row) + "\n" for at, row in enumerate(rows)))
    return path


def test_good_data(tmp_path: Path) -> None:
    file = pku(tmp_path / "pairs.jsonl", [{}, {}])
    result = run(file, "--json")
    assert result.exit_code == 0
    value = found(result)
    assert (value["file"], value["format"]) == (str(file), "pku_saferlhf")
    assert (value["rows"], value["ok_rows"], value["quarantined"]) == (2, 2, 0)
    assert value["findings"] == []
    assert value["balance"]["decoupling"]["differ"]["value"] == 1.0
    assert "2 rows of format pku_saferlhf, 2 good, 0 set aside" in result.stderr
    assert not Path("quarantine.parquet").exists()


def test_text_for_people_is_on_stderr_only(tmp_path: Path) -> None:
    result = run(pku(tmp_path / "pairs.jsonl", [{"safer_response_id": 0}]))
    assert result.exit_code == Exit.DATA
    assert result.stdout == ""
    assert "contradictory_labels" in result.stderr
    assert "ranked safer, but it is labelled unsafe" in result.stderr
    assert KINDS["contradictory_labels"].remedy in result.stderr


def test_bad_rows_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    file = pku(tmp_path / "pairs.jsonl", [{}, {"safer_response_id": 0}, {"response_0": 7}, {}])
    result = run(file, "--json")
    assert result.exit_code == Exit.DATA
    assert counts(result) == {"contradictory_labels": (1, [2]), "wrong_type": (1, [3])}
    table = pq.read_table("quarantine.parquet").to_pylist()
    assert [(row["file"], row["row"], row["kind"]) for row in table] == [
        (str(file), 2, "contradictory_labels"),
        (str(file), 3, "wrong_type"),
    ]
    assert "How 1?" in table[0]["excerpt"]
    assert "response_0" in table[1]["reason"]
    assert [path.name for path in Path().iterdir()] == ["quarantine.parquet"]  # no partial file is left


def test_another_place_for_bad_rows(tmp_path: Path) -> None:
    file = pku(tmp_path / "pairs.jsonl", [{"safer_response_id": 0}])
    place = tmp_path / "new" / "bad.parquet"
    assert run(file, "--quarantine", place).exit_code == Exit.DATA
    assert pq.read_metadata(place).num_rows == 1
    assert run(file, "--quarantine", place).exit_code == Exit.DATA  # an earlier quarantine is replaced
    for lost in (file, tmp_path):
        result = run(file, "--quarantine", lost)
        assert isinstance(result.exception, ConfigError)
    assert file.read_text().startswith("{")


def test_an_older_quarantine_is_not_taken_for_this_one(tmp_path: Path) -> None:
    run(pku(tmp_path / "bad.jsonl", [{"safer_response_id": 0}]))
    result = run(pku(tmp_path / "good.jsonl", [{}]))
    assert result.exit_code == 0
    assert "quarantine.parquet is from an earlier check" in result.stderr


def test_quirks_of_transcripts(tmp_path: Path) -> None:
    good = (turns("Hello", "Hi."), turns("Hello", "Go away."))
    rows = [
        good,
        (turns("a", "same"), turns("a", "same")),
        ("\n\nAssistant: Hello" + turns("b", "x"), "\n\nAssistant: Hello" + turns("b", "y")),
        (turns("c", "x", "And?"), turns("c", "y")),
        (turns("", "x"), turns("", "y")),
        (turns("e", "x"), turns("e", "")),
        (turns("f", "x", "Human asks", "y"), turns("f", "z")),
        (turns("g", ""), turns("g", "y")),
        (turns("h", "Sure.  Human: me too"), turns("h", "y")),
        (turns("i", "x") + "\n\nAssistant:  y", turns("i", "x") + "\n\nAssistant: z"),
        (turns("j", "x", "", "y"), turns("j", "x", "", "z")),
        (turns("Hello ", "Another."), turns("Hello ", "One more.")),
    ]
    result = run(hh(tmp_path / "harmless.jsonl.gz", rows), "--json")
    assert result.exit_code == Exit.DATA
    assert counts(result) == {
        "identical_responses": (1, [2]),
        "broken_order": (2, [3, 4]),
        "empty_prompt": (2, [5, 11]),
        "empty_rejected": (1, [6]),
        "prompt_mismatch": (1, [7]),
        "empty_chosen": (1, [8]),
        "role_word_in_answer": (1, [9]),
        "repeated_role": (1, [10]),
        "leading_space": (1, [10]),
        "repeated_prompt": (1, [12]),
    }
    assert (found(result)["ok_rows"], found(result)["quarantined"]) == (4, 8)


def test_leakage_against_another_file(tmp_path: Path) -> None:
    train = pku(tmp_path / "train.jsonl", [{}, {}, {}])
    test = pku(tmp_path / "test.jsonl", [{"prompt": "how  1?"}, {"prompt": "Why?"}])
    result = run(train, "--against", test, "--json")
    assert result.exit_code == 0  # a leak is no error of a row
    assert counts(result) == {"leaked_prompt": (1, [2])}
    assert found(result)["balance"]["leakage"]["against_rows"] == 2
    assert f"also in {test}" in result.stderr


def test_against_a_file_without_prompts(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    result = run(pku(tmp_path / "train.jsonl", [{}]), "--against", tmp_path / "bad.jsonl")
    assert isinstance(result.exception, DataError)
    assert "--against" in str(result.exception)


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    result = run(pku(tmp_path / "pairs.jsonl", [{}, {}, {"safer_response_id": 0}]), "--limit", 2, "--json")
    assert (result.exit_code, found(result)["rows"]) == (0, 2)


def test_several_files_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pku(folder / "a.jsonl", [{}])
    pku(folder / "b.jsonl", [{"prompt": "Other?"}, {"safer_response_id": 0}])
    result = run(folder, "--json")
    assert counts(result) == {"contradictory_labels": (1, [2])}
    assert [each["rows"] for each in found(result)["balance"]["files"]] == [1, 2]
    assert f"{folder / 'b.jsonl'}:2" in result.stderr


def test_repeated_labels_in_parquet(tmp_path: Path) -> None:
    from learner.data.categories import BEAVERTAILS_CATEGORIES

    none = dict.fromkeys(BEAVERTAILS_CATEGORIES, False)
    rows = [
        {"prompt": "How?", "response": "So.", "category": none | {"self_harm": not safe}, "is_safe": safe}
        for safe in (True, False, False)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "beaver.parquet")
    result = run(tmp_path / "beaver.parquet", "--json")
    assert result.exit_code == 0
    assert counts(result) == {
        "repeated_response": (2, [2, 3]),
        "conflicting_safety": (2, [2, 3]),
        "repeated_prompt": (2, [2, 3]),
    }
    repeated = found(result)["agreement"]["repeated"]
    assert repeated["safe"]["raw"] == pytest.approx(1 / 3)
    assert repeated["category self_harm"]["raw"] == pytest.approx(1 / 3)
    assert list(repeated) == ["safe", "category self_harm"]  # categories that some row has


def test_votes_of_the_native_schema(tmp_path: Path) -> None:
    rows = [
        {
            "version": 1,
            "messages": [{"role": "user", "content": f"How {at}?"}],
            "responses": ["So.", "No."],
            "better": 0,
            "votes": [
                {"annotator": name, "question": "better", "answer": int(name == "c" or at % 2)} for name in "abc"
            ],
        }
        for at in range(12)
    ]
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(file, "--json")
    assert counts(result) == {"votes_against_label": (6, [2, 4, 6, 8, 10, 12])}
    votes = found(result)["agreement"]["votes"]["better"]
    assert (votes["units"], votes["ratings"]) == (12, 36)
    assert votes["raw"] == pytest.approx((6 + 6 / 3) / 12)
    kappas = {tuple(each["annotators"]): each["kappa"] for each in votes["cohen"]["pairs"]}
    assert kappas == {("a", "b"): 1.0, ("a", "c"): 0.0, ("b", "c"): 0.0}
    assert "agreement of annotators on 'better': raw 66.7 %" in result.stderr


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.jsonl", b""),
        ("page.jsonl", b"<!DOCTYPE html><html></html>"),
        ("broken.jsonl", b"{\n[]\n"),
        ("unknown.jsonl", b'{"a": 1}\n'),
        ("cut.jsonl.gz", gzip.compress(b'{"prompt": "x"}\n' * 100, mtime=0)[:20]),
        ("noise.parquet", b"PAR1 and no more"),
    ],
)
def test_what_cannot_be_read_still_gives_one_object(tmp_path: Path, name: str, data: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    result = run(file, "--json")
    value = found(result)
    assert value["ok_rows"] == 0
    assert [each["severity"] for each in value["findings"]] == ["error"] * len(value["findings"]) != []
    assert isinstance(result.exception, DataError) or result.exit_code == Exit.DATA


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        app(args=[str(tmp_path / "no.jsonl"), "--json"])

    assert guarded(command) == Exit.DATA
    out, err = capsys.readouterr()
    assert json.loads(out)["findings"] == [{"kind": "unreadable", "severity": "error", "count": 1, "rows": []}]
    assert err.count("\n") == 1 and "no.jsonl" in err


def test_names_from_data_are_not_taken_for_markup(tmp_path: Path) -> None:
    file = pku(tmp_path / "[bold]x.jsonl", [{"[/red]extra\u001b[31m": 1}])
    result = run(file)
    assert result.exit_code == 0
    assert "[bold]x.jsonl" in result.stderr
    assert "\u001b[31m" not in result.stderr


def test_no_half_quarantine_is_left(tmp_path: Path) -> None:
    bad = Parsed("a", 1, None, (Finding("bad_json", "error", "half \ud83d of a pair"),), "\ud83d")
    place = tmp_path / "bad.parquet"

    def fail() -> None:
        with Quarantine(place) as quarantine:
            for _ in range(3000):
                quarantine.add(bad, bad.findings)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.glob("*bad*")) == [] and list(tmp_path.glob(".*")) == []
    with Quarantine(place) as quarantine:
        for _ in range(3000):
            quarantine.add(bad, bad.findings)
    assert pq.read_metadata(place).num_rows == quarantine.rows == 3000


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, cluster.commands.data_check, cluster.commands.text.data_check, learner.data.quality.check, learner.data.formats;"
        "print([name for name in ('torch', 'ray', 'transformers', 'datasets') if name in sys.modules])"
    )
    root = ROOT
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
