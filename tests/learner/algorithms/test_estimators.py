"""The algorithms of the loop on terminal scores alone: hand-computed groups, and what must change nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.schema.ppo import GroupSettings, PpoSettings
from learner.algorithms.estimators import gdpo, grpo_lag, rvpo
from learner.algorithms.estimators.base import Estimate, Estimator, Scored
from learner.algorithms.estimators.groups import gather_table, within_group
from learner.engine.collective import OneRank, Ranks

ALGORITHMS: dict[str, Estimator] = {"grpo_lag": grpo_lag, "gdpo": gdpo, "rvpo": rvpo}
LAMBDA = {"harm": 2.0}


def scored(
    prompts: str,
    reward: Sequence[float],
    harm: Sequence[float] | None = None,
    applies: Sequence[bool] | None = None,
    *,
    lengths: Sequence[int] | None = None,
    maximises: bool = True,
) -> Scored:
    """One row per letter of `prompts`: rows with the same letter are a group."""
    rows = len(prompts)
    lengths = lengths or [2 + index % 3 for index in range(rows)]
    mask = torch.arange(4)[None, :] < torch.tensor(list(lengths))[:, None]
    costs = {} if harm is None else {"cost/harm": torch.tensor(harm, dtype=torch.float64)}
    subset = {} if harm is None else {"harm": torch.tensor(applies or [True] * rows)}
    zeros = torch.zeros(mask.shape)
    return Scored(
        request_ids=[f"r{index:03d}" for index in range(rows)],
        prompt_ids=list(prompts),
        terminal={"reward": torch.tensor(reward, dtype=torch.float64), **costs},
        subset=subset,
        mask=mask,
        proximal_logprobs=zeros,
        reference_logprobs=zeros,
        values={},
        maximises=maximises,
    )


def ppo(**groups: Any) -> PpoSettings:
    return PpoSettings(groups=GroupSettings(**groups))


def estimate(algorithm: str, rows: Scored, ranks: Ranks | None = None, **groups: Any) -> Estimate:
    return ALGORITHMS[algorithm].estimate(rows, ppo(**groups), ranks or OneRank())


def row_values(table: Tensor) -> list[float]:
    """The first token's number of each row."""
    return table[:, 0].tolist()


def advantage(algorithm: str, rows: Scored, multipliers: Mapping[str, float] = LAMBDA, **groups: Any) -> list[float]:
    return row_values(estimate(algorithm, rows, **groups).combine(multipliers if rows.subset else {}))


# --- by hand ---


def test_grpo_lag_standardises_rewards_centres_costs_and_then_combines() -> None:
    # Group a: mean 2, population sd 1; costs centred to -0.25, +0.25. Group b: sd 0.05 counts as the floor 0.1.
    rows = scored("aabb", [1.0, 3.0, 0.0, 0.1], [0.0, 0.5, 1.0, 0.2])
    expected = [(-1 + 2 * 0.25) / 3, (1 - 2 * 0.25) / 3, (-0.5 - 2 * 0.4) / 3, (0.5 + 2 * 0.4) / 3]
    assert advantage("grpo_lag", rows) == pytest.approx(expected, abs=1e-6)


def test_grpo_lag_takes_z_scores_of_costs_where_asked() -> None:
    rows = scored("aabb", [1.0, 3.0, 0.0, 0.1], [0.0, 0.5, 1.0, 0.9])
    expected = [(-1 + 2) / 3, (1 - 2) / 3, (-0.5 - 2 * 0.5) / 3, (0.5 + 2 * 0.5) / 3]
    assert advantage("grpo_lag", rows, costs="z_score") == pytest.approx(expected, abs=1e-6)


def test_gdpo_sums_z_scores_and_normalises_over_the_batch() -> None:
    rows = scored("aabb", [1.0, 3.0, 0.0, 4.0], [0.0, 0.5, 1.0, 0.0])
    weighted = np.array([(-1 + 2) / 3, (1 - 2) / 3, (-1 - 2) / 3, (1 + 2) / 3])
    assert weighted.mean() == 0
    assert advantage("gdpo", rows) == pytest.approx(weighted / weighted.std(), abs=1e-6)


