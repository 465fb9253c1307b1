"""Prompt and response as tokens: what is cut, what is marked, what is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.exits import ConfigError, DataError
from learner.data.tokenise import TokenisedResponse, UnusableRow, tokenise
from learner.data.tokenizer import PAD, build_tokenizer, conversation_token_ids

TOKENIZER = build_tokenizer([*"abcdefghijklm"], 64)
TURNS = (
    {"role": "user", "content": "a b c"},
    {"role": "assistant", "content": "d e"},
    {"role": "user", "content": "f g"},
)
"""<bos> <user> a b c <assistant> d e <eos> <user> f g <assistant>: 13 tokens, 5 without the first two turns."""


def made(response: str = "h i", prompt=TURNS, *, length: int = 32, most: int = 13) -> TokenisedResponse:
    return tokenise(TOKENIZER, prompt, response, max_length=length, max_prompt=most, prompt_id="p7")


def test_what_fits_is_the_whole_conversation_and_ends_with_the_end_token() -> None:
    found = made()
    ids, prompt_length = conversation_token_ids(TOKENIZER, [*TURNS, {"role": "assistant", "content": "h i"}])
    assert (list(found.ids), found.prompt_length, found.cut) == (ids, prompt_length, False)
    assert TOKENIZER.decode(found.ids[found.prompt_length :]) == "h i <eos>" and found.response_length == 3


def test_a_long_prompt_loses_whole_turns_at_its_start() -> None:
    found = made(most=12)
    assert TOKENIZER.decode(found.ids) == "<bos> <user> f g <assistant> h i <eos>" and not found.cut
    assert found.prompt_length == 5


@pytest.mark.parametrize(("length", "response", "cut"), [(16, "h i <eos>", False), (15, "h i", True), (14, "h", True)])
def test_a_response_keeps_its_end_token_or_is_marked_as_cut(length: int, response: str, cut: bool) -> None:
    found = made(length=length)
    assert TOKENIZER.decode(found.ids[found.prompt_length :]) == response
    assert found.cut is cut and len(found.ids) == length


@given(st.integers(0, 40), st.integers(6, 30), st.data())
def test_lengths_alone_tell_prompt_from_response(words: int, length: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(5, length - 1))
    found = made(" ".join(["m"] * (words + 1)), length=length, most=most)
    assert len(found.ids) <= length and found.prompt_length <= most and found.response_length >= 1
    assert found.cut == (found.ids[-1] != TOKENIZER.eos_token_id) == (found.prompt_length + words + 2 > length)


@pytest.mark.parametrize(
    ("response", "kind", "message"),
    [
        ("", "empty_response", r"prompt p7: the response has no text"),
        (" \n", "empty_response", r"prompt p7: the response has no text"),
        (f"h {PAD} i", "special_token", r"prompt p7: the response holds the special token <pad>"),
        ("h \ud83d i", "bad_encoding", r"prompt p7: the response holds half a surrogate pair at character 3"),
    ],
)
def test_a_response_that_cannot_be_used_is_refused_by_name(response: str, kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        made(response)
    assert isinstance(caught.value, UnusableRow) and caught.value.kind == kind


def test_a_prompt_that_cannot_be_used_is_refused_by_name() -> None:
    for prompt, most, message in (
        (TURNS, 4, r"prompt p7: its last turn alone is 5 tokens, and 4 are left"),
        (TURNS[:2], 13, r"prompt p7 does not end with a user's turn"),
        ((), 13, r"prompt p7 does not end with a user's turn"),
        (({"role": "user", "content": "a <eos> b"},), 13, r"prompt p7: a user turn holds the special token <eos>"),
    ):
        with pytest.raises(UnusableRow, match=message):
            made(prompt=prompt, most=most)


def test_a_template_that_refuses_a_conversation_is_no_crash() -> None:
    strict = build_tokenizer(["a"], 16)
    strict.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UnusableRow, match=r"prompt p7: the chat template refuses it \(System role not supported\)"):
        tokenise(strict, TURNS[:1], "a", max_length=16, max_prompt=8, prompt_id="p7")


@pytest.mark.parametrize(("length", "most"), [(8, 8), (8, 9), (8, 0), (1, 1)])
def test_limits_without_room_are_refused(length: int, most: int) -> None:
    with pytest.raises(ConfigError, match=rf"up to {most} tokens leaves no room for a response within {length}"):
        made(length=length, most=most)
