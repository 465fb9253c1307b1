"""The check on the real HH-RLHF rows, against counts from their raw text alone; skipped where the rows are not there."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable

import pytest

from learner.data.formats import read_source
from learner.data.quality.check import Quality, QualityCheck
from tests.paths import SHARED

FILE = SHARED / "data" / "hh-rlhf" / "harmless-base-1500.jsonl.gz"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the shared data are not there")
MARKER = re.compile(r"\n\n(Human|Assistant):")
Row = dict[str, str]


@pytest.fixture(scope="module")
def raw() -> list[Row]:
    with gzip.open(FILE, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


@pytest.fixture(scope="module")
def quality() -> Quality:
    check = QualityCheck(fixed_order=True)
    for parsed in read_source(str(FILE), format="hh_rlhf"):
        check.add(parsed)
    return check.finish()


def before_last_answer(text: str) -> str:
    return text[: text.rindex("\n\nAssistant:")]


def answers(text: str) -> list[str]:
    parts = MARKER.split(text)
    return [said for role, said in zip(parts[1::2], parts[2::2], strict=True) if role == "Assistant"]


def last_answers(row: Row) -> list[str]:
    return [answers(row[side])[-1].strip() for side in ("chosen", "rejected")]


QUIRKS: dict[str, Callable[[Row], bool]] = {
    "prompt_mismatch": lambda row: before_last_answer(row["chosen"]) != before_last_answer(row["rejected"]),
    "empty_chosen": lambda row: not last_answers(row)[0],
    "empty_rejected": lambda row: not last_answers(row)[1],
    "identical_responses": lambda row: row["chosen"] == row["rejected"],
    "repeated_role": lambda row: any(
        one == two
        for text in row.values()
        for one, two in zip(MARKER.findall(text), MARKER.findall(text)[1:], strict=False)
    ),
    "role_word_in_answer": lambda row: any(
        re.search(r"\b(Human|Assistant) ?:", said) for text in row.values() for said in answers(text)
    ),
    "leading_space": lambda row: any(re.search(r"\n\n(Human|Assistant): \s+\S", text) for text in row.values()),
    "broken_order": lambda row: any(
        MARKER.findall(text)[0] != "Human" or MARKER.findall(text)[-1] != "Assistant" for text in row.values()
    ),
}


@pytest.mark.parametrize("kind", QUIRKS)
def test_every_quirk_is_found_in_the_rows_that_have_it(kind: str, raw: list[Row], quality: Quality) -> None:
    expected = [number for number, row in enumerate(raw, start=1) if QUIRKS[kind](row)]
    found = [tally for tally in quality.findings if tally.kind == kind]
    assert sum(tally.count for tally in found) == len(expected)
    assert [place.row for tally in found for place in tally.places] == expected[:20]


def test_the_quirks_are_there_at_all(quality: Quality) -> None:
    counts = {tally.kind: tally.count for tally in quality.findings}
    assert {kind: counts[kind] for kind in ("prompt_mismatch", "empty_chosen", "repeated_role", "leading_space")} == {
        "prompt_mismatch": 1,
        "empty_chosen": 4,
        "repeated_role": 4,
        "leading_space": 4,
    }
    assert counts["role_word_in_answer"] == 33


def test_rows_add_up(raw: list[Row], quality: Quality) -> None:
    errors = ("prompt_mismatch", "empty_chosen", "empty_rejected", "identical_responses", "broken_order")
    bad = sum(any(QUIRKS[kind](row) for kind in errors) for row in raw)
    assert (quality.rows, quality.quarantined, quality.ok_rows) == (len(raw), bad, len(raw) - bad)


def test_repeated_prompts_and_length_bias_are_those_of_the_raw_text(raw: list[Row], quality: Quality) -> None:
    good = [row for row in raw if not any(QUIRKS[kind](row) for kind in ("prompt_mismatch", "empty_chosen"))]
    prompts = [" ".join(before_last_answer(row["chosen"]).split()).casefold() for row in good]
    counts = {tally.kind: tally.count for tally in quality.findings}
    assert counts["repeated_prompt"] == len(prompts) - len(set(prompts))
    chosen, rejected = zip(*map(last_answers, good), strict=True)
    bias = quality.balance["length_bias"]["safer"]["characters"]
    longer = sum(len(one) > len(two) for one, two in zip(chosen, rejected, strict=True))
    assert bias["longer_wins"] == longer
    assert bias["equal"] == sum(len(one) == len(two) for one, two in zip(chosen, rejected, strict=True))
    assert counts["length_bias"] == 1  # the shorter answer is the more harmless one, by more than chance
    assert "the shorter response is the safer one" in next(
        t.example for t in quality.findings if t.kind == "length_bias"
    )


def test_a_file_leaks_into_itself(quality: Quality) -> None:
    from learner.data.quality.check import prompts_of

    check = QualityCheck(against=prompts_of(read_source(str(FILE), limit=100)))
    for parsed in read_source(str(FILE), limit=300):
        check.add(parsed)
    leaks = check.finish().balance["leakage"]
    assert leaks["rows"] == 99  # of the first hundred rows one has no answer, and is set aside before
    assert leaks["rows_with_shared_opening"] >= leaks["rows"]
