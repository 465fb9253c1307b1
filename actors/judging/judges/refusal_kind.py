"""Whether an answer refuses, and whether it says more than that: a heuristic for English, where no judge says it.

A refusal is `actors.judging.judges.refusal_words`'; it is *explained* where it holds a phrase of ``explanations.json``.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from actors.judging.judges.refusal_words import is_refusal
from actors.judging.responses import Refusal

HEURISTIC = "phrases at the start of an English answer (actors/judging/judges/refusals.json, explanations.json)"
_PHRASES = Path(__file__).with_name("explanations.json")


def refusal_of(text: str) -> Refusal:
    """``none``, ``bare`` or ``explained``, by phrases."""
    if not is_refusal(text):
        return "none"
    return "explained" if _pattern().search(" ".join(text.replace("’", "'").lower().split())) else "bare"


@cache
def _pattern() -> re.Pattern[str]:
    phrases = json.loads(_PHRASES.read_text(encoding="utf-8"))["phrases"]
    return re.compile(rf"\b(?:{'|'.join(re.escape(phrase) for phrase in phrases)})\b")
