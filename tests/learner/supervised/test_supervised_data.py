"""Data, batches and losses of supervised training, without Ray; one rank runs the real DeepSpeed engine in-process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from configs.exits import DataError
from configs.schema.supervised import OptimiserSettings
from learner.algorithms.losses import cost_model_loss
from learner.engine.collective import OneRank
from learner.supervised.mailbox import TaskProgress
from learner.supervised.preference import Pairs, cost_model_losses, start_head
from learner.supervised.sft import Demonstrations
from learner.supervised.training import (
    NonFiniteLoss,
    TokenRows,
    TrainingContext,
    cut_evenly,
    deal_batch,
    epochs_plan,
    evaluate_rows,
    fixed_steps_plan,
    run_steps,
)

CONFIG = LlamaConfig(vocab_size=50, max_position_embeddings=16)
IDS = pa.list_(pa.int32())


def write(path: Path, **columns) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def write_pairs(path: Path, **changes) -> Path:
    columns = {
        "better_ids": pa.array([[1, 2, 3], [4, 5], [6, 7, 8, 9]], IDS),
        "worse_ids": pa.array([[1, 2], [4, 6], [6, 7]], IDS),
        "better_prompt_length": [1, 1, 1],
        "worse_prompt_length": [1, 1, 2],
        "split": ["train", "holdout", "calibration"],
        "safer_sign": [-1, -1, 0],
        "less_safe_sign": [1, 1, 1],
        "rank_weight": [1, 1, 0],
    }
    return write(path, **(columns | changes))


def context(reports: list[TaskProgress] | None = None) -> TrainingContext:
    return TrainingContext(OneRank(), 0, torch.device("cpu"), (reports if reports is not None else []).append)


# --- data ---


def test_token_rows_are_views_of_one_array_even_over_many_chunks():
    column = pa.chunked_array([pa.array([[1, 2], [3]], IDS), pa.array([[4, 5, 6]], IDS).slice(0)])
    rows = TokenRows(column)
    assert [rows[i].tolist() for i in range(len(rows))] == [[1, 2], [3], [4, 5, 6]]
    assert rows.lengths.tolist() == [2, 1, 3] and rows[2].dtype == np.int32


def test_token_rows_of_a_sliced_column_start_at_the_slice():
    rows = TokenRows(pa.chunked_array([pa.array([[1, 2], [3], [4, 5, 6]], IDS)]).slice(1))
    assert [rows[i].tolist() for i in range(len(rows))] == [[3], [4, 5, 6]]


def test_demonstrations_give_right_padded_batches(tmp_path):
    path = write(tmp_path / "sft.parquet", input_ids=pa.array([[1, 2, 3], [4, 5]], IDS), prompt_length=[1, 1])
    ids, prompts, responses = Demonstrations(path, CONFIG).batch(np.array([1, 0]), 0, torch.device("cpu"))
    assert ids.tolist() == [[4, 5, 0], [1, 2, 3]]
    assert prompts.tolist() == [1, 1] and responses.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("row", "prompt_length", "message"),
    [
        ([1, 2], 2, "row 1 has a response of fewer than 1 tokens"),
        ([1, 2], 0, "row 1 has an empty prompt"),
        (list(range(1, 18)), 1, "row 1 is longer than 16 tokens"),
        ([1, 50], 1, "row 1 holds a token id outside the vocabulary of 50"),
        ([], 0, "row 1 has an empty prompt"),
    ],
)
def test_bad_demonstrations_are_refused_by_row(tmp_path, row, prompt_length, message):
    path = write(tmp_path / "x.parquet", input_ids=pa.array([[1, 2], row], IDS), prompt_length=[1, prompt_length])
    with pytest.raises(DataError, match=message):
        Demonstrations(path, CONFIG)


def test_unreadable_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    empty = write(tmp_path / "empty.parquet", input_ids=pa.array([], IDS), prompt_length=pa.array([], pa.int32()))
    other = write(tmp_path / "other.parquet", input_ids=pa.array([[1, 2]], IDS))
    null = write(tmp_path / "null.parquet", input_ids=pa.array([[1, 2], None], IDS), prompt_length=[1, 1])
    for path, message in (
        (tmp_path / "absent.parquet", "absent.parquet cannot be read"),
        (tmp_path / "text.parquet", "text.parquet cannot be read"),
        (empty, "no rows"),
        (other, "lacks the columns prompt_length"),
        (null, "input_ids has 1 null"),
    ):
        with pytest.raises(DataError, match=message):
            Demonstrations(path, CONFIG)


def test_pairs_are_batches_of_better_then_worse_and_refuse_files_without_a_split(tmp_path):
    data = Pairs(write_pairs(tmp_path / "pairs.parquet"), "cost", CONFIG)
    ids, lengths = data.batch(np.array([2, 1]), 0, torch.device("cpu"))
    assert ids.tolist() == [[6, 7, 8, 9], [4, 5, 0, 0], [6, 7, 0, 0], [4, 6, 0, 0]] and lengths.tolist() == [4, 2, 2, 2]
    assert np.flatnonzero(data.labels.train).tolist() == [0] and data.lengths.tolist() == [5, 4, 6]
    table = parquet.read_table(tmp_path / "pairs.parquet")
    parquet.write_table(table.drop_columns("split"), tmp_path / "old.parquet")
    with pytest.raises(DataError, match="lacks the columns split"):
        Pairs(tmp_path / "old.parquet", "cost", CONFIG)
    with pytest.raises(DataError, match="lacks the columns half"):
        Pairs(tmp_path / "pairs.parquet", "reward", CONFIG, half=0)


# --- batches ---


def test_fixed_steps_use_every_row_once_per_pass_and_follow_the_seed():
    rows = np.arange(10) * 3
    plan = fixed_steps_plan(rows, steps=5, batch_size=4, seed=1)
    assert np.concatenate(plan)[:10].tolist() != np.concatenate(plan)[10:].tolist()
    for once in (np.concatenate(plan)[:10], np.concatenate(plan)[10:]):
        assert sorted(once.tolist()) == rows.tolist()
    again, other = (np.array(fixed_steps_plan(rows, steps=5, batch_size=4, seed=seed)) for seed in (1, 2))
    assert np.array_equal(plan, again) and not np.array_equal(plan, other)


def test_epochs_drop_no_row_and_leave_no_tiny_last_batch():
    plan = epochs_plan(np.arange(130), epochs=2, batch_size=64, seed=0)
    assert [len(batch) for batch in plan] == [44, 43, 43] * 2
    assert sorted(np.concatenate(plan[:3]).tolist()) == list(range(130))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 5, 64, 128])
def test_dealing_gives_every_row_once_and_every_rank_equally_many_passes(ranks, size):
    lengths = np.random.default_rng(0).integers(2, 60, 200)
    batch = np.random.default_rng(1).permutation(200)[:size]
    dealt = deal_batch(batch, lengths, ranks)
    assert len({len(parts) for parts in dealt}) == 1
    assert all(len(part) for parts in dealt for part in parts)
    assert sorted(row for parts in dealt for part in parts for row in part) == sorted(batch)


@pytest.mark.parametrize("ranks", [1, 2])
def test_dealing_balances_ranks_and_pads_little(ranks):
    lengths = np.array([20] * 100 + [55] * 100)
    batch = np.random.default_rng(1).permutation(200)[:64]
    costs = [sum(len(part) * lengths[part].max() for part in parts) for parts in deal_batch(batch, lengths, ranks)]
    tokens = lengths[batch].sum()
    assert sum(costs) < 1.1 * tokens, "unsorted, 64 rows of 55 would be 1.5 times as many"
    assert max(costs) < 1.25 * tokens / ranks


def test_cutting_finds_the_least_largest_run():
    pieces = cut_evenly(np.arange(7), np.array([1, 1, 1, 1, 1, 5, 5]), 2)
    assert sorted(piece.tolist() for piece in pieces) == [[0, 1, 2, 3, 4], [5, 6]]
    assert sorted(len(piece) for piece in cut_evenly(np.arange(4), np.full(4, 9), 4)) == [1, 1, 1, 1]
    assert sorted(len(piece) for piece in cut_evenly(np.arange(4), np.array([1, 1, 1, 90]), 3)) == [1, 1, 2]


def test_a_batch_smaller_than_the_workers_is_refused():
    with pytest.raises(DataError, match="every worker needs one"):
        deal_batch(np.array([1]), np.array([3, 4]), 2)


def test_evaluation_gives_each_row_its_number():
    rows = [np.arange(n) for n in (5, 1, 3, 2)]
    sums = evaluate_rows(context(), rows, 0, lambda ids, lengths, _: ids.sum(1) + 100 * lengths)
    assert sums.tolist() == [510, 100, 303, 201]


# --- losses ---


def test_cost_losses_equal_cost_model_loss_when_nothing_is_left_out():
    generator = torch.Generator().manual_seed(0)
    safer, less = torch.randn(2, 9, generator=generator)
    signs = torch.randint(0, 2, (2, 9), generator=generator) * 2.0 - 1
    found = cost_model_losses(safer, less, signs[0], signs[1], torch.ones(9), regularisation=0.1)
    torch.testing.assert_close(found.mean(), cost_model_loss(safer, less, signs[0], signs[1], regularisation=0.1).loss)


def test_an_unknown_sign_and_an_unranked_pair_leave_their_terms_out():
    safer, less = torch.tensor([0.5, 0.5], requires_grad=True), torch.tensor([-0.3, -0.3], requires_grad=True)
    losses = cost_model_losses(
        safer, less, torch.tensor([0.0, -1.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), regularisation=0.0
    )
    log_sigmoid = torch.nn.functional.logsigmoid
    assert losses[0].item() == pytest.approx(-log_sigmoid(torch.tensor(-0.8)).item())
    expected = -log_sigmoid(torch.tensor(-0.5)) - log_sigmoid(torch.tensor(-0.3))
    assert losses[1].item() == pytest.approx(expected.item())


def test_the_head_of_a_member_starts_small_by_its_seed_and_leaves_the_generator_alone():
    model = AutoModelForSequenceClassification.from_config(
        LlamaConfig(
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            vocab_size=50,
            num_labels=1,
        )
    )
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    heads = []
    for seed in (1, 1, 2):
        start_head(model, seed)
        heads.append(model.score.weight.detach().clone())
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert 0.01 < heads[0].std() < 0.04


# --- the loop ---


class PlainEngine:
    """TrainEngine on one scalar parameter, with plain gradient descent."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.tensor(0.0))

    def backward(self, loss):
        loss.backward()

    def step(self, learning_rate):
        norm = float(self.weight.grad.abs())
        with torch.no_grad():
            self.weight -= learning_rate * self.weight.grad
        self.weight.grad = None
        return norm


