"""Combined advantages: what a constraint may change, and what it must leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.algorithms.advantages import generalised_advantages, length_mask, shape_costs, shape_rewards
from learner.algorithms.losses import policy_loss
from learner.signals.combine import combine_advantages
from learner.signals.measure import Measure

B, T = 5, 6
multiplier_lists = st.lists(st.floats(0.0, 50.0), min_size=1, max_size=3)
seeds = st.integers(0, 2**31)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_mask(generator: torch.Generator) -> Tensor:
    return length_mask(torch.randint(1, T + 1, (B,), generator=generator), T)


def test_combination_by_hand() -> None:
    # Row 0 in both subsets: (10 - 2*3 - 1*1)/(1 + 2 + 1) = 0.75; row 1 in the second only: (10 - 1*1)/2 = 4.5.
    combined = combine_advantages(
        torch.full((2, 1), 10.0),
        {"a": torch.full((2, 1), 3.0), "b": torch.full((2, 1), 1.0)},
        {"a": 2.0, "b": 1.0},
        {"a": torch.tensor([True, False])},
    )
    assert combined.tolist() == [[0.75], [4.5]]


@given(seed=seeds, multipliers=multiplier_lists, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_prompt_outside_every_subset_has_the_unconstrained_advantage_bit_for_bit(
    seed: int, multipliers: list[float], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = normal(generator, B, T).to(dtype)
    names = [f"c{k}" for k in range(len(multipliers))]
    costs = {name: normal(generator, B, T).to(dtype) * 1e3 for name in names}
    masks = {name: torch.rand(B, generator=generator) < 0.5 for name in names}
    combined = combine_advantages(rewards, costs, dict(zip(names, multipliers, strict=True)), masks)
    unconstrained = combine_advantages(rewards, {}, {}, {})
    outside = ~torch.stack(list(masks.values())).any(dim=0)
    assert torch.equal(unconstrained, rewards)
    assert torch.equal(combined[outside], unconstrained[outside])
    assert combined.dtype == dtype


def test_a_cost_that_is_not_finite_outside_its_subset_does_no_harm() -> None:
    combined = combine_advantages(
        torch.ones(2, 1), {"a": torch.tensor([[1.0], [math.nan]])}, {"a": 1.0}, {"a": torch.tensor([True, False])}
    )
    assert combined.tolist() == [[0.0], [1.0]]


@given(seed=seeds, multipliers=multiplier_lists, beta=st.floats(0.001, 0.5))
def test_the_net_kl_weight_is_beta_for_every_mask(seed: int, multipliers: list[float], beta: float) -> None:
    """With zero scores and values only KL is left; it must be what beta alone, without constraints, gives."""
    generator = torch.Generator().manual_seed(seed)
    log_probs, reference, mask = normal(generator, B, T), normal(generator, B, T), random_mask(generator)
    zero = torch.zeros(B, dtype=torch.float64)
    values = torch.zeros(B, T, dtype=torch.float64)
    names = [f"c{k}" for k in range(len(multipliers))]
    masks = {name: torch.rand(B, generator=generator) < 0.5 for name in names}
    rewards = shape_rewards(log_probs, reference, zero, mask, kl_coefficient=beta)
    reward_advantages, _ = generalised_advantages(rewards, values, mask)
    costs = {}
    for name in names:
        shaped = shape_costs(log_probs, reference, zero, mask, kl_coefficient=beta, subset_mask=masks[name])
        costs[name], _ = generalised_advantages(shaped, values, mask)
    combined = combine_advantages(reward_advantages, costs, dict(zip(names, multipliers, strict=True)), masks)
    torch.testing.assert_close(combined, reward_advantages, rtol=1e-10, atol=1e-12)


@given(seed=seeds, beta=st.floats(0.0, 1.0))
def test_J_is_unchanged_by_beta(seed: int, beta: float) -> None:
    """J sees raw terminal costs; shaping with any beta leaves them untouched, and at beta 0 the stream sums to them."""
    generator = torch.Generator().manual_seed(seed)
    costs, mask = normal(generator, B), random_mask(generator)
    measure = Measure("rectified")
    terminal = torch.from_numpy(measure.g(costs.numpy(), {}))
    J_before = measure.aggregate(terminal.numpy())
    log_probs, reference = normal(generator, B, T), normal(generator, B, T)
    shaped = shape_costs(log_probs, reference, terminal, mask, kl_coefficient=beta)
    assert measure.aggregate(measure.g(costs.numpy(), {})) == J_before
    kl_part = beta * ((log_probs - reference) * mask).sum(dim=1)
    torch.testing.assert_close((shaped * mask).sum(dim=1) - kl_part, terminal, rtol=1e-9, atol=1e-9)


def policy_gradient(generator: torch.Generator, scale: float, multiplier: float) -> Tensor:
    """Gradient of the actor's loss in the log-probs, with costs (values too) times ``scale``, beta 0."""
    reward_terminal, cost_terminal = normal(generator, B), normal(generator, B) * scale
    log_probs, mask = normal(generator, B, T), random_mask(generator)
    reward_values, cost_values = normal(generator, B, T), normal(generator, B, T) * scale
    rewards = shape_rewards(log_probs, log_probs, reward_terminal, mask, kl_coefficient=0.0)
    costs = shape_costs(log_probs, log_probs, cost_terminal, mask, kl_coefficient=0.0)
    reward_advantages, _ = generalised_advantages(rewards, reward_values, mask)
    cost_advantages, _ = generalised_advantages(costs, cost_values, mask)
    combined = combine_advantages(reward_advantages, {"c": cost_advantages}, {"c": multiplier}, {})
    current = (log_probs + 0.3 * normal(generator, B, T)).requires_grad_()
    (gradient,) = torch.autograd.grad(policy_loss(current, log_probs, combined, mask), current)
    return gradient


