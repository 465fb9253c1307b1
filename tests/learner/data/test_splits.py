"""Purposes of real prompts: stable, disjoint, in the shares asked for, and the same five as the sandbox's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.inputs.sandbox_prompts import PURPOSES as SANDBOX_PURPOSES
from configs.exits import ConfigError
from learner.data.splits import PURPOSES, Shares, SplitTally, half_of, purpose_of, split_document

SHARES = Shares(holdout=0.1, calibration=0.1, selection=0.05, certificate=0.15)


PINNED = {
    **dict.fromkeys((7, 10, 14, 16, 19, 24, 29, 38), "holdout"),
    28: "calibration",
    **dict.fromkeys((1, 5, 11, 17, 18, 26, 30, 31, 39), "certificate"),
}
HALVES = "1000100111001111"


def asked(text: str, *later: str) -> tuple[dict[str, str], ...]:
    turns = [("user", text)]
    for each in later:
        turns += [("assistant", "Go on."), ("user", each)]
    return tuple({"role": role, "content": content} for role, content in turns)


def test_the_purposes_are_the_sandboxs() -> None:
    assert PURPOSES == SANDBOX_PURPOSES


def test_each_purpose_gets_its_share() -> None:
    found = [purpose_of(asked(f"question {number}"), SHARES) for number in range(8_000)]
    for purpose, share in {"train": 0.6, **SHARES.kept}.items():
        assert found.count(purpose) / len(found) == pytest.approx(share, abs=0.015), purpose


def test_purposes_never_move() -> None:
    """Another hash would put what trained last week among what is judged today."""
    found = [purpose_of(asked(f"question {number}"), SHARES) for number in range(40)]
    assert {index: purpose for index, purpose in enumerate(found) if purpose != "train"} == PINNED
    assert "".join(str(half_of(asked(f"question {number}"))) for number in range(16)) == HALVES


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_capitals_and_white_space_change_nothing(texts: list[str]) -> None:
    prompt = asked(*texts)
    loud = asked(*(f" \n{text} \t" for text in texts))
    assert purpose_of(prompt, SHARES) == purpose_of(loud, SHARES) and half_of(prompt) == half_of(loud)
    plain, upper = asked("Is it A cat?"), asked("is  IT a CAT?")
    assert purpose_of(plain, SHARES) == purpose_of(upper, SHARES)


def test_a_larger_last_share_takes_from_training_alone() -> None:
    more = Shares(holdout=0.1, calibration=0.1, selection=0.05, certificate=0.25)
    for number in range(2000):
        before, after = (purpose_of(asked(str(number)), shares) for shares in (SHARES, more))
        assert before == after or (before, after) == ("train", "certificate")


def test_cuts_of_one_conversation_stay_together_where_that_is_asked_for() -> None:
    by_opening = Shares(holdout=0.25, calibration=0.25, by="opening")
    for number in range(50):
        cuts = [asked(f"opening {number}", *map(str, range(length))) for length in range(5)]
        assert len({purpose_of(cut, by_opening) for cut in cuts}) == 1
        assert len({half_of(cut, "opening") for cut in cuts}) == 1
    by_prompt = Shares(holdout=0.25, calibration=0.25)
    assert len({purpose_of(asked("opening", str(number)), by_prompt) for number in range(50)}) == 3


def test_halves_are_even_and_say_nothing_about_the_purpose() -> None:
    prompts = [asked(f"question {number}") for number in range(8000)]
    held = [prompt for prompt in prompts if purpose_of(prompt, SHARES) == "certificate"]
    assert sum(map(half_of, prompts)) / len(prompts) == pytest.approx(0.5, abs=0.02)
    assert sum(map(half_of, held)) / len(held) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"holdout": -0.1, "calibration": 0.1}, "negative"),
        ({"holdout": float("nan"), "calibration": 0.1}, "negative"),
        ({"holdout": 0.3, "calibration": 0.3}, r"add up to 0\.6: more than half"),
    ],
)
def test_shares_that_make_no_sense_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Shares(**shares)


def test_the_document_counts_different_prompts_and_its_digest_does_not_see_their_order() -> None:
    documents = []
    for numbers in ([1, 2, 3, 2], [3, 2, 1]):
        tally = SplitTally("opening")
        for number in numbers:
            tally.add("train", asked(str(number)))
        tally.add("holdout", asked("held"))
        documents.append(tally.document())
    assert documents[0] == documents[1]
    assert documents[0]["disjoint"] is True and documents[0]["by"] == "opening"
    assert {name: each["prompts"] for name, each in documents[0]["purposes"].items()} == {
        **dict.fromkeys(PURPOSES, 0),
        "train": 3,
        "holdout": 1,
    }
    other = SplitTally()
    other.add("train", asked("9"))
    assert other.document()["purposes"]["train"]["digest"] != documents[0]["purposes"]["train"]["digest"]


def test_a_document_of_unknown_purposes_is_refused() -> None:
    with pytest.raises(ValueError, match="no purpose 'test'"):
        split_document({"test": 1}, {"test": "ab"})
    with pytest.raises(ValueError, match="train have no digest"):
        split_document({"train": 1}, {})
