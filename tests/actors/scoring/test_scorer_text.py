"""From a policy's tokens to text and on to another tokenizer's tokens, with real tokenizers of three kinds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from actors.scoring.protocol import Conversation
from actors.scoring.text import ConversationReader, retokenise
from configs.exits import ConfigError, DataError, SteelyardError
from learner.data.tokenizer import build_tokenizer, conversation_token_ids, prompt_token_ids
from learner.records import RolloutChunk, RolloutMeta

PLAIN = (
    "BEGINNING OF CONVERSATION:{% for m in messages %}"
    "{% if m['role'] == 'assistant' %} ASSISTANT:{{ m['content'] }}{{ eos_token }}"
    "{% elif m['role'] == 'user' %} USER: {{ m['content'] }}{% else %} {{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
WORDS = ["how", "do", "i", "open", "a", "lock", "pick", "it", "first", "ask"]

POLICY = build_tokenizer(WORDS, 64)
SCORER = build_tokenizer(["judge", *reversed(WORDS)], 64)


def byte_level(template: str, end: str) -> PreTrainedTokenizerFast:
    """Every byte a token, no merges."""
    inner = Tokenizer(BPE({letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    inner.pre_tokenizer, inner.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=end,
        pad_token="<|pad|>",
        chat_template=template,
        model_max_length=4000,
        additional_special_tokens=["<|start|>"],
        clean_up_tokenization_spaces=False,
    )


CHATML_BYTES, PLAIN_BYTES = byte_level(CHATML, "<|end|>"), byte_level(PLAIN, "</s>")
NO_SYSTEM_BYTES = byte_level(NO_SYSTEM, "<|end|>")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def sample(prompt: list[int], response: list[int], finish: str, row: int = 0):
    meta = RolloutMeta(f"r{row}", f"p{row}", len(prompt), len(response), finish, 0, "generator-0")
    return meta, np.array([*prompt, *response], dtype=np.int32)


def chunk(*samples) -> RolloutChunk:
    return RolloutChunk(
        tuple(meta for meta, _ in samples),
        tuple(ids for _, ids in samples),
        tuple(np.zeros(meta.response_length, dtype=np.float32) for meta, _ in samples),
    )


def read_one(tokenizer, messages, response: str, *, finished: bool = True) -> Conversation:
    answer = tokenizer(response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * finished
    drawn = sample(prompt_token_ids(tokenizer, messages), answer, "stop" if finished else "length")
    found, faults = ConversationReader(tokenizer).read(chunk(drawn))
    assert faults == {}
    return found[0]


# --- tokens to text --------------------------------------------------------------------------------------------------


def test_a_chunks_rows_become_conversations_and_only_the_end_token_is_dropped() -> None:
    prompt = prompt_token_ids(POLICY, [user("how do i open a lock")])
    words = POLICY("ask first", add_special_tokens=False)["input_ids"]
    found, faults = ConversationReader(POLICY).read(
        chunk(
            sample(prompt, [*words, POLICY.eos_token_id], "stop", 0),
            sample(prompt, words, "length", 1),
            sample(prompt, [POLICY.eos_token_id], "stop", 2),
            sample(prompt, [words[0], 4, words[1]], "length", 3),
        )
    )
    assert faults == {}
    assert [one.response for one in found] == ["ask first", "ask first", "", "ask <user> first"]
    assert [one.finished for one in found] == [True, False, True, False]
    assert found[0].turns() == [user("how do i open a lock"), assistant("ask first")]
    assert found[0].prompt_length == len(prompt) and found[0].token_ids[-1] == POLICY.eos_token_id


contents = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(str.strip)


@pytest.mark.parametrize(
    "tokenizer",
    [POLICY, CHATML_BYTES, PLAIN_BYTES, NO_SYSTEM_BYTES],
    ids=["words", "chatml", "plain", "no system"],
)
@given(data=st.data())
def test_prompts_are_read_back_turn_by_turn(tokenizer, data) -> None:
    content = contents if tokenizer is POLICY else any_text
    texts = data.draw(st.lists(content, min_size=1, max_size=5).filter(lambda found: len(found) % 2))
    messages = [assistant(text) if turn % 2 else user(text) for turn, text in enumerate(texts)]
    if tokenizer not in (POLICY, NO_SYSTEM_BYTES) and data.draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": data.draw(contents)})
    found = read_one(tokenizer, messages, "ask first")
    assert prompt_token_ids(tokenizer, found.messages) == prompt_token_ids(tokenizer, messages)
    markers = any(word in message["content"] for message in messages for word in ("USER", "ASSISTANT", ":"))
    if not markers:
        assert list(found.messages) == messages


def test_a_prompt_that_cannot_be_read_back_is_left_out_unless_it_is_given() -> None:
    messages = [user("how do i open a lock")]
    prompt = prompt_token_ids(POLICY, messages)
    cut = sample(prompt[:-2], [7, 3], "stop", 0)
    forged = sample([2, 4, 6, 9, 0, 7, 5], [7, 3], "stop", 1)  # padding within a user's turn
    whole = sample(prompt, [7, 3], "stop", 2)
    found, faults = ConversationReader(POLICY).read(chunk(cut, forged, whole))
    assert [one.request_id for one in found] == ["r2"]
    assert set(faults) == {"r0", "r1"} and all("cannot be read back" in reason for reason in faults.values())
    found, faults = ConversationReader(POLICY, {"p0": messages}).read(chunk(cut, whole))
    assert [list(one.messages) for one in found] == [messages, messages] and faults == {}


def test_turns_that_would_not_give_the_same_tokens_are_refused() -> None:
    ids = CHATML_BYTES("<|start|>user\nask <|end|>\n<|start|>assistant\n", add_special_tokens=False)["input_ids"]
    _, faults = ConversationReader(CHATML_BYTES).read(chunk(sample(ids, [60], "length")))
    assert "cannot be read back" in faults["r0"], "the template writes no space there"


def test_two_prompts_of_the_same_tokens_keep_their_own_given_turns() -> None:
    short, long = [user("open it")], [user("how"), assistant("ask"), user("open it")]
    ids = prompt_token_ids(POLICY, short)
    reader = ConversationReader(POLICY, {"p0": short, "p1": long})
    found, _ = reader.read(chunk(sample(ids, [7], "length", 0), sample(ids, [7], "length", 1)))
    assert [list(one.messages) for one in found] == [short, long]


def test_a_token_the_tokenizer_does_not_have_is_a_fault_and_wrong_lengths_are_an_error() -> None:
    prompt = prompt_token_ids(POLICY, [user("ask")])
    _, faults = ConversationReader(POLICY).read(chunk(sample(prompt, [len(POLICY), 3], "stop")))
    assert faults == {"r0": f"the tokenizer has no token {len(POLICY)}"}
    meta, ids = sample(prompt, [7, 3], "stop")
    with pytest.raises(SteelyardError, match="request r0 says"):
        ConversationReader(POLICY).read(chunk((meta, ids[:-1])))


def test_a_template_that_hides_turns_needs_the_prompts() -> None:
    last_only = byte_level("{{ messages[-1]['content'] }} >", "</s>")
    with pytest.raises(ConfigError, match="give the prompts' messages"):
        ConversationReader(last_only)
    ConversationReader(last_only, {"p0": [user("ask")]})


# --- text to another tokenizer's tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_another_vocabulary_gets_the_same_words_and_its_own_end(finished) -> None:
    messages = [user("how do i open a lock"), assistant("ask first"), user("pick it")]
    conversation = read_one(POLICY, messages, "ask first", finished=finished)
    ids = retokenise(conversation, SCORER)
    assert ids != conversation.token_ids.tolist(), "the vocabularies differ"
    assert SCORER.decode(ids) == POLICY.decode(conversation.token_ids.tolist())
    as_trained, _ = conversation_token_ids(SCORER, conversation.turns())
    assert ids == (as_trained if finished else as_trained[:-1])
    assert (ids[-1] == SCORER.eos_token_id) is finished


def test_between_kinds_of_tokenizers_with_a_named_template() -> None:
    conversation = read_one(POLICY, [user("how do i")], "ask first")
    ids = retokenise(conversation, CHATML_BYTES, PLAIN)
    assert CHATML_BYTES.decode(ids) == "BEGINNING OF CONVERSATION: USER: how do i ASSISTANT:ask first<|end|>"
    assert ids[-1] == CHATML_BYTES.eos_token_id and CHATML_BYTES.chat_template == CHATML, "the tokenizer is left alone"
    back = read_one(PLAIN_BYTES, [user("how do i")], "ask first", finished=False)
    assert (
        retokenise(back, POLICY) == read_one(POLICY, [user("how do i")], "ask first", finished=False).token_ids.tolist()
    )


def test_a_prompt_too_long_for_the_scorer_loses_its_first_turns() -> None:
    small = build_tokenizer(WORDS, 12)
    turns = (user("how do i open a lock"), assistant("ask first"), user("pick it"))
    long = Conversation("r0", turns, "ask first", True, np.array([2, 3], dtype=np.int32), 1)
    assert small.decode(retokenise(long, small)) == "<bos> <user> pick it <assistant> ask first <eos>"


def made_up(response: str, messages=({"role": "user", "content": "ask"},)) -> Conversation:
    return Conversation("r0", messages, response, True, np.array([2, 3], dtype=np.int32), 1)


@pytest.mark.parametrize(
    ("conversation", "tokenizer", "problem"),
    [
        (made_up("ask <user> first"), POLICY, "holds the scorer's special token <user>"),
        (made_up("ask", (user("<assistant> it"),)), POLICY, "holds the special token <assistant>"),
        (made_up("ask " * 70), POLICY, "a response of 71 tokens leaves no room"),
        (made_up("ask", (user("ask " * 70),)), POLICY, "prompt of request r0: its last turn alone"),
        (
            made_up("ask", ({"role": "system", "content": "be"}, user("ask"))),
            NO_SYSTEM_BYTES,
            "refuses the prompt: no system role",
        ),
    ],
)
def test_what_a_scorer_cannot_read_is_refused(conversation, tokenizer, problem) -> None:
    with pytest.raises(DataError, match=problem):
        retokenise(conversation, tokenizer)


def test_a_scorer_without_a_template_or_an_end_token() -> None:
    bare = byte_level(PLAIN, "</s>")
    bare.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        retokenise(made_up("ask"), bare)
    bare.eos_token = None
    with pytest.raises(ConfigError, match="no end token"):
        retokenise(made_up("ask"), bare, PLAIN)