def test_rvpo_is_the_soft_minimum_of_z_scores_whatever_the_multiplier() -> None:
    rows = scored("aabb", [1.0, 3.0, 0.0, 4.0], [0.0, 0.5, 1.0, 0.0])

    def soft(*worth: float, k: float = 2.0) -> float:
        return -math.log(sum(math.exp(-k * one) for one in worth) / len(worth)) / k

    weighted = np.array([soft(-1, 1), soft(1, -1), soft(-1, -1), soft(1, 1)])
    expected = (weighted - weighted.mean()) / weighted.std()
    for multiplier in (0.0, 2.0, 50.0):
        found = advantage("rvpo", rows, {"harm": multiplier}, softness=2.0)
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_soft_minimum_runs_from_the_mean_to_the_minimum_without_overflow() -> None:
    table = gather_table(scored("aab", [1.0, 2.0, 3.0], [0.0, 1.0, 0.0]), OneRank())
    worth = {"reward": np.array([3.0, -5.0, 0.0]), "cost/harm": np.array([1.0, 7.0, 0.0])}
    assert rvpo.soft_minimum(table, worth, 1e-7) == pytest.approx([2.0, 1.0, 0.0], abs=1e-5)
    assert rvpo.soft_minimum(table, worth, 1e5) == pytest.approx([1.0, -5.0, 0.0], abs=1e-4)
    assert np.isfinite(rvpo.soft_minimum(table, {name: 1e6 * one for name, one in worth.items()}, 1.0)).all()


