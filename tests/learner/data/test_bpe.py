"""The trained byte-level tokenizer: any text round-trips, and the same texts give the same tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from configs.exits import ConfigError, DataError
from learner.data.bpe import train_byte_level_bpe
from learner.data.formats import read_source
from learner.data.records import PreferencePair
from learner.data.tokenizer import check_pad_token, load_tokenizer
from tests.paths import SHARED

FILE = SHARED / "data" / "hh-rlhf" / "harmless-base-1500.jsonl.gz"
TEXTS = [
    f"the {what} of the {where} is here, is it not?" for what in ("cat", "dog") for where in ("house", "street")
] * 4


def trained(texts: list[str] = TEXTS, size: int = 290, template: str = "papers") -> PreTrainedTokenizerFast:
    return train_byte_level_bpe(texts, vocab_size=size, max_length=128, template=template)


TOKENIZER = trained()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    if not any(token in text for token in TOKENIZER.all_special_tokens):
        assert not {*ids} & {*TOKENIZER.all_special_ids}


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "😀👩‍👩‍👧‍👦", "\r\n\t \n", "  two  spaces ", "USER: x ASSISTANT:", "�", "é", "e\u0301", ""]
)
def test_awkward_texts_come_back_as_they_were(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False)["input_ids"]) == text


def test_the_same_texts_give_the_same_bytes_in_any_order_and_as_a_stream() -> None:
    shuffled = random.Random(3).sample(TEXTS, len(TEXTS))
    found = {tokenizer.backend_tokenizer.to_str() for tokenizer in (trained(), trained(shuffled))}
    streamed = train_byte_level_bpe((text for text in TEXTS), vocab_size=290, max_length=128, template="papers")
    assert found == {streamed.backend_tokenizer.to_str()}
    assert found != {trained([*TEXTS[:4], "quite other words, quite other words"]).backend_tokenizer.to_str()}


def test_merges_are_learned_and_the_size_is_kept() -> None:
    assert len(TOKENIZER) == 290
    assert len(TOKENIZER("the cat is here", add_special_tokens=False)["input_ids"]) < 9
    assert len(trained(["ab"])) < 290, "no pair is left that occurs twice"


@pytest.mark.parametrize(("template", "marker"), [("papers", " ASSISTANT:"), ("hh", "\n\nHuman: ")])
def test_markers_are_one_token_and_no_special_one(template: str, marker: str) -> None:
    tokenizer = trained(template=template)
    ids = tokenizer(f"the{marker}cat", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids(marker) in ids and marker not in tokenizer.all_special_tokens
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1


@pytest.mark.parametrize("template", ["papers", "chatml"])
def test_special_tokens_are_apart_and_survive_saving(template: str, tmp_path: Path) -> None:
    tokenizer = trained(template=template)
    named = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert len({*named}) == 4
    check_pad_token(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "cat 😀"}], tokenize=False, add_generation_prompt=True
    )
    assert loaded(text, add_special_tokens=False)["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template and loaded.model_max_length == 128
    assert loaded.all_special_tokens == tokenizer.all_special_tokens and len(loaded) == len(tokenizer)


def test_texts_are_read_once_and_half_a_surrogate_pair_does_no_harm() -> None:
    read = []

    def stream() -> Iterator[str]:
        for text in [*TEXTS, "half \ud800 a pair"]:
            read.append(text)
            yield text

    tokenizer = train_byte_level_bpe(stream(), vocab_size=290, max_length=128, template="papers")
    assert len(read) == len(TEXTS) + 1 and len(tokenizer) == 290


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a vocabulary of 262 has no room .*: give at least 263"):
        trained(size=262)
    assert len(trained(size=263)) == 263
    with pytest.raises(ConfigError, match=r"no chat template 'paper'; did you mean 'papers'\?"):
        trained(template="paper")
    with pytest.raises(ConfigError, match="0 positions"):
        train_byte_level_bpe(TEXTS, vocab_size=300, max_length=0, template="hh")
    for nothing in ([], ["", ""]):
        with pytest.raises(DataError, match="no text to be trained on"):
            trained(nothing)


@pytest.mark.skipif(not FILE.exists(), reason="the shared data are not there")
def test_real_conversations_come_back_in_fewer_tokens_than_bytes() -> None:
    records = [each.record for each in islice(read_source(str(FILE)), 200) if isinstance(each.record, PreferencePair)]
    texts = [text for record in records for text in (*(turn["content"] for turn in record.prompt), *record.responses)]
    tokenizer = trained(texts, size=1000, template="hh")
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(each) for each in ids] == texts
    assert sum(map(len, ids)) < 0.45 * sum(len(text.encode()) for text in texts)
