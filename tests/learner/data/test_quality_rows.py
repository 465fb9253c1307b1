"""What the check says about one row, and the table of kinds that people read."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from learner.data.kinds import KINDS, kinds_table, with_table
from learner.data.quality.rows import one_vote_each, row_findings
from learner.data.records import LabelledResponse, PreferencePair, PromptOnly, Record, Vote
from tests.paths import ROOT

PROMPT = ({"role": "user", "content": "How do I pick a lock?"},)
PAIR = PreferencePair(PROMPT, ("Ask a locksmith.", "Use a thin wire."))


def kinds(record: Record, *known: str) -> dict[str, str]:
    """Kind -> severity."""
    return {each.kind: each.severity for each in row_findings(record, known)}


def test_a_good_row_has_no_findings() -> None:
    good = replace(PAIR, better=1, safer=0, safe=(True, False), categories=((), ("theft",)), severity=(0, 2))
    assert kinds(good) == {}
    assert kinds(LabelledResponse(PROMPT, "No.", safe=True)) == {}
    assert kinds(PromptOnly(PROMPT)) == {}


@pytest.mark.parametrize(
    ("safer", "safe", "contradicts"),
    [
        (1, (True, False), True),
        (0, (False, True), True),
        (0, (True, False), False),
        (1, (False, False), False),
        (1, (True, True), False),
        (1, (True, None), False),
        (1, (None, False), False),
        (None, (True, False), False),
    ],
)
def test_an_unsafe_response_cannot_be_the_safer_one(
    safer: int | None, safe: tuple[bool | None, bool | None], contradicts: bool
) -> None:
    found = kinds(replace(PAIR, safer=safer, safe=safe))
    assert found == ({"contradictory_labels": "error"} if contradicts else {})


@pytest.mark.parametrize("other", ["No.", " No.", "No.\n"])
def test_identical_responses_are_an_error_only_when_ranked(other: str) -> None:
    same = replace(PAIR, responses=("No.", other))
    assert kinds(same) == {"identical_responses": "warning"}
    assert kinds(replace(same, better=0)) == {"identical_responses": "error"}
    assert kinds(replace(same, safer=1)) == {"identical_responses": "error"}


def test_empty_texts() -> None:
    assert kinds(replace(PAIR, responses=("No.", " \n"))) == {"empty_response": "error"}
    assert kinds(replace(PAIR, responses=("", ""), better=0)) == {"empty_response": "error"}
    assert kinds(LabelledResponse(PROMPT, " ", safe=True)) == {"empty_response": "error"}
    assert kinds(PromptOnly(({"role": "user", "content": " "},))) == {"empty_prompt": "error"}
    assert kinds(PromptOnly(())) == {"empty_prompt": "error"}


def test_what_the_parser_said_is_not_said_again() -> None:
    assert kinds(replace(PAIR, responses=("", "No.")), "empty_chosen") == {}
    assert kinds(replace(PAIR, safer=1, safe=(True, False)), "contradictory_labels") == {}


def test_severity_and_categories_against_the_labels() -> None:
    assert kinds(replace(PAIR, safer=1, severity=(1, 3))) == {"severity_against_safer": "warning"}
    assert kinds(replace(PAIR, safer=1, severity=(3, 3))) == {}
    assert kinds(replace(PAIR, safe=(True, None), categories=(("theft",), ()))) == {"safe_but_harmful": "warning"}
    assert kinds(replace(PAIR, safe=(True, None), severity=(1, None))) == {"safe_but_harmful": "warning"}
    assert kinds(replace(PAIR, safe=(True, None), severity=(0, None))) == {}
    assert kinds(LabelledResponse(PROMPT, "Yes.", safe=True, categories=("theft",))) == {"safe_but_harmful": "warning"}


def test_votes_against_the_label() -> None:
    votes = tuple(Vote(name, "better", answer) for name, answer in (("a", 1), ("b", 1), ("c", 0)))
    assert kinds(replace(PAIR, better=0, votes=votes)) == {"votes_against_label": "warning"}
    assert kinds(replace(PAIR, better=1, votes=votes)) == {}
    assert kinds(replace(PAIR, better=0, votes=votes[1:])) == {}  # one to one
    safe = (Vote("a", "safe_1", 0),)
    assert kinds(replace(PAIR, safe=(None, True), votes=safe)) == {"votes_against_label": "warning"}
    assert kinds(replace(PAIR, safe=(True, False), votes=safe)) == {}


def test_an_annotator_has_one_vote_on_a_question() -> None:
    pair = replace(PAIR, votes=(Vote("a", "safer", 1), Vote("a", "safer", 0), Vote("a", "better", 0)))
    assert kinds(pair) == {"repeated_vote": "warning"}
    answers = one_vote_each(pair)
    assert answers["safer"] == {"a": 1}
    assert answers["better"] == {"a": 0}


def test_every_kind_that_code_names_is_in_the_table() -> None:
    """Kinds are the first text that is given to the functions that make findings."""
    makers = {"finding", "Finding", "RowError", "add", "_tally_rows"}
    second = {"unusable"}
    named: set[str] = set()
    for path in sorted((ROOT / "learner" / "data").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                places = node.args[:1] if name in makers else node.args[1:2] if name in second else []
                named |= {
                    each.value for each in places if isinstance(each, ast.Constant) and isinstance(each.value, str)
                }
    assert named >= {"contradictory_labels", "leaked_prompt", "wrong_type", "bad_csv"}
    assert named <= set(KINDS)


def test_the_page_shows_the_table() -> None:
    """If this fails: python -m learner.data.kinds docs/data.md."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert with_table(page) == page
    assert all(f"| `{kind}` |" in page for kind in KINDS)


def test_the_table_needs_its_markers_and_unbroken_rows() -> None:
    with pytest.raises(ValueError, match="FINDINGS"):
        with_table("no markers")
    assert all(line.count("|") == 5 for line in kinds_table().splitlines())