def test_every_valid_token_has_its_rows_advantage_and_padding_none() -> None:
    rows = scored("aab", [1.0, 3.0, 5.0], lengths=[1, 4, 2])
    found = estimate("grpo_lag", rows).combine({})
    assert found.dtype == torch.float32
    assert found.tolist() == [[-1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]


def test_the_metrics_say_how_wide_groups_are_and_how_many_teach_nothing() -> None:
    # a: sd 1 and 0.25; b: equal in everything; c: one member.
    rows = scored("aabbc", [1.0, 3.0, 0.3, 0.3, 9.0], [0.0, 0.5, 0.1, 0.1, 3.0])
    metrics = estimate("gdpo", rows).metrics
    assert metrics["group_spread/reward"] == pytest.approx(0.5) and metrics["group_spread/cost/harm"] == pytest.approx(
        0.125
    )
    assert metrics["groups_degenerate"] == pytest.approx(2 / 3)


# --- what must hold for every algorithm ---


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_group_with_one_member_left_has_advantage_0(algorithm: str) -> None:
    rows = scored("aabbc", [1.0, 3.0, 0.0, 4.0, 9.0], [0.0, 0.5, 1.0, 0.0, 3.0])
    found = estimate(algorithm, rows)
    assert found.combine(LAMBDA)[4].tolist() == [0.0] * 4
    assert found.combine(LAMBDA)[0, 0] != 0
    alone = scored("abc", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert advantage(algorithm, alone) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_groups_of_equal_answers_have_finite_advantages_and_none_at_all_in_a_batch_of_them(algorithm: str) -> None:
    rows = scored("a" * 7, [0.1] * 7, [0.7] * 7)
    assert advantage(algorithm, rows) == [0.0] * 7


@pytest.mark.parametrize("algorithm", ["gdpo", "grpo_lag"])
def test_prompts_outside_every_subset_have_exactly_the_advantage_of_no_constraint(algorithm: str) -> None:
    reward = [0.3, 1.7, -0.2, 2.2, 1.1, 0.4]
    rows = scored("aaabbb", reward, [9.0, 1.0, 4.0, 2.0, 8.0, 5.0], [False] * 6)
    without = estimate(algorithm, scored("aaabbb", reward)).combine({})
    assert torch.equal(estimate(algorithm, rows).combine(LAMBDA), without)


def test_in_a_mixed_batch_grpo_lag_leaves_prompts_outside_the_subset_at_the_advantage_of_no_constraint() -> None:
    reward = [0.3, 1.7, -0.2, 2.2, 1.1, 0.4]
    rows = scored("aaabbb", reward, [9.0, 1.0, 4.0, 2.0, 8.0, 5.0], [False] * 3 + [True] * 3)
    without = estimate("grpo_lag", scored("aaabbb", reward)).combine({})
    found = estimate("grpo_lag", rows).combine(LAMBDA)
    assert torch.equal(found[:3], without[:3]) and not torch.equal(found[3:], without[3:])


def test_rvpo_leaves_signals_out_that_do_not_apply() -> None:
    reward, harm = [0.3, 1.7, -0.2, 2.2], [9.0, 1.0, 4.0, 2.0]
    outside = advantage("rvpo", scored("aabb", reward, harm, [False] * 4))
    assert outside == pytest.approx(advantage("rvpo", scored("aabb", reward)), abs=1e-9)
    cost_only = advantage("rvpo", scored("aabb", [0.0] * 4, harm, maximises=False))
    assert cost_only == pytest.approx([-1.0, 1.0, -1.0, 1.0], abs=1e-6)  # a reward of 0 would cap the good ones


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_an_objective_lower_cost_wins_in_each_group(algorithm: str) -> None:
    found = advantage(algorithm, scored("aabb", [0.0] * 4, [1.0, 0.2, 0.1, 0.9], maximises=False))
    assert found[0] < 0 < found[1] and found[3] < 0 < found[2]


SCORES = st.lists(st.floats(-3, 3, width=32), min_size=8, max_size=8)
MANY = settings(max_examples=40, deadline=None)


@MANY
@given(reward=SCORES, harm=SCORES, shift=st.floats(-100, 100), algorithm=st.sampled_from(sorted(ALGORITHMS)))
def test_a_shift_of_one_groups_scores_changes_nothing(
    reward: list[float], harm: list[float], shift: float, algorithm: str
) -> None:
    moved = [value + (shift if index < 4 else 0.0) for index, value in enumerate(reward)]
    moved_harm = [value - (shift if index < 4 else 0.0) for index, value in enumerate(harm)]
    first = advantage(algorithm, scored("aaaabbbb", reward, harm))
    second = advantage(algorithm, scored("aaaabbbb", moved, moved_harm))
    assert first == pytest.approx(second, abs=1e-4)


@MANY
@given(reward=SCORES, harm=SCORES, scale=st.floats(1.0, 50.0))
def test_z_scores_do_not_depend_on_the_signals_unit(reward: list[float], harm: list[float], scale: float) -> None:
    floor = 1e-9
    rows = gather_table(scored("aaaabbbb", reward, harm), OneRank())
    scaled = gather_table(scored("aaaabbbb", [scale * one for one in reward], harm), OneRank())
    first, second = within_group(rows, "reward", floor), within_group(scaled, "reward", floor)
    if min(np.std(reward[:4]), np.std(reward[4:])) > 1e-3:
        assert first == pytest.approx(second, abs=1e-6)
    assert np.abs(first).max() <= math.sqrt(3) + 1e-9  # the greatest z-score among four


@MANY
@given(reward=SCORES, harm=SCORES, seed=st.integers(0, 99), algorithm=st.sampled_from(sorted(ALGORITHMS)))
def test_the_order_of_rows_changes_not_a_bit(reward: list[float], harm: list[float], seed: int, algorithm: str) -> None:
    rows = scored("abababcc", reward, harm, [True, False] * 3 + [True] * 2)
    order = np.random.default_rng(seed).permutation(8)
    first = estimate(algorithm, rows).combine(LAMBDA)
    second = estimate(algorithm, taken(rows, order)).combine(LAMBDA)
    assert torch.equal(first[order], second)


def taken(rows: Scored, order: np.ndarray) -> Scored:
    """Some of the rows, in another order."""
    return replace(
        rows,
        request_ids=[rows.request_ids[index] for index in order],
        prompt_ids=[rows.prompt_ids[index] for index in order],
        terminal={name: one[order] for name, one in rows.terminal.items()},
        subset={name: one[order] for name, one in rows.subset.items()},
        mask=rows.mask[order],
        proximal_logprobs=rows.proximal_logprobs[order],
        reference_logprobs=rows.reference_logprobs[order],
    )


class ThreadRank(OneRank):
    """One of several ranks that are threads of this process; exchanges objects as TorchRanks does."""

    def __init__(self, rank: int, board: list[Any], barrier: Barrier) -> None:
        self.rank, self.size, self._board, self._barrier = rank, len(board), board, barrier

    def gather_objects(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait(timeout=10)
        return list(self._board)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [2, 3])
def test_groups_that_lie_on_several_ranks_have_the_advantages_of_one_rank_bit_for_bit(
    algorithm: str, size: int
) -> None:
    generator = np.random.default_rng(0)
    rows = scored("abcd" * 6 + "e", generator.normal(size=25).tolist(), generator.normal(size=25).tolist())
    whole = estimate(algorithm, rows)
    board, barrier = [None] * size, Barrier(size)
    parts = [np.arange(rank, 25, size) for rank in range(size)]

    def on_rank(rank: int) -> Estimate:
        return estimate(algorithm, taken(rows, parts[rank]), ThreadRank(rank, board, barrier))

    with ThreadPoolExecutor(size) as threads:
        found = list(threads.map(on_rank, range(size)))
    for part, one in zip(parts, found, strict=True):
        assert torch.equal(one.combine(LAMBDA), whole.combine(LAMBDA)[part])
        assert torch.equal(one.advantages["cost/harm"], whole.advantages["cost/harm"][part])
        assert one.metrics == whole.metrics
