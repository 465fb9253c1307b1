"""Every format's rows as records, what parsing finds, telling formats apart, and the places data comes from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from configs.exits import ConfigError, DataError
from learner.data.aggregate import aggregate
from learner.data.formats import FORMATS, detect_format, read_source
from learner.data.records import LabelledResponse, Parsed, PreferencePair, PromptOnly, Vote
from tests.learner.data import made_up as m
from tests.paths import SHARED

SHARED_DATA = SHARED / "data"


def read(tmp_path: Path, data: bytes, name: str = "rows.jsonl", **options: Any) -> list[Parsed]:
    path = tmp_path / name
    path.write_bytes(data)
    return list(read_source(str(path), **options))


def kinds(parsed: Parsed) -> list[str]:
    return [found.kind for found in parsed.findings]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_hh(tmp_path: Path) -> None:
    (parsed,) = read(tmp_path, m.jsonl(m.hh(7)), "helpful.jsonl")
    assert parsed.findings == ()
    assert parsed.record == PreferencePair(
        (user("How do I mend bike 7?"), assistant("Is it the tyre?"), user("Yes.")),
        ("Patch it.", "Buy a new bike, number 7."),
        better=0,
    )


@pytest.mark.parametrize(
    ("folder", "name", "ranking", "better", "safer"),
    [
        ("helpful-base", "train.jsonl", None, 0, None),
        ("harmless-base", "train.jsonl", None, None, 0),
        ("helpful-base", "harmless.jsonl", None, None, 0),
        ("other", "train.jsonl", None, 0, None),
        ("other", "train.jsonl", "safer", None, 0),
        ("harmless-base", "train.jsonl", "better", 0, None),
    ],
)
def test_what_the_order_of_hh_ranks(
    tmp_path: Path, folder: str, name: str, ranking: Any, better: int | None, safer: int | None
) -> None:
    (tmp_path / folder).mkdir()
    parsed = read(tmp_path, m.jsonl(m.hh(1), m.hh(2)), f"{folder}/{name}", ranking=ranking)
    assert [(each.record.better, each.record.safer) for each in parsed if each.record] == [(better, safer)] * 2  # type: ignore[union-attr]
    said = ["ranking_assumed"] if folder == "other" and ranking is None else []
    assert [kinds(each) for each in parsed] == [said, []]


def test_hh_joins_turns_of_one_role(tmp_path: Path) -> None:
    prompt = "\n\nHuman: Hi\n\nHuman: there\n\nAssistant:  Yes?\n\nHuman: Go\n\nAssistant: Soon."
    row = {side: f"{prompt}\n\nAssistant: {word}" for side, word in (("chosen", "Now."), ("rejected", "No."))}
    (parsed,) = read(tmp_path, m.jsonl(row), "helpful.jsonl")
    assert parsed.record == PreferencePair(
        (user("Hi\n\nthere"), assistant("Yes?"), user("Go")), ("Soon.\n\nNow.", "Soon.\n\nNo."), better=0
    )
    assert sorted(kinds(parsed)) == ["leading_space", "repeated_role"]


def test_hh_finds_role_words_in_answers_alone(tmp_path: Path) -> None:
    def row(question: str, answer: str) -> m.Row:
        return {side: f"\n\nHuman: {question}\n\nAssistant: {answer}{side}" for side in ("chosen", "rejected")}

    answers = ["Human: me? ", "so. Assistant: no ", "\nHuman: me ", "Humans: we ", "a human: one ", "SuperHuman: x "]
    parsed = read(tmp_path, m.jsonl(row("Human: who?", "x"), *(row("q", each) for each in answers)), "helpful.jsonl")
    assert ["role_word_in_answer" in kinds(each) for each in parsed] == [False, True, True, True, False, False, False]


def test_both_editions_of_pku(tmp_path: Path) -> None:
    (old,) = read(tmp_path, m.jsonl(m.pku(1)))
    assert old.record == PreferencePair(
        (user("How do I open lock 1?"),),
        ("With a pick, quietly.", "Call a locksmith; show that it is yours."),
        better=0,
        safer=1,
        safe=(False, True),
    )
    (new,) = read(tmp_path, m.jsonl(m.pku_2024(1)))
    assert isinstance(new.record, PreferencePair)
    assert new.record.categories == (("Privacy Violation", "Economic Crime"), ())
    assert new.record.severity == (2, 0)


def test_an_empty_response_is_named_by_its_rank(tmp_path: Path) -> None:
    rows = [m.pku(1, response_0=""), m.pku(1, response_1=" ")]
    assert [kinds(each) for each in read(tmp_path, m.jsonl(*rows))] == [["empty_chosen"], ["empty_rejected"]]
    unranked = m.native(1, responses=["", "x"], better=None, safer=None)
    assert [kinds(each) for each in read(tmp_path, m.jsonl(unranked))] == [["empty_response"]]


def test_beavertails_and_its_majority(tmp_path: Path) -> None:
    other = m.beaver()["category"] | {"financial_crime,property_crime,theft": False}
    rows = [
        m.beaver(1),
        m.beaver(1),
        m.beaver(1, is_safe=True, category=other),
        m.beaver(2),
        m.beaver(2, is_safe=True, category=other),
    ]
    records = [each.record for each in read(tmp_path, m.jsonl(*rows))]
    assert all(isinstance(each, LabelledResponse) for each in records)
    one, two = aggregate(records)  # type: ignore[arg-type]
    assert (one.record.safe, one.labels, one.safe) == (False, 3, 1)
    assert one.record.categories == ("financial_crime,property_crime,theft",)
    assert one.categories == {"financial_crime,property_crime,theft": 2}
    # As many for as against: the cautious answer, and a kind of harm that half of them name is none.
    assert (two.record.safe, two.record.categories) == (False, ())


def test_native_holds_everything(tmp_path: Path) -> None:
    (parsed,) = read(tmp_path, m.jsonl(m.native(4)))
    assert parsed.findings == ()
    assert parsed.record == PreferencePair(
        (
            {"role": "system", "content": "Be kind."},
            user("Is path 4 open?"),
            assistant("Which side?"),
            user("The left."),
        ),
        ("It is.", "I cannot see it from here."),
        better=1,
        safer=1,
        safe=(True, None),
        categories=(("haste",), ()),
        severity=(1, None),
        votes=(Vote("a", "better", 1), Vote("b", "safe_0", 0)),
        pair_id="pair-4",
        tags=("made-up",),
    )


def test_native_of_one_response_and_of_none(tmp_path: Path) -> None:
    messages = [user("Hi")]
    one = {"version": 1, "messages": messages, "responses": ["x"], "safe": [True]}
    none = {"version": 1, "messages": messages, "responses": [], "pair_id": "p", "category": "c", "tags": ["t"]}
    records = [each.record for each in read(tmp_path, m.jsonl(one, none, none | {"better": 1}))]
    assert records == [
        LabelledResponse((user("Hi"),), "x", True),
        PromptOnly((user("Hi"),), "c", ("t",), "p"),
        None,
    ]


def test_prompts_of_every_shape(tmp_path: Path) -> None:
    shapes = [
        {"prompt": "Hi"},
        {"prompt": [user("Hi")]},
        {"messages": [user("Hi")], "id": 3, "type": "t", "label": "safe"},
    ]
    records = [each.record for each in read(tmp_path, m.jsonl(*shapes))]
    hi = (user("Hi"),)
    assert records == [PromptOnly(hi), PromptOnly(hi), PromptOnly(hi, "t", ("safe",), "3")]


def test_csv_keeps_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbfid,prompt,tags\r\n1,"a, ""b""\r\nc",x; y\r\n\r\n2,plain,\r\n'
    first, second = read(tmp_path, text, "p.csv")
    assert first.record == PromptOnly((user('a, "b"\r\nc'),), None, ("x", "y"), "1")
    assert second.record == PromptOnly((user("plain"),), None, (), "2")
    assert (first.row, second.row) == (1, 2)


@pytest.mark.parametrize("name", m.MAKERS)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_every_format_from_every_file_is_told_and_read(tmp_path: Path, name: str, ending: str) -> None:
    rows = [m.MAKERS[name](number) for number in range(1, 6)]
    data = m.parquet(rows, FORMATS[name]) if ending == ".parquet" and name != "prompts" else m.jsonl(*rows)
    if ending == ".parquet" and name == "prompts":
        data = m.parquet(rows)
    path = tmp_path / f"helpful{ending}"
    path.write_bytes(m.packed(data) if ending.endswith(".gz") else data)
    assert detect_format(str(path)) == name
    parsed = list(read_source(str(path)))
    assert [each.row for each in parsed] == [1, 2, 3, 4, 5]
    assert all(each.record and not each.findings for each in parsed)
    plain = tmp_path / "helpful-plain.jsonl"
    plain.write_bytes(m.jsonl(*rows))
    assert [each.record for each in parsed] == [each.record for each in read_source(str(plain))]


def test_the_format_of_most_rows_is_taken_and_a_draw_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(m.jsonl(m.pku(1), m.hh(2), m.hh(3)))
    assert detect_format(str(path)) == "hh_rlhf"
    path.write_bytes(m.jsonl(m.pku(1), m.hh(2)))
    with pytest.raises(DataError, match=r"row 1 of .* looks like pku_saferlhf, row 2 of .* like hh_rlhf"):
        detect_format(str(path))


def test_unknown_fields_are_named_once_and_unknown_formats_refused(tmp_path: Path) -> None:
    rows = read(tmp_path, m.jsonl(m.hh(1, note=1), m.hh(2, note=2), m.hh(3, other=1)), "helpful.jsonl")
    assert [kinds(each) for each in rows] == [["unknown_column"], [], ["unknown_column"]]
    assert all(each.record for each in rows)
    with pytest.raises(DataError, match="no format fits the fields a, b"):
        read(tmp_path, m.jsonl({"a": 1, "b": 2}))
    with pytest.raises(ConfigError, match="no format 'hh'; known"):
        read(tmp_path, m.jsonl(m.hh()), format="hh")


def test_folders_patterns_splits_and_limits(tmp_path: Path) -> None:
    for name in ("helpful/train.jsonl", "helpful/test.jsonl", "helpful/deep/train-1.jsonl", "helpful/.hidden.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(m.jsonl(m.hh(1), m.hh(2)))

    def files(source: Path, **options: Any) -> Counter[str]:
        return Counter(Path(each.file).name for each in read_source(str(source), **options))

    folder = tmp_path / "helpful"
    assert files(folder) == {"train.jsonl": 2, "test.jsonl": 2, "train-1.jsonl": 2}
    assert files(folder, split="train") == {"train.jsonl": 2, "train-1.jsonl": 2}
    assert files(folder / "t*.jsonl") == {"train.jsonl": 2, "test.jsonl": 2}
    assert files(folder, limit=3) == {"train-1.jsonl": 2, "test.jsonl": 1}
    for wrong, options in (("none", {}), ("*.txt", {}), ("", {"split": "validation"})):
        with pytest.raises(DataError):
            files(folder / wrong, **options)
    with pytest.raises(ConfigError, match="one file"):
        files(folder / "train.jsonl", split="train")
    with pytest.raises(ConfigError, match="revision is for"):
        files(folder, revision="main")


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared data are not there")
def test_xstest() -> None:
    parsed = list(read_source(str(SHARED_DATA / "xstest")))
    records = [each.record for each in parsed]
    assert len(records) == 450
    assert Counter(tag for each in records for tag in each.tags) == {"safe": 250, "unsafe": 200}  # type: ignore[union-attr]
    assert {each.category for each in records} >= {"homonyms", "contrast_homonyms"}  # type: ignore[union-attr]
