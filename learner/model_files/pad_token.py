"""End and pad token of a tokenizer that comes with a pretrained model.

A pad token must not occur in text: plain transformers reads a score at the last token that is not pad, and a text with the
pad token inside is refused (`learner.data.tokenise`). Our own masks come from lengths and do not care.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from configs.exits import DataError

NEW_PAD = "<|pad|>"
ROW_MULTIPLE = 8
"""An embedding that grows gets a multiple of this many rows, which kernels like."""

_RESERVED = (
    r"<\|finetune_right_pad_id\|>",  # Llama 3.1 and later: made for this
    r"(<\|?|\[)pad(\|?>|\])|<\|fim_pad\|>|<\|vision_pad\|>",  # the last two: Qwen 2.5 and 3
    r"<\|reserved_special_token_\d+\|>",  # Llama 3
    r"\[control_\d+\]|<\|placeholder\d+\|>|<\|dummy_\d+\|>|<\|extra_\d+\|>|<unused\d+>",  # Mistral, Phi, Phi 4, Qwen, Gemma
)
"""Tokens that vocabularies keep free, the fittest first."""
_ODD_TEXT = "\u0f04\u16a0\U0001f9ff\x07\ue000 zq\u0301"
"""A vocabulary that reads this without its unknown token reads everything without it."""
_MARK = "Steelyard"


_CONTROL_FORM = re.compile(r"\s*[<\[{(|\u2581].+[>\]})|]\s*")


def is_control_form(token: str) -> bool:
    """Whether a token is written as control tokens are, in brackets of some kind, and not as something a text may well hold."""
    return _CONTROL_FORM.fullmatch(token) is not None


@dataclass
class PadChoice:
    """What became of the pad token."""

    rows: int
    """That the embedding needs."""
    drawable: int
    """Ids below this may be drawn."""
    changes: list[str] = field(default_factory=list)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The token with which the tokenizer's template closes an assistant's turn; None where it is no token of its own.

    Chat models are often saved with another end token than this (Phi-3, Gemma, Qwen's base models), and name both in
    ``generation_config.json``. A response must end as a turn of the past does.

    Raises:
        jinja2.TemplateError: the template refuses a question and its answer.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    tail = text.rpartition(_MARK)[2].lstrip()
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    return next((token for token in added if token.strip() and tail.startswith(token)), None)


def choose_pad_token(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> PadChoice:
    """Give the tokenizer a pad token that no text can hold, where it has none; the fittest first.

    Its own, unless that is the end token; a free special token of the vocabulary; the unknown token, where no text gives it;
    a new token in a row of the embedding that no token has; a new token and a larger embedding.

    Args:
        rows: of the embedding.
        name: of the model, for messages.

    Raises:
        DataError: the tokenizer has tokens in use that the embedding has no row for.
    """
    vocabulary = tokenizer.get_vocab()
    ids = max(vocabulary.values()) + 1
    beyond = [token for token, token_id in vocabulary.items() if token_id >= rows]
    if wrong := sorted(set(beyond) - set(tokenizer.get_added_vocab())):
        raise DataError(
            f"{name}: the token {wrong[0]!r} ({len(wrong)} in all) has no row in an embedding of {rows} rows: "
            "the tokenizer is another model's"
        )
    for role in ("bos_token", "eos_token"):
        if (token := getattr(tokenizer, role)) in beyond:
            raise DataError(
                f"{name}: its {role} {token} has no row in an embedding of {rows} rows: the tokenizer is another model's"
            )
    before = tokenizer.pad_token
    if before is not None and before not in beyond and _fits(tokenizer, before):
        return PadChoice(rows, ids)
    free = _free_token(tokenizer, rows)
    unknown = tokenizer.unk_token
    # A class of transformers' adds its usual unknown token to a vocabulary without one, perhaps beyond the last row.
    if free is None and unknown is not None and unknown not in beyond and _fits(tokenizer, unknown):
        free = str(unknown)
    if free is not None:
        tokenizer.pad_token = free
        return PadChoice(rows, ids, [f"the pad token is {free} in place of {before}"])
    tokenizer.add_special_tokens({"pad_token": NEW_PAD})
    token_id = int(tokenizer.pad_token_id)
    changes = [f"the pad token is {NEW_PAD}, a new one with id {token_id}, in place of {before}"]
    return PadChoice(rows if token_id < rows else -(-(token_id + 1) // ROW_MULTIPLE) * ROW_MULTIPLE, ids, changes)


def _free_token(tokenizer: PreTrainedTokenizerBase, rows: int) -> str | None:
    """A special token that the vocabulary keeps free and the template does not write."""
    template = str(tokenizer.chat_template)
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    tokens = {
        token_id: token
        for token, token_id in tokenizer.get_added_vocab().items()
        if token_id < rows and token not in used
    }
    for pattern in _RESERVED:
        for token_id in sorted(tokens):
            if re.fullmatch(pattern, tokens[token_id], re.IGNORECASE) and tokens[token_id] not in template:
                return tokens[token_id]
    return None


def _fits(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether this token can be the pad token: not the end or begin token, and no text gives it."""
    if token in (tokenizer.eos_token, tokenizer.bos_token) or not is_control_form(token):
        return False  # "!" or a space is in many a text
    if token != tokenizer.unk_token:
        return True
    return tokenizer.unk_token_id not in tokenizer(_ODD_TEXT, add_special_tokens=False)["input_ids"]
