"""Chat templates by name, for tokenizers that have none of their own or are to read conversations as a paper did.

A response follows its tag without a space in all of them: what is generated, what is learned and a turn of the past are then
one form. A tokenizer that begins sequences with a token of its own keeps it; one whose begin and end token are the same does
not get it, for an end token at the start would be taken for a finished answer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from transformers import PreTrainedTokenizerBase

from configs.exits import ConfigError
from configs.explain import suggestion
from learner.data.tokenizer import check_pad_token

_BEGIN = "{% if bos_token and bos_token != eos_token %}{{ bos_token }}{% endif %}"
_PAPERS = (
    _BEGIN + "{{ 'BEGINNING OF CONVERSATION: ' }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ASSISTANT:' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ message['content'] + ' ' }}{% endif %}{% endfor %}"
)
_HH = (
    _BEGIN + "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] + '\\n\\nAssistant:' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)
_CHATML = (
    _BEGIN + "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Template:
    """One way to write a conversation."""

    jinja: str
    source: str
    markers: tuple[str, ...] = ()
    """Plain text that begins a turn. A tokenizer that is trained for the template has a token for each, so that no text
    after it changes how it is cut."""
    specials: tuple[str, ...] = ()
    """Special tokens that the tokenizer must have."""
    end: str | None = None
    """The end token; None: the tokenizer's own."""


TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        "papers": Template(
            _PAPERS,
            "Safe-RLHF, safe_rlhf/configs/constants.py and format_prompt; a system turn, which it lacks, comes before USER:",
            markers=("BEGINNING OF CONVERSATION: ", "USER: ", " ASSISTANT:"),
        ),
        "hh": Template(
            _HH,
            "HH-RLHF's transcripts, with an end token after each answer; a system turn comes before the first Human:",
            markers=("\n\nHuman: ", "\n\nAssistant:"),
        ),
        "chatml": Template(
            _CHATML,
            "OpenAI's ChatML, as Qwen's models read it",
            specials=("<|im_start|>", "<|im_end|>"),
            end="<|im_end|>",
        ),
    }
)


def named_template(name: str) -> Template:
    """The template of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"no chat template '{name[:40]}'; {suggestion(name, list(TEMPLATES))}")
    return TEMPLATES[name]


def with_template(tokenizer: PreTrainedTokenizerBase, name: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer with the template of this name, as a copy; saved with it, so that every reader has the same.

    None keeps the tokenizer's own template, and the tokenizer itself. ``chatml`` makes ``<|im_end|>`` the copy's end token.

    Raises:
        ConfigError: no template of this name; none named and the tokenizer has none; or it lacks a token that the
            template needs.
        DataError: the pad token would be the end token.
    """
    if name is None:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer {tokenizer.name_or_path} has no chat template: name one of {', '.join(TEMPLATES)}"
            )
        return tokenizer
    template, vocabulary = named_template(name), tokenizer.get_vocab()
    if missing := [token for token in template.specials if token not in vocabulary]:
        without_specials = ", ".join(
            other_name for other_name, other_template in TEMPLATES.items() if not other_template.specials
        )
        raise ConfigError(
            f"the template '{name}' needs the token {missing[0]}, and the tokenizer {tokenizer.name_or_path} has no such "
            f"token: use {without_specials}, or a model that was trained with it"
        )
    templated = copy.deepcopy(tokenizer)
    # A token in the vocabulary that is not marked special could be written by a user and would forge a turn.
    if plain := [token for token in template.specials if token not in templated.all_special_tokens]:
        templated.add_special_tokens({"additional_special_tokens": plain}, replace_extra_special_tokens=False)
    if template.end is not None and templated.eos_token != template.end:
        templated.eos_token = template.end
        check_pad_token(templated)
    if templated.eos_token is None:
        raise ConfigError(f"the tokenizer {tokenizer.name_or_path} has no end token: a response could never end")
    templated.chat_template = template.jinja
    return templated
