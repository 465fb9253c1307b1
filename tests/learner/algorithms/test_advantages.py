"""Shaping, GAE and whitening: small cases by hand, and what padding must not change."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.advantages import (
    advantage_moments,
    generalised_advantages,
    last_valid_index,
    length_mask,
    mean_and_std,
    shape_costs,
    shape_rewards,
    whiten,
)


def test_masks_come_from_lengths() -> None:
    mask = length_mask(torch.tensor([0, 2, 3]), 3)
    assert mask.tolist() == [[False] * 3, [True, True, False], [True] * 3]
    assert last_valid_index(mask).tolist() == [-1, 1, 2]


def test_shaping_by_hand() -> None:
    log_probs, reference = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-2.0, -2.0, -1.0]])  # k = 1, 0, -2
    mask = length_mask(torch.tensor([2]), 3)
    rewards = shape_rewards(log_probs, reference, torch.tensor([7.0]), mask, kl_coefficient=0.5)
    costs = shape_costs(log_probs, reference, torch.tensor([7.0]), mask, kl_coefficient=0.5)
    assert rewards.tolist() == [[-0.5, 7.0, 1.0]]
    assert costs.tolist() == [[0.5, 7.0, -1.0]]
    clipped = shape_rewards(log_probs, reference, torch.tensor([700.0]), mask, kl_coefficient=0.5)
    assert clipped[0, 1] == 50.0


def test_a_row_outside_the_subset_has_no_cost_stream_not_even_kl() -> None:
    costs = shape_costs(
        torch.tensor([[-1.0], [-1.0]]),
        torch.tensor([[-2.0], [-2.0]]),
        torch.tensor([3.0, 3.0]),
        torch.ones(2, 1, dtype=torch.bool),
        kl_coefficient=0.5,
        subset_mask=torch.tensor([True, False]),
    )
    assert costs.tolist() == [[3.5], [0.0]]


def test_an_empty_response_gets_no_terminal_score_and_no_advantage() -> None:
    mask = length_mask(torch.tensor([0]), 2)
    rewards = shape_rewards(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([9.0]), mask, kl_coefficient=0.1)
    advantages, returns = generalised_advantages(rewards, torch.ones(1, 2), mask)
    assert rewards.tolist() == advantages.tolist() == returns.tolist() == [[0.0, 0.0]]


def test_gae_by_hand() -> None:
    # gamma 0.9, lambda 0.5, rewards 0, 1; values 2, 3: delta_1 = 1 - 3 = -2; delta_0 = 0 + 0.9*3 - 2 = 0.7;
    # A_1 = -2, A_0 = 0.7 + 0.45 * -2 = -0.2; returns add the values.
    rewards, values = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    advantages, returns = generalised_advantages(rewards, values, torch.ones(1, 2), gamma=0.9, gae_lambda=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[-0.2, -2.0]], dtype=torch.float64))
    torch.testing.assert_close(returns, torch.tensor([[1.8, 1.0]], dtype=torch.float64))


@given(seed=st.integers(0, 2**31), length=st.integers(1, 5), extra=st.integers(0, 4))
def test_padding_and_its_contents_change_nothing(seed: int, length: int, extra: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 1, length + extra, generator=generator, dtype=torch.float64)
    rewards[:, length:], values[:, length:] = math.nan, math.inf
    mask = length_mask(torch.tensor([length]), length + extra)
    padded, _ = generalised_advantages(rewards, values, mask)
    alone, _ = generalised_advantages(rewards[:, :length], values[:, :length], mask[:, :length])
    assert torch.equal(padded[:, :length], alone)
    assert torch.equal(padded[:, length:], torch.zeros_like(padded[:, length:]))


@given(seed=st.integers(0, 2**31))
def test_whitening_by_ranks_is_whitening_at_once(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    advantages = 3.0 + 5.0 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    mask = length_mask(torch.tensor([4, 1, 3, 2, 4, 1]), 4)
    moments = advantage_moments(advantages[:2], mask[:2]) + advantage_moments(advantages[2:], mask[2:])
    mean, std = mean_and_std(moments)
    valid = advantages[mask]
    # Expected numbers: torch's own mean and population deviation over all valid tokens.
    assert (mean, std) == pytest.approx((valid.mean().item(), valid.std(correction=0).item()))
    whitened = whiten(advantages, mask, mean, std)
    assert whitened[mask].mean().item() == pytest.approx(0.0, abs=1e-9)
    assert whitened[mask].std(correction=0).item() == pytest.approx(1.0)
    assert (whitened[~mask] == 0.0).all()
    torch.testing.assert_close(whiten(advantages, mask, mean, None)[mask], valid - mean)


def test_whitening_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        mean_and_std(advantage_moments(torch.ones(1, 2), torch.zeros(1, 2)))
