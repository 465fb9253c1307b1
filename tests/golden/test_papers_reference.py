"""What the golden vectors leave open in ``tests/golden/papers_reference``: refusals, and the numbered facts on other numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.golden.papers_reference.collators import pad_prompts, pad_supervised
from tests.golden.papers_reference.normaliser import MovingAverage, RunningMoments, fresh_moments
from tests.golden.papers_reference.score_head import head_scores
from tests.golden.papers_reference.spans import divergence_index, dpo_span, span_sum
from tests.golden.papers_reference.step import reference_episode_cost, reference_multiplier, shaped_reward


def test_a_pair_of_equal_rows_is_refused_by_number() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        divergence_index(ids, torch.tensor([[1, 9, 3], [4, 5, 6]]))


def test_the_textbook_span_holds_the_first_differing_token_and_the_quirk_does_not() -> None:
    # Tokens 0..5, the rows differ from token 2 on and end at token 4; index t of the shifted axis is token t + 1.
    shifted = torch.tensor([[10.0, 20.0, 30.0, 40.0, 50.0]])
    diverges, ends = torch.tensor([2]), torch.tensor([4])
    assert span_sum(shifted, *dpo_span(diverges, ends, quirk=False)).tolist() == [20 + 30 + 40]  # tokens 2, 3, 4
    assert span_sum(shifted, *dpo_span(diverges, ends, quirk=True)).tolist() == [30 + 40 + 50]  # tokens 3, 4 and a pad


def test_running_moments_of_one_batch_are_the_batchs_and_of_many_nearly_those_of_all() -> None:
    rows = np.random.default_rng(0).normal(2.0, 3.0, (400, 2))
    moments = RunningMoments(*fresh_moments(2))
    moments.update(torch.from_numpy(rows[:50]))
    np.testing.assert_allclose(moments.var, rows[:50].var(axis=0, ddof=1), rtol=1e-12)
    for start in range(50, 400, 50):
        moments.update(torch.from_numpy(rows[start : start + 50]))
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12)
    # Fact 4: sums of squares are n times the unbiased variance, so the variance is a little too large.
    biased = rows.var(axis=0)
    assert (moments.var.numpy() > biased).all() and (moments.var.numpy() < 1.03 * biased).all()


def test_moments_refuse_a_batch_without_a_variance() -> None:
    for moments in (RunningMoments(*fresh_moments()), MovingAverage(*fresh_moments(), momentum=0.9)):
        with pytest.raises(ValueError, match="unbiased variance"):
            moments.update(torch.ones(1, 1, dtype=torch.float64))
        assert moments.count == 0


def test_evaluating_a_score_head_moves_no_moments_and_training_takes_no_gradient_through_them() -> None:
    hidden = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64)
    moments = MovingAverage(*fresh_moments(), momentum=0.5)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0]])
    result = head_scores(hidden, weight, bias, mask, normaliser=moments, score_type="reward")
    assert result.end_index.tolist() == [3, 2, 2] and moments.count == 0
    head_scores(hidden, weight, bias, mask, normaliser=moments, score_type="reward", train=True)
    assert moments.count == 3 and not moments.mean.requires_grad


def test_prompts_are_padded_left_and_a_pad_id_inside_a_supervised_text_is_masked() -> None:
    ids, mask = pad_prompts([[1, 0, 2], [3]], 0)
    assert ids.tolist() == [[1, 0, 2], [0, 0, 3]]
    assert mask.long().tolist() == [[1, 1, 1], [0, 0, 1]]  # by length: the 0 inside counts
    _, labels, mask = pad_supervised([[1, 0, 2], [3]], [[1, 0, 2], [-100]], 0)
    assert labels.tolist() == [[1, 0, 2], [-100, -100, -100]]
    assert mask.long().tolist() == [[1, 0, 1], [1, 0, 0]]  # by id: it does not


def test_the_references_J_weighs_ranks_not_samples_and_its_maximum_of_0_is_none() -> None:
    assert reference_episode_cost([[1.0], [3.0, 3.0, 3.0]]) == 2.0  # not 10/4
    free, capped = reference_multiplier(2.0, lr=1.0, maximum=0.0), reference_multiplier(2.0, lr=1.0, maximum=3.0)
    assert free.update(1.0, 0.0) == pytest.approx(2.0 * math.exp(2.0))
    assert capped.update(1.0, 0.0) == pytest.approx(3.0)
    assert reference_multiplier(4.0, lr=1.0, maximum=3.0).value == 3.0
    assert shaped_reward(torch.tensor([1.0]), torch.tensor([2.0]), 0.5).tolist() == [0.0]
