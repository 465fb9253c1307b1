"""Chat templates that come with a model: one of several, without today's date in it, and with a place for an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerBase

from configs.exits import ConfigError

_DATE = re.compile(r"""strftime_now\(\s*(['"])(?P<format>[^'\"]*)\1\s*\)""")
_CALL = re.compile(r"strftime_now\s*\(")
_MARK = "Steelyard"


def one_template(template: Any, name: str) -> Any:
    """The template that transformers takes by itself: the only one, or the one called ``default``.

    Raises:
        ConfigError: several, none of them called so.
    """
    if not isinstance(template, Mapping):
        return template
    if "default" in template:
        return template["default"]
    names = ", ".join(sorted(template))
    raise ConfigError(
        f"model.template: {name} has several chat templates ({names}) and none called default: save its tokenizer with one of "
        "them as chat_template, or name one of ours in model.template"
    )


def freeze_date(template: str, today: datetime) -> tuple[str, list[str]]:
    """The template with a fixed date where it would write today's: the same prompt has the same ids tomorrow, and everywhere.

    Returns:
        The template, and what was changed, in words.

    Raises:
        ConfigError: the date's form is not written in the template itself.
    """
    dates: list[str] = []

    def text(match: re.Match[str]) -> str:
        dates.append(today.strftime(match["format"]))
        return f"{dates[-1]!r}"

    frozen = _DATE.sub(text, template)
    if _CALL.search(frozen):
        raise ConfigError(
            "model.template: the chat template writes today's date in a form that it computes, so its prompts would differ "
            "from day to day: name another template"
        )
    return frozen, [f"the chat template's date is always {dates[0]}"] if dates else []


def check_answers_place(tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """What the template writes between a prompt and its answer in a past turn, and not where an answer is asked for.

    Returns:
        A sentence where it writes something, such as an empty block of thoughts.

    Raises:
        ConfigError: it ignores ``add_generation_prompt``: answers would be learned in another place than past ones stand in.
    """
    question = [{"role": "user", "content": "?"}]
    turns = [*question, {"role": "assistant", "content": _MARK}]
    prompt: str = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    plain: str = tokenizer.apply_chat_template(question, tokenize=False)
    past: str = tokenizer.apply_chat_template(turns, tokenize=False)
    between = past.partition(_MARK)[0].removeprefix(prompt).strip() if past.startswith(prompt) else ""
    if not between:
        return []
    if prompt == plain:
        raise ConfigError(
            f"model.template: the chat template of {name} ignores add_generation_prompt: a past answer stands behind "
            f"{between!r}, and an answer that is asked for would not: name another template"
        )
    return [f"the chat template writes {between!r} before past answers and not before new ones"]
