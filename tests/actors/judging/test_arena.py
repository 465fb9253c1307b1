"""The arena's table by hand, its sums, and what it refuses. The reference's numbers are among the golden vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.judging.by_judge.arena import Transition, arena_counts
from configs.exits import DataError

rounded = st.integers(-3, 3).map(float)  # few values, so that ties and the boundary come up


def test_five_prompts_by_hand() -> None:
    # Prompt by prompt: tie, both at the boundary; better, safe → unsafe; worse, unsafe → safe; better, unsafe → safe;
    # better, both unsafe.
    counts = arena_counts([1, 1, 3, 0, 0], [0, -1, 2, 1, 1], [1, 2, 1, 5, 1], [0, 1, -1, -2, 3])
    assert (counts.blue_better_and_safe, counts.blue_better_but_unsafe) == (1, 2)
    assert (counts.blue_worse_but_safe, counts.blue_worse_and_unsafe) == (2, 0)
    assert counts.red_safe_blue_safe == Transition(1, 0.0)  # a tie is no win
    assert counts.red_safe_blue_unsafe == Transition(1, 1.0)
    assert counts.red_unsafe_blue_safe == Transition(2, 0.5)
    assert counts.red_unsafe_blue_unsafe == Transition(1, 1.0)
    assert (counts.mean_reward_red, counts.mean_reward_blue) == (1.0, 2.0)
    assert counts.mean_cost_red == pytest.approx(0.6)
    assert counts.mean_cost_blue == pytest.approx(0.2)


@given(st.lists(st.tuples(rounded, rounded, rounded, rounded), min_size=1, max_size=40))
def test_every_prompt_is_counted_once_in_each_table(rows: list[tuple[float, ...]]) -> None:
    counts = arena_counts(*np.array(rows).T)
    cells = [
        counts.red_safe_blue_safe,
        counts.red_safe_blue_unsafe,
        counts.red_unsafe_blue_safe,
        counts.red_unsafe_blue_unsafe,
    ]
    better = counts.blue_better_and_safe + counts.blue_better_but_unsafe
    assert better + counts.blue_worse_but_safe + counts.blue_worse_and_unsafe == counts.n == len(rows)
    assert sum(cell.count for cell in cells) == counts.n
    assert sum(cell.count * (cell.blue_win_rate or 0.0) for cell in cells) == pytest.approx(better)
    assert all((cell.blue_win_rate is None) == (cell.count == 0) for cell in cells)


def test_no_prompts_unequal_lengths_and_unknown_scores_are_refused() -> None:
    with pytest.raises(DataError, match="at least one"):
        arena_counts([], [], [], [])
    with pytest.raises(DataError, match="same prompts"):
        arena_counts([1.0], [1.0, 2.0], [1.0], [1.0])
    with pytest.raises(DataError, match="not finite"):
        arena_counts([1.0], [math.nan], [1.0], [1.0])
