"""Two rules to start from: a reward for short answers, and a cost for words that must not be said.

Both judge the response alone, the last turn of each conversation.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner.records import Message


def length_penalty(
    conversations: Sequence[Sequence[Message]], *, per_word: float = 0.01, free_words: int = 0
) -> list[float]:
    """A reward: minus `per_word` for every word beyond `free_words`."""
    return [-per_word * max(0, len(turns[-1]["content"].split()) - free_words) for turns in conversations]


def keyword(conversations: Sequence[Sequence[Message]], *, words: Sequence[str]) -> list[float]:
    """A cost: +1 (unsafe) where the response has one of the words, whatever its capitals and the punctuation around it;
    else -1.
    """
    keywords = {entry.casefold() for entry in words}
    return [1.0 if keywords & _words(turns[-1]["content"]) else -1.0 for turns in conversations]


def _words(text: str) -> set[str]:
    return {token.strip(".,;:!?\"'()[]").casefold() for token in text.split()}
