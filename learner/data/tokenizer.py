"""The word-level tokenizer of the sandbox, chat templates, and token ids of prompts and conversations.

Prompt: ``<bos><user> how do i … <assistant>``; an assistant turn inside ends with ``<eos>``. A response is its tokens
and then ``<eos>``. A prompt that is too long loses whole turns at its start (`fit_prompt`), never its end: cut on the
right it would lose its ``<assistant>`` tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from configs.exits import ConfigError, DataError
from learner.model_files.remote_code import is_allowed
from learner.records import Message

PAD, UNK, BOS, EOS, USER, ASSISTANT = "<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<assistant>"
SPECIAL_TOKENS = (PAD, UNK, BOS, EOS, USER, ASSISTANT)
"""Ids 0 to 5, in this order."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant> {{ message['content'] }} {{ eos_token }}"
    "{% else %}<user> {{ message['content'] }} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A system turn reads as a user turn: the small vocabulary has no role for it."""


def build_tokenizer(vocabulary_words: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer that knows exactly these words, split on whitespace; ids follow the given order.

    Args:
        words: the vocabulary, without the special tokens; repeated words are taken once.
        max_length: positions of the models it is for, in tokens.

    Raises:
        ConfigError: no word, or a word that holds whitespace or is a special token.
    """
    unique = list(dict.fromkeys(vocabulary_words))
    wrong = [
        entry for entry in unique if not entry or entry.split() != [entry] or any(s in entry for s in SPECIAL_TOKENS)
    ]
    if not unique or wrong:
        raise ConfigError(f"the tokenizer needs words, without spaces and special tokens; wrong: {wrong[:5]}")
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *unique])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def load_tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder.

    Raises:
        DataError: the folder holds none, or it has no pad token of its own.
    """
    if not (Path(path) / "tokenizer_config.json").is_file():
        raise DataError(f"{path} holds no tokenizer (no tokenizer_config.json): give a Hugging Face model folder")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(path), local_files_only=True, trust_remote_code=is_allowed()
    )
    check_pad_token(tokenizer)
    return tokenizer


def check_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a pad token that can occur in text: score models pool at the last token that is not pad.

    Raises:
        DataError: pad is missing or is the end token.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise DataError(
            f"the pad token is {tokenizer.pad_token!r} and the end token {tokenizer.eos_token!r}: "
            "give the tokenizer a pad token that never occurs in text"
        )


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation that waits for the assistant, by the tokenizer's chat template.

    Raises:
        DataError: no message, the last is the assistant's, a text holds a special token, or no room is left to answer.
    """
    ids = _rendered(tokenizer, messages)
    if len(ids) >= tokenizer.model_max_length:
        raise DataError(
            f"a prompt of {len(ids)} tokens leaves no room for a response within {tokenizer.model_max_length}: "
            "shorten it or raise model.max_length"
        )
    return ids


def fit_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    max_tokens: int,
    *,
    prompt_id: str,
    right: bool = False,
) -> list[int]:
    """Token ids of a conversation that waits for the assistant, at most `max_tokens` of them.

    A prompt that is too long loses whole turns at its start, as few as will do; what is left starts with a user's turn,
    and system turns at the very start stay. With `right` it is cut at its end, in tokens, as the papers' reference does:
    the last question and the assistant's tag may go.

    Raises:
        ConfigError: `max_tokens` is not above 0.
        DataError: as `prompt_token_ids`; or the last turn alone, with the system turns, is too long.
    """
    if max_tokens < 1:
        raise ConfigError(
            f"{max_tokens} tokens are left for a prompt: raise model.max_length or lower ppo.max_response_tokens"
        )
    ids = _rendered(tokenizer, messages)
    if len(ids) <= max_tokens:
        return ids
    if right:
        return ids[:max_tokens]
    system = next((index for index, message in enumerate(messages) if message["role"] != "system"), len(messages))
    for start in range(system + 1, len(messages)):
        if messages[start]["role"] == "user":
            ids = _rendered(tokenizer, [*messages[:system], *messages[start:]])
            if len(ids) <= max_tokens:
                return ids
    raise DataError(
        f"prompt {prompt_id}: its last turn alone is {len(ids)} tokens, and {max_tokens} are left for a prompt: "
        "shorten it or raise model.max_length"
    )


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The conversation by the chat template, of any length."""
    if not messages or messages[-1]["role"] == "assistant":
        raise DataError("a prompt must end with a user's turn: drop the last assistant turn, or add a question")
    for message in messages:
        _refuse_special_tokens(tokenizer, message["content"])
    text = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def conversation_token_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[list[int], int]:
    """Token ids of prompt and response, ending with the end token, and the prompt's length in tokens.

    Args:
        messages: a conversation whose last turn is the assistant's response.

    Raises:
        DataError: the last turn is not the assistant's, or the whole is longer than the tokenizer's `model_max_length`.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError("a demonstration must end with an assistant's turn: that is what is learned")
    prompt = prompt_token_ids(tokenizer, messages[:-1])
    content = messages[-1]["content"]
    _refuse_special_tokens(tokenizer, content)
    ids = [*prompt, *tokenizer(content, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    if len(ids) > tokenizer.model_max_length:
        raise DataError(
            f"a conversation of {len(ids)} tokens is longer than the {tokenizer.model_max_length} positions: "
            "shorten it or raise model.max_length"
        )
    return ids, len(prompt)


def _refuse_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """A special token inside a text would forge a turn, or be mistaken for padding."""
    for token in tokenizer.all_special_tokens:
        if token in text:
            raise DataError(f"the text {text[:60]!r} holds the special token {token}: remove it")