@given(seed=seeds, multiplier=st.floats(0.0, 50.0))
def test_costs_times_ten_at_a_tenth_of_the_multiplier_leave_the_policy_gradients_direction(
    seed: int, multiplier: float
) -> None:
    """R - lambda*C is the same; only the common divisor differs, 1 + lambda/10 for 1 + lambda (from the formula)."""
    plain = policy_gradient(torch.Generator().manual_seed(seed), 1.0, multiplier)
    scaled = policy_gradient(torch.Generator().manual_seed(seed), 10.0, multiplier / 10.0)
    torch.testing.assert_close(scaled * (1 + multiplier / 10.0), plain * (1 + multiplier), rtol=1e-8, atol=1e-10)


@given(seed=seeds, multiplier=st.floats(0.0, 50.0))
def test_a_scale_of_ten_undoes_costs_times_ten_and_keeps_the_gradient_and_the_multiplier(
    seed: int, multiplier: float
) -> None:
    """Terminal costs and limit times 10 under ``scale=10``: the same g, the same J - limit, so the same step."""
    costs = normal(torch.Generator().manual_seed(seed), B).numpy()
    plain, scaled = Measure("mean"), Measure("mean", scale=10.0)
    g = plain.g(costs, {}), scaled.g(10.0 * costs, {})
    gaps = plain.aggregate(g[0]) - plain.scaled_limit(0.3), scaled.aggregate(g[1]) - scaled.scaled_limit(3.0)
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-9, abs=1e-12)
    rewards = torch.ones(B, 1, dtype=torch.float64)
    combined = [
        combine_advantages(rewards, {"c": torch.from_numpy(each)[:, None]}, {"c": multiplier}, {}) for each in g
    ]
    torch.testing.assert_close(combined[0], combined[1], rtol=1e-12, atol=1e-12)


def test_mismatched_names_and_bad_multipliers_are_refused() -> None:
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="do not match"):
        combine_advantages(one, {"a": one}, {}, {})
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            combine_advantages(one, {"a": one}, {"a": bad}, {})
