"""Which responses of a record are shown as examples, which is safer, and what the cost's signs are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from learner.data.records import LabelledResponse, PreferencePair, PromptOnly, Record
from learner.data.tokenise import UnusableRow

SAFE, UNSAFE, UNKNOWN = -1, 1, 0
"""Signs of the cost: positive is unsafe; 0 leaves the response's term out of the loss."""
Choice = Literal["better", "safer", "safe"]
"""Which response of a pair is shown: the winner of a ranking, or one that is labelled safe."""


def pair_of(record: Record) -> PreferencePair:
    """The record as a pair.

    Raises:
        UnusableRow: it has no two responses.
    """
    if not isinstance(record, PreferencePair):
        raise UnusableRow("not_a_pair", "the row has no two responses to compare")
    return record


def safety_order(
    pair: PreferencePair, categories: Collection[str] = (), *, keep_contradictory: bool = False
) -> tuple[int, tuple[int, int], float]:
    """Index of the safer response, the cost's sign of each response, and the weight of their ranking.

    Args:
        keep_contradictory: give a pair whose ranking contradicts its safety labels as it is, in place of refusing it.

    Raises:
        UnusableRow: nothing is known of the pair's safety, or the ranking contradicts the safety labels.
    """
    signs = (_sign(pair, 0, categories), _sign(pair, 1, categories))
    differ = UNKNOWN not in signs and signs[0] != signs[1]
    if categories:
        if UNKNOWN in signs:
            raise UnusableRow("no_safety_label", "categories need both responses' safety labels, and one is missing")
        return int(signs[1] < signs[0]), signs, float(differ)
    if pair.safer is None:
        if signs == (UNKNOWN, UNKNOWN):
            raise UnusableRow("no_safety_label", "the pair has no label 'safer' and no safety label")
        return int(signs[1] < signs[0]), signs, float(differ)
    if differ and signs[pair.safer] == UNSAFE and not keep_contradictory:
        raise UnusableRow("contradictory_labels", "an unsafe response is ranked safer than a safe one")
    return pair.safer, signs, 1.0


def _sign(pair: PreferencePair, side: int, categories: Collection[str]) -> int:
    safe = pair.safe[side]
    if safe is None:
        return UNKNOWN
    return UNSAFE if not safe and (not categories or set(categories) & set(pair.categories[side])) else SAFE


def shown_responses(record: Record, choose: Choice) -> tuple[str, ...]:
    """The responses that are shown as examples: one, or both of a pair where both are safe and nothing ranks them.

    Raises:
        UnusableRow: there is none.
    """
    match record:
        case PromptOnly():
            raise UnusableRow("no_response", "the row is a prompt alone: there is nothing to show")
        case LabelledResponse():
            if not record.safe:
                raise UnusableRow("unsafe", "the response is labelled unsafe")
            return (record.response,)
        case PreferencePair():
            return tuple(record.responses[index] for index in _shown_of_pair(record, choose))


def _shown_of_pair(pair: PreferencePair, choose: Choice) -> tuple[int, ...]:
    if choose != "safe":
        winner = pair.better if choose == "better" else pair.safer
        if winner is None:
            raise UnusableRow("unranked", f"the pair has no label '{choose}'")
        return (winner,)
    safe = tuple(index for index in (0, 1) if pair.safe[index])
    if not safe:
        raise UnusableRow("unsafe", "no response of the pair is labelled safe")
    ranked = pair.better if pair.better is not None else pair.safer
    return safe if len(safe) == 1 or ranked is None else (ranked,)
