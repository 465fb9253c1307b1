"""A reward of your own: short answers that say what to do, and few words beyond that."""

from __future__ import annotations

from collections.abc import Sequence

STEP_WORDS = ("first", "then", "finally")


def reward(
    conversations: Sequence[Sequence[dict[str, str]]], *, per_step: float = 1.0, per_word: float = 0.05
) -> list[float]:
    """One number per conversation: `per_step` for each step that the answer names, less `per_word` for each word."""
    rewards = []
    for turns in conversations:
        answer = turns[-1]["content"].lower().split()  # the last turn is the answer
        steps = sum(word in STEP_WORDS for word in answer)
        rewards.append(per_step * steps - per_word * len(answer))
    return rewards
