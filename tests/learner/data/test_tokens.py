"""Prompts that are too long: what is cut, and what never is."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from configs.exits import ConfigError, DataError
from learner.data.tokenizer import build_tokenizer, fit_prompt, prompt_token_ids

SYSTEM = {"role": "system", "content": "be kind"}
TURNS = (
    {"role": "user", "content": "a b c"},
    {"role": "assistant", "content": "d e"},
    {"role": "user", "content": "f g"},
    {"role": "assistant", "content": "h"},
    {"role": "user", "content": "i j k l"},
)
WHOLE = "<bos> <user> a b c <assistant> d e <eos> <user> f g <assistant> h <eos> <user> i j k l <assistant>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer([*"abcdefghijkl", "be", "kind"], 24)


def fitted(
    tokenizer: PreTrainedTokenizerFast, most: int, turns: tuple[dict[str, str], ...] = TURNS, **how: bool
) -> str:
    ids = fit_prompt(tokenizer, turns, most, prompt_id="p7", **how)
    assert len(ids) <= most
    return tokenizer.decode(ids)


def test_a_prompt_that_fits_is_left_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert fitted(tokenizer, 21) == WHOLE
    assert fit_prompt(tokenizer, TURNS, 21, prompt_id="p7") == prompt_token_ids(tokenizer, TURNS)


@pytest.mark.parametrize(
    ("most", "left"),
    [
        (20, "<bos> <user> f g <assistant> h <eos> <user> i j k l <assistant>"),
        (13, "<bos> <user> f g <assistant> h <eos> <user> i j k l <assistant>"),
        (12, "<bos> <user> i j k l <assistant>"),
        (7, "<bos> <user> i j k l <assistant>"),
    ],
)
def test_whole_turns_go_at_the_start_and_as_few_as_will_do(
    tokenizer: PreTrainedTokenizerFast, most: int, left: str
) -> None:
    assert fitted(tokenizer, most) == left


def test_system_turns_at_the_start_stay(tokenizer: PreTrainedTokenizerFast) -> None:
    assert fitted(tokenizer, 10, (SYSTEM, *TURNS)) == "<bos> <user> be kind <user> i j k l <assistant>"


def test_a_last_turn_that_is_too_long_is_refused_by_name(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"prompt p7: .* 7 tokens, and 6 are left"):
        fitted(tokenizer, 6)
    with pytest.raises(DataError, match=r"10 tokens, and 9 are left"):
        fitted(tokenizer, 9, (SYSTEM, *TURNS))
    with pytest.raises(DataError, match="2 are left"):
        fitted(tokenizer, 2, (SYSTEM,))


def test_right_cuts_the_end_as_the_reference_does(tokenizer: PreTrainedTokenizerFast) -> None:
    assert fitted(tokenizer, 20, right=True) == WHOLE.removesuffix(" <assistant>")
    assert fitted(tokenizer, 3, right=True) == "<bos> <user> a"
    assert fitted(tokenizer, 21, right=True) == WHOLE


def test_a_prompt_longer_than_the_models_positions_is_cut_too(tokenizer: PreTrainedTokenizerFast) -> None:
    long = ({"role": "user", "content": "a " * 30}, *TURNS[1:])
    assert fitted(tokenizer, 13, long) == "<bos> <user> f g <assistant> h <eos> <user> i j k l <assistant>"


def test_no_room_and_no_question_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="max_response_tokens"):
        fitted(tokenizer, 0)
    with pytest.raises(DataError, match="end with a user"):
        fitted(tokenizer, 20, TURNS[:2])
    with pytest.raises(DataError, match="special token"):
        fitted(tokenizer, 20, ({"role": "user", "content": "<eos>"},))
