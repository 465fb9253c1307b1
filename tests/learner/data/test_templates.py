"""Chat templates by name: exact strings, and what their tokens must keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from configs.exits import ConfigError, DataError
from learner.data.bpe import train_byte_level_bpe
from learner.data.templates import TEMPLATES, with_template
from learner.data.tokenizer import build_tokenizer

TALK = [
    {"role": "user", "content": "Is the path open?"},
    {"role": "assistant", "content": "Which side?"},
    {"role": "user", "content": "The left."},
    {"role": "assistant", "content": "It is."},
]
SYSTEM = {"role": "system", "content": "Be kind."}
TRAINED = {
    name: train_byte_level_bpe([turn["content"] for turn in TALK], vocab_size=300, max_length=512, template=name)
    for name in TEMPLATES
}
PROMPTS = {
    "papers": "<bos>BEGINNING OF CONVERSATION: USER: Is the path open? ASSISTANT:Which side?<eos>USER: The left. ASSISTANT:",
    "hh": "<bos>\n\nHuman: Is the path open?\n\nAssistant:Which side?<eos>\n\nHuman: The left.\n\nAssistant:",
    "chatml": (
        "<bos><|im_start|>user\nIs the path open?<|im_end|>\n<|im_start|>assistant\nWhich side?<|im_end|>\n"
        "<|im_start|>user\nThe left.<|im_end|>\n<|im_start|>assistant\n"
    ),
}
WHOLE = {
    "papers": PROMPTS["papers"] + "It is.<eos>",
    "hh": PROMPTS["hh"] + "It is.<eos>",
    "chatml": PROMPTS["chatml"] + "It is.<|im_end|>\n",
}
WITH_SYSTEM = {
    "papers": "<bos>BEGINNING OF CONVERSATION: Be kind. USER: Is the path open? ASSISTANT:",
    "hh": "<bos>Be kind.\n\nHuman: Is the path open?\n\nAssistant:",
    "chatml": (
        "<bos><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nIs the path open?<|im_end|>\n<|im_start|>assistant\n"
    ),
}


def rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, waits: bool) -> str:
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=waits)


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_exact_text_of_a_conversation(name: str) -> None:
    tokenizer = TRAINED[name]
    assert rendered(tokenizer, TALK[:3], waits=True) == PROMPTS[name]
    assert rendered(tokenizer, TALK, waits=False) == WHOLE[name]
    assert rendered(tokenizer, [SYSTEM, TALK[0]], waits=True) == WITH_SYSTEM[name]


@pytest.mark.parametrize("name", TEMPLATES)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.lstrip).filter(bool),
        min_size=4,
        max_size=4,
    )
)
def test_what_waits_for_an_answer_is_a_prefix_of_what_has_it_and_each_answer_ends_once(
    name: str, texts: list[str]
) -> None:
    tokenizer = TRAINED[name]
    if any(token in text for text in texts for token in tokenizer.all_special_tokens):
        return
    turns = [{"role": turn["role"], "content": text} for turn, text in zip(TALK, texts, strict=True)]
    waiting, whole = (
        ids(tokenizer, rendered(tokenizer, some, waits=waits)) for some, waits in ((turns[:3], True), (turns, False))
    )
    answered = [*waiting, *ids(tokenizer, texts[3]), tokenizer.eos_token_id]
    assert whole[: len(answered)] == answered
    ends = whole.count(tokenizer.eos_token_id)
    assert ends == (2 if name != "chatml" else 4)  # ChatML ends every turn
    assert whole.count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_keeps_its_own_template_unless_another_is_named() -> None:
    own = build_tokenizer(["a", "b"], 16)
    assert with_template(own, None) is own
    named = with_template(own, "papers")
    assert named is not own and named.chat_template == TEMPLATES["papers"].jinja
    assert own.chat_template != named.chat_template and named.eos_token == own.eos_token


def test_a_tokenizer_without_a_template_needs_a_name() -> None:
    bare = build_tokenizer(["a", "b"], 16)
    bare.chat_template = None
    with pytest.raises(ConfigError, match=r"has no chat template: name one of papers, hh, chatml"):
        with_template(bare, None)
    assert with_template(bare, "hh").chat_template


def test_an_unknown_name_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"no chat template 'chat_ml'; did you mean 'chatml'\?"):
        with_template(build_tokenizer(["a"], 16), "chat_ml")


def test_chatml_needs_its_tokens_and_ends_with_its_end() -> None:
    with pytest.raises(ConfigError, match=r"needs the token <\|im_start\|>.*use papers, hh"):
        with_template(build_tokenizer(["a"], 16), "chatml")
    tokens = ["<|im_start|>", "<|im_end|>"]
    named = with_template(build_tokenizer(["a", *tokens], 16), "chatml")
    assert named.eos_token == "<|im_end|>" and {*tokens} <= {*named.all_special_tokens}
    assert len(named) == len(build_tokenizer(["a", *tokens], 16))
    wrong = build_tokenizer(["a", *tokens], 16)
    wrong.pad_token = "<|im_end|>"
    with pytest.raises(DataError, match="pad token"):
        with_template(wrong, "chatml")


def test_one_token_for_begin_and_end_is_not_put_at_the_start() -> None:
    tokenizer = build_tokenizer(["a"], 16)
    tokenizer.bos_token = tokenizer.eos_token
    assert rendered(with_template(tokenizer, "papers"), TALK[:1], waits=True).startswith("BEGINNING")
