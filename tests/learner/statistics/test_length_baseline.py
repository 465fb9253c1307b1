"""The length-only baseline against counts by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from learner.statistics.intervals import wilson
from learner.statistics.length_baseline import accuracy_by_turns, length_baseline


def test_the_rule_that_wins_in_training_is_measured_on_the_held_out_pairs() -> None:
    # Shorter wins 3 of 4 in training; on the held-out pairs it is right in 2 of 3, and one is a tie.
    found = length_baseline([5, -5, 3, 2, 0], [0, 1, 0, 1, 1], [4, -2, 1, 0], [0, 1, 1, 1])
    assert found.winner == "shorter"
    assert found.train == wilson(3, 4) and found.accuracy == wilson(2, 3)
    assert found.ties == 1 and found.expected_accuracy == pytest.approx(2.5 / 4)
    assert found.by_turns == {}


def test_the_direction_comes_from_training_alone() -> None:
    found = length_baseline([1, 2, 3], [1, 1, 1], [1, 2, -3], [0, 0, 1])
    assert found.winner == "longer" and found.accuracy.value == 0.0


def test_even_training_pairs_take_the_longer() -> None:
    assert length_baseline([1, 1], [1, 0], [1], [True]).winner == "longer"


def test_swapping_the_responses_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    diffs, labels = rng.integers(-9, 10, 400), rng.integers(0, 2, 400)
    labels[diffs > 4] = 0
    labels[diffs < -4] = 1
    one = length_baseline(diffs[:200], labels[:200], diffs[200:], labels[200:], held_turns=np.full(200, 2))
    two = length_baseline(-diffs[:200], 1 - labels[:200], -diffs[200:], 1 - labels[200:], held_turns=np.full(200, 2))
    assert one == two and one.winner == "shorter" and one.accuracy.low > 0.5


def test_by_turns_counts_long_conversations_together_and_leaves_ties_out() -> None:
    turns = [1, 1, 2, 7, 9, 3]
    found = length_baseline([1, 2], [1, 1], [5, -5, 5, 5, -5, 0], [1, 1, 1, 0, 0, 1], held_turns=turns, most_turns=4)
    assert found.by_turns == {1: wilson(1, 2), 2: wilson(1, 1), 4: wilson(1, 2)}
    assert sum(each.n for each in found.by_turns.values()) == found.accuracy.n == 5
    document = json.loads(json.dumps(found.document()))
    assert document["rule"] == "the longer response wins" and document["by_turns"]["4"]["n"] == 2
    assert document["accuracy"]["value"] == pytest.approx(3 / 5)


def test_a_models_accuracy_is_parted_in_the_same_way() -> None:
    assert accuracy_by_turns([True, False, True], [1, 1, 8]) == {1: wilson(1, 2), 5: wilson(1, 1)}
    assert accuracy_by_turns([], []) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": [1]}, "2 training differences of length have 1 labels"),
        ({"train_diffs": [0, 0]}, "no training pair has responses of different lengths"),
        ({"held_diffs": [0]}, "no held-out pair"),
        ({"held_diffs": [float("nan")]}, "held-out differences must be finite"),
        ({"held_labels": [2]}, "labels true or false"),
        ({"held_turns": [1, 2]}, "1 held-out pairs have 2 numbers of turns"),
        ({"held_turns": [0]}, "at least one turn, got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, list[float]], message: str) -> None:
    given = {"train_diffs": [1, 2], "train_labels": [1, 0], "held_diffs": [1], "held_labels": [1]} | changes
    with pytest.raises(ValueError, match=message):
        length_baseline(**given)
