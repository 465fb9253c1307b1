"""Means over micro-batches and minibatches."""

from __future__ import annotations

import torch

from learner.algorithms.update_metrics import _QUANTILES, Tally
from learner.engine.collective import OneRank


def test_a_constraint_may_be_called_a_loss() -> None:
    tally = Tally(OneRank())
    for column in _QUANTILES:
        tally.column(column, torch.ones(2))
    for _ in range(2):  # minibatches
        tally.mean("cost/data_loss", 3.0, 1.0)
        tally.mean("advantage_mean", 0.0, 1.0)
        tally.mean("advantage_square", 1.0, 1.0)
        tally.critic("cost/data_loss", torch.tensor(0.5))
        tally.updated(0.0, [])
    metrics = tally.metrics()
    assert metrics["cost/data_loss"] == 3.0 and metrics["critic_loss/cost/data_loss"] == 0.5
