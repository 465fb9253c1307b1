"""Direct preference losses by hand, the order that each algorithm reads from labels, and the data they refuse."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from configs.exits import DataError
from learner.algorithms import dpo, safe_dpo
from learner.algorithms.dpo import Comparison, dpo_losses
from learner.algorithms.safe_dpo import safe_dpo_losses
from learner.supervised.direct import DirectPairs, judge_direct

CONFIG = LlamaConfig(vocab_size=50, max_position_embeddings=16)
IDS = pa.list_(pa.int32())
NUMBER = st.floats(-50, 50)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- losses ---


def test_the_loss_by_hand():
    # rewards 0.5 * (1, -2) and 0.5 * (-1, 1); gaps 1 and -1.5; log(1 + e^-1) = 0.3132617, log(1 + e^1.5) = 1.7014133
    found = dpo_losses(column(-3, -7), column(-6, -4), column(-4, -5), column(-5, -5), beta=0.5)
    assert found.better_rewards.tolist() == [0.5, -1.0]
    assert found.worse_rewards.tolist() == [-0.5, 0.5]
    assert found.loss.item() == pytest.approx((0.3132616875 + 1.7014132780) / 2, abs=1e-9)
    assert found.accuracy.dtype == torch.float32 and found.accuracy.item() == 0.5


def test_at_the_reference_the_loss_is_log_2_and_a_tie_is_wrong():
    same = column(-3, -7)
    found = dpo_losses(same, same - 1, same, same - 1, beta=0.1)
    assert found.loss.item() == pytest.approx(np.log(2)) and found.accuracy.item() == 0.0


def test_the_gradient_raises_the_better_response_and_lowers_the_worse_one_by_the_same():
    better, worse = column(-3, -7).requires_grad_(), column(-6, -4).requires_grad_()
    found = dpo_losses(better, worse, column(-4, -5), column(-5, -5), beta=0.5)
    found.loss.backward()
    # d/d gap of -LS(gap) is -sigma(-gap): sigma(-1) = 0.26894142, sigma(1.5) = 0.81757448; times beta, over 2 pairs
    expected = column(-0.2689414214, -0.8175744762) * 0.5 / 2
    torch.testing.assert_close(better.grad, expected)
    torch.testing.assert_close(worse.grad, -expected)
    assert not found.better_rewards.requires_grad and not found.worse_rewards.requires_grad


def test_the_margin_is_taken_off_the_gap_where_the_pair_is_safe_against_unsafe():
    arguments = (column(-3, -3), column(-6, -6), column(-4, -4), column(-5, -5))
    found = safe_dpo_losses(*arguments, beta=0.5, margin=2.0, margin_weights=column(1, 0))
    # gap 1 in both: with the margin log(1 + e^1) = 1.3132617, without log(1 + e^-1) = 0.3132617
    assert found.loss.item() == pytest.approx((1.3132616875 + 0.3132616875) / 2, abs=1e-9)
    assert found.accuracy.item() == 1.0, "the margin asks for more, but the pair is ranked as it should be"
    plain = dpo_losses(*arguments, beta=0.5).loss
    without = safe_dpo_losses(*arguments, beta=0.5, margin=0.0, margin_weights=column(1, 1)).loss
    torch.testing.assert_close(without, plain)


@given(gap=NUMBER, shift=NUMBER, beta=st.floats(0.01, 5), margin=st.floats(0, 20))
def test_the_loss_is_finite_falls_with_the_gap_and_sees_only_the_gap(gap, shift, beta, margin):
    def loss(better: float, worse: float) -> float:
        return dpo_losses(column(better), column(worse), column(0), column(0), beta=beta, margin=margin).loss.item()

    here = loss(gap, 0.0)
    assert np.isfinite(here) and here >= 0.0
    assert loss(gap + 1.0, 0.0) <= here
    assert loss(gap + shift, shift) == pytest.approx(here, rel=1e-6, abs=1e-9)


@given(margin=st.floats(0.1, 20), gap=NUMBER)
def test_a_margin_never_weakens_the_push(margin, gap):
    def push(with_margin: float) -> float:
        better = column(gap).requires_grad_()
        dpo_losses(better, column(0), column(0), column(0), beta=1.0, margin=with_margin).loss.backward()
        assert better.grad is not None
        return -better.grad.item()

    assert push(margin) >= push(0.0)


# --- what a pair means ---


@pytest.mark.parametrize(("better", "first", "second"), list(product((0, 1), (True, False, None), (True, False, None))))
def test_dpo_follows_helpfulness_whatever_is_safe(better, first, second):
    assert dpo.compare(better, (first, second)) == Comparison(better, 0.0)


@pytest.mark.parametrize(
    ("safe", "better_of_0", "better_of_1", "margin_weight"),
    [((True, True), 0, 1, 0.0), ((True, False), 0, 0, 1.0), ((False, True), 1, 1, 1.0)],
)
def test_safe_dpo_puts_safe_above_unsafe_and_helpful_above_less_helpful_among_safe_ones(
    safe, better_of_0, better_of_1, margin_weight
):
    assert safe_dpo.compare(0, safe) == Comparison(better_of_0, margin_weight)
    assert safe_dpo.compare(1, safe) == Comparison(better_of_1, margin_weight)


@pytest.mark.parametrize("safe", [(False, False), (None, None), (True, None), (None, False)])
def test_safe_dpo_drops_pairs_that_are_both_unsafe_or_not_labelled(safe):
    assert safe_dpo.compare(0, safe) is None and safe_dpo.compare(1, safe) is None


# --- data ---


def write_pairs(path: Path, **changes: Any) -> Path:
    columns = {
        "better_ids": pa.array([[1, 2, 3], [4, 5], [6, 7, 8, 9], [1, 1]], IDS),
        "worse_ids": pa.array([[1, 2], [4, 6], [6, 7, 7], [1, 2]], IDS),
        "better_prompt_length": [1, 1, 2, 1],
        "worse_prompt_length": [1, 1, 2, 1],
        "margin_weight": [1.0, 0.0, 0.0, 0.0],
        "split": ["train", "holdout", "train", "calibration"],
    }
    parquet.write_table(pa.table(columns | changes), path)
    return path


def test_a_batch_holds_better_responses_and_then_worse_ones(tmp_path):
    data = DirectPairs(write_pairs(tmp_path / "pairs.parquet"), CONFIG)
    ids, prompts, responses = data.batch(np.array([2, 0]), 0, torch.device("cpu"))
    assert ids.tolist() == [[6, 7, 8, 9], [1, 2, 3, 0], [6, 7, 7, 0], [1, 2, 0, 0]]
    assert prompts.tolist() == [2, 1, 2, 1] and responses.tolist() == [2, 2, 1, 1]
    assert data.train.tolist() == [0, 2] and data.holdout.tolist() == [1], "calibration pairs are for neither"
    assert data.lengths.tolist() == [5, 4, 7, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": ["train"] * 4}, "no pair of the split holdout"),
        ({"split": ["holdout"] * 4}, "no pair of the split train"),
        ({"split": ["train", "holdout", "test", "train"]}, "row 2 is of split 'test'"),
        ({"margin_weight": [-1.0, 0.0, 0.0, 0.0]}, "margin_weight must not be negative"),
        ({"worse_prompt_length": [2, 1, 2, 1]}, r"\(worse\): row 0 has a response of fewer than 1 tokens"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_row(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        DirectPairs(write_pairs(tmp_path / "pairs.parquet", **changes), CONFIG)


def test_judging_looks_at_the_holdout_and_at_nothing_that_trained(tmp_path):
    data = DirectPairs(write_pairs(tmp_path / "pairs.parquet"), CONFIG)
    metrics = judge_direct(data, np.array([[1.0, -4.0, 2.0, 9.0], [0.0, 2.0, 3.0, 0.0]]), beta=0.5)
    assert metrics["accuracy"] == 0.0 and metrics["train_accuracy"] == 0.5
    assert metrics["reward_margin"] == -3.0, "0.5 * (-4 - 2)"
    assert metrics["log_ratio"] == 3.0, "mean of 4 and 2"
    assert metrics["pairs"] == 2 and metrics["holdout_pairs"] == 1
