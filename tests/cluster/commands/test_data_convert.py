"""`steelyard data convert` and `formats` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.commands.guard import guarded
from cluster.commands.main import app
from learner.data import convert as conversion
from learner.data.formats import TARGETS, read_source
from tests.learner.data import made_up as m


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


def exit_code(*words: object) -> int:
    """Of the process, as `guarded` gives it."""
    return guarded(lambda: app(args=["data", *map(str, words)], standalone_mode=False))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "harmless.jsonl"
    path.write_bytes(m.jsonl(m.hh(1), "broken", m.hh(3)))
    return path


def test_formats_are_listed() -> None:
    shown = run("formats")
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()] == list(TARGETS)
    rows = json.loads(run("formats", "--json").stdout)
    assert {row["name"] for row in rows if not row["read"]} == set()


def test_convert_says_what_it_did(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    done = run("convert", source, target, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "source": str(source),
        "target": str(target),
        "from": "hh_rlhf",
        "to": "native",
        "rows": 3,
        "written": 2,
        "quarantined": 1,
        "merged": 0,
        "dropped_fields": [],
        "quarantine": str(tmp_path / "quarantine.parquet"),
    }
    assert "2 written" in done.stderr
    assert [each.record.safer for each in read_source(str(target)) if each.record] == [0, 0]  # type: ignore[union-attr]


def test_the_ranking_of_the_command_line_counts(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    assert run("convert", source, target, "--ranking", "better").exit_code == 0
    assert [each.record.better for each in read_source(str(target)) if each.record] == [0, 0]  # type: ignore[union-attr]
    assert run("convert", target, tmp_path / "trl.jsonl", "--to", "trl", "--rank", "better").exit_code == 0
    assert set(json.loads((tmp_path / "trl.jsonl").read_text().splitlines()[0])) == {"prompt", "chosen", "rejected"}


def test_errors_are_one_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code, words in {
        4: ("convert", tmp_path / "none.jsonl", tmp_path / "a.jsonl"),
        2: ("convert", source, tmp_path / "a.jsonl", "--to", "pickle"),
    }.items():
        assert exit_code(*words) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert len(said.err.splitlines()) == 1


def test_a_stop_can_be_gone_on_from(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.jsonl"

    def stopped(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(conversion.Parts, "finish", stopped)
        assert exit_code("convert", source, target) == 5
    assert "the same command goes on" in capsys.readouterr().err
    assert not target.exists()
    assert run("convert", source, target).exit_code == 0
    assert len(target.read_text().splitlines()) == 2
