"""Losses: reductions, truncation, signs and temperature; the reference's numbers are in tests/golden."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.advantages import length_mask
from learner.algorithms.losses import (
    clip_fraction,
    cost_model_loss,
    critic_loss,
    log_prob_gap,
    masked_mean,
    policy_loss,
    reduce_tokens,
    reward_model_loss,
    sft_loss,
    truncated_importance_weights,
)
from learner.models.log_probs import gather_log_probs
from tests.golden.papers_reference.step import ReferenceBatch, ReferenceConstants, reference_step

seeds = st.integers(0, 2**31)


def batch(seed: int, rows: int = 6, width: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    current, proximal, advantages = torch.randn(3, rows, width, generator=generator, dtype=torch.float64)
    return current, proximal, advantages, length_mask(torch.randint(1, width + 1, (rows,), generator=generator), width)


def test_row_mean_and_token_mean_by_hand() -> None:
    x, mask = torch.tensor([[2.0, 4.0], [9.0, 7.0]]), length_mask(torch.tensor([2, 1]), 2)
    assert masked_mean(x, mask).item() == (3.0 + 9.0) / 2
    assert reduce_tokens(x, mask, token_count=3).item() == 5.0
    assert reduce_tokens(x, mask, row_count=4).item() == 3.0
    with pytest.raises(ValueError, match="not both"):
        reduce_tokens(x, mask, token_count=3, row_count=2)


def test_empty_rows_count_for_nothing_and_an_empty_batch_gives_zero() -> None:
    x = torch.full((2, 2), math.nan)
    x[0] = 3.0
    assert masked_mean(x, length_mask(torch.tensor([2, 0]), 2)).item() == 3.0
    assert masked_mean(x, length_mask(torch.tensor([0, 0]), 2)).item() == 0.0


@given(seed=seeds, cut=st.integers(1, 5))
def test_the_token_mean_does_not_depend_on_micro_batches(seed: int, cut: int) -> None:
    current, proximal, advantages, mask = batch(seed)
    count = mask.sum()
    whole = policy_loss(current, proximal, advantages, mask, token_count=count)
    parts = sum(
        policy_loss(current[part], proximal[part], advantages[part], mask[part], token_count=count)
        for part in (slice(0, cut), slice(cut, None))
    )
    torch.testing.assert_close(torch.as_tensor(parts), whole)


@given(seed=seeds)
def test_at_the_proximal_policy_the_gradient_is_the_plain_policy_gradient(seed: int) -> None:
    _, proximal, advantages, mask = batch(seed)
    current = proximal.clone().requires_grad_()
    loss = policy_loss(current, proximal, advantages, mask, token_count=mask.sum())
    (gradient,) = torch.autograd.grad(loss, current)
    # Expected: d q / d log p = q = 1, and the clip is inactive at 1.
    torch.testing.assert_close(gradient, -advantages * mask / mask.sum())


def test_what_lies_in_padding_reaches_neither_loss_nor_gradient() -> None:
    mask = length_mask(torch.tensor([1]), 2)
    current = torch.tensor([[0.1, 900.0]], requires_grad=True)
    loss = policy_loss(current, torch.tensor([[0.0, -900.0]]), torch.tensor([[1.0, math.nan]]), mask)
    loss.backward()
    assert math.isfinite(loss.item()) and current.grad is not None
    assert current.grad[0, 1].item() == 0.0 and math.isfinite(current.grad[0, 0].item())


def test_importance_weights_are_truncated_and_carry_no_gradient() -> None:
    proximal = torch.tensor([[0.0, math.log(3.0), 50.0]], requires_grad=True)
    weights = truncated_importance_weights(proximal, torch.zeros(1, 3), cap=2.0)
    assert weights.tolist() == [[1.0, 2.0, 2.0]]
    assert not weights.requires_grad
    current, old, advantages, mask = batch(0)
    plain = policy_loss(current, old, advantages, mask)
    weighted = policy_loss(current, old, advantages, mask, importance_weights=torch.full_like(old, 0.5))
    torch.testing.assert_close(weighted, 0.5 * plain)


def test_clip_fraction_and_gap_quantiles_look_at_valid_tokens_only() -> None:
    current, proximal = torch.tensor([[0.5, 0.1, 9.0]]), torch.zeros(1, 3)
    mask = length_mask(torch.tensor([2]), 3)
    assert clip_fraction(current, proximal, mask).item() == 0.5  # e^0.5 is outside 1 +- 0.2, e^0.1 inside
    assert log_prob_gap(current, proximal, mask)["max"] == 0.5
    assert log_prob_gap(current, proximal, torch.zeros(1, 3))["max"] == 0.0


def test_critic_loss_takes_the_worse_of_clipped_and_unclipped_by_hand() -> None:
    # V 10, V_old 0, clip 5, G 10: unclipped 0, clipped (5 - 10)^2 = 25, half of it 12.5.
    ten, one = torch.tensor([[10.0]]), torch.ones(1, 1, dtype=torch.bool)
    assert critic_loss(ten, torch.zeros(1, 1), ten, one).item() == 12.5


@given(seed=seeds, temperature=st.sampled_from([0.5, 0.7, 1.0, 2.0]))
def test_log_probs_are_those_of_the_tempered_distribution(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(2, 3, 7, generator=generator), torch.randint(0, 7, (2, 3), generator=generator)
    # Expected numbers: torch's cross-entropy on the divided logits.
    expected = -F.cross_entropy(logits.reshape(-1, 7) / temperature, labels.reshape(-1), reduction="none").reshape(2, 3)
    torch.testing.assert_close(gather_log_probs(logits, labels, temperature), expected)
    assert gather_log_probs(logits.bfloat16(), labels, temperature).dtype == torch.float32


def test_temperature_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        gather_log_probs(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64), 0.0)


def test_reward_and_cost_losses_by_hand() -> None:
    zero = torch.zeros(1)
    # Every logsigmoid(0) is -ln 2: one term for reward, three for cost.
    assert reward_model_loss(zero, zero, regularisation=0.0).loss.item() == pytest.approx(math.log(2.0))
    unsafe, safe = torch.ones(1), -torch.ones(1)
    assert cost_model_loss(zero, zero, safe, unsafe, regularisation=0.0).loss.item() == pytest.approx(3 * math.log(2.0))
    # rho * mean over both responses: 0.5 * (4 + 16)/2 = 5 above the rest.
    two, minus_four = torch.tensor([2.0]), torch.tensor([-4.0])
    without = reward_model_loss(two, minus_four, regularisation=0.0).loss
    assert (reward_model_loss(two, minus_four, regularisation=0.5).loss - without).item() == pytest.approx(5.0)


def test_a_perfect_cost_model_is_right_in_order_and_sign() -> None:
    result = cost_model_loss(torch.tensor([-5.0]), torch.tensor([5.0]), -torch.ones(1), torch.ones(1))
    assert result.accuracy.item() == 1.0 and result.sign_accuracy is not None and result.sign_accuracy.item() == 1.0
    wrong = cost_model_loss(torch.tensor([5.0]), torch.tensor([-5.0]), -torch.ones(1), torch.ones(1))
    assert wrong.loss.item() > 10 * result.loss.item()


def test_sft_loss_is_the_token_mean_of_the_negative_log_likelihood() -> None:
    log_probs, mask = torch.tensor([[-1.0, -2.0], [-6.0, -9.0]]), length_mask(torch.tensor([2, 1]), 2)
    assert sft_loss(log_probs, mask).item() == 3.0
    assert sft_loss(log_probs, mask, token_count=9).item() == 1.0


def lag_step(multiplier: float, cost_scale: float = 1.0) -> tuple[torch.Tensor, dict[str, float]]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 7, (3, 6), generator=generator)
    logits = [torch.randn(3, 6, 7, generator=generator, dtype=torch.float64) for _ in range(3)]
    values = [torch.randn(3, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    reward, cost = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    signals = {"reward": (reward, values[0])}
    if cost_scale:
        signals["cost"] = (cost, values[1])
    rollout = ReferenceBatch(
        input_ids=ids,
        attention_mask=torch.ones(3, 6),
        prompt_length=2,
        log_probs=gather_log_probs(logits[0][:, :-1], ids[:, 1:]),
        reference_log_probs=gather_log_probs(logits[1][:, :-1], ids[:, 1:]),
        terminal={name: score for name, (score, _) in signals.items()},
        values={name: value[:, :-1] for name, (_, value) in signals.items()},
    )
    new_logits = logits[2].requires_grad_()
    step = reference_step(
        rollout, new_logits, {n: v for n, (_, v) in signals.items()}, ReferenceConstants(0.02), multiplier
    )
    (gradient,) = torch.autograd.grad(step.actor_loss, new_logits)
    return gradient, dict(step.metrics)


def test_a_reference_lag_step_with_multiplier_zero_is_the_plain_ppo_step() -> None:
    plain, plain_metrics = lag_step(0.0, cost_scale=0.0)
    lag, lag_metrics = lag_step(0.0)
    assert torch.equal(plain, lag)
    assert plain_metrics.items() <= lag_metrics.items()
    assert not torch.equal(lag, lag_step(1.0)[0])