def test_the_loop_sums_shares_and_reports_the_end():
    engine, targets, reports = PlainEngine(), torch.arange(8.0), []

    def loss_share(part, batch):
        losses = (engine.weight - targets[part]).square()
        return losses.sum() / len(batch), losses

    settings = OptimiserSettings(learning_rate=0.5, schedule="constant")
    plan = [np.arange(8)] * 2
    curves = run_steps(engine, context(reports), "fit", plan, np.full(8, 5), settings, loss_share)
    assert curves.loss == pytest.approx([17.5, 5.25])  # mean of squares, then the variance
    assert engine.weight.item() == pytest.approx(3.5)
    assert reports[-1].fraction == 1.0 and reports[-1].task == "fit" and reports[-1].loss == pytest.approx(5.25)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_rows():
    engine = PlainEngine()
    targets = torch.tensor([1.0, 2.0, float("nan"), 4.0])

    def loss_share(part, batch):
        losses = (engine.weight - targets[part]).square()
        return losses.sum() / len(batch), losses

    settings = OptimiserSettings(learning_rate=0.5, schedule="constant")
    plan = [np.array([0, 1]), np.array([3, 2])]
    with pytest.raises(NonFiniteLoss, match=r"the loss of step 2 of 2 is nan; rows \[2\]"):
        run_steps(engine, context(), "fit", plan, np.full(4, 5), settings, loss_share)
    assert engine.weight.item() == pytest.approx(1.5)
