"""Supervised fine-tuning of a policy on demonstrations: the loss is the token mean over the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.exits import DataError
from configs.schema.supervised import SftSettings
from learner.algorithms.losses import sft_loss
from learner.models.modules import ResponseLogprobs, load_policy, load_tokenizer, pad_right, response_mask, save_model
from learner.supervised.training import (
    SupervisedEngine,
    TokenRows,
    TrainingContext,
    evaluate_rows,
    fixed_steps_plan,
    gather_weights,
    holdout_column,
    load_weights,
    read_columns,
    run_steps,
)


@dataclass(frozen=True)
class SftTask:
    """Train the policy in `model` on the demonstrations in `data` and save it in `output`; absolute paths."""

    name: str
    data: Path
    """Parquet: ``input_ids`` list<int32> (prompt and response), ``prompt_length``, optionally ``holdout`` (bool)."""
    model: Path
    """Hugging Face folder to start from, with its tokenizer; a new policy is made by `learner.models.modules.new_policy`."""
    output: Path
    settings: SftSettings
    seed: int


class Demonstrations:
    """The rows of an SFT file.

    Raises:
        DataError: the file cannot be used; names the row.
    """

    def __init__(self, path: Path, config: object) -> None:
        table = read_columns(path, ["input_ids", "prompt_length"])
        self.rows = TokenRows(table["input_ids"])
        self.prompt_lengths = table["prompt_length"].to_numpy().astype(np.int64)
        self.holdout = holdout_column(table)
        self.rows.check(self.prompt_lengths, config, str(path), least_response=1)
        self.response_lengths = self.rows.lengths - self.prompt_lengths
        if self.holdout.all():
            raise DataError(f"{path}: every row is held out, so there is nothing to train on")

    def batch(self, indices: np.ndarray, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """``input_ids [b, T]``, ``prompt_lengths [b]``, ``response_lengths [b]``."""
        ids, lengths = pad_right([self.rows[i] for i in indices], pad_id)
        prompts = torch.from_numpy(self.prompt_lengths[indices])
        return ids.to(device), prompts.to(device), (lengths - prompts).to(device)


def train_sft(task: SftTask, context: TrainingContext) -> dict[str, float]:
    """Run the task on this rank; collective. Rank 0 saves the model with ``training.json``.

    Returns:
        ``loss`` (nats per response token, over the last tenth of the steps), ``steps``, ``seconds``,
        ``seconds_per_step``, ``rows``, ``tokens`` (response tokens seen), and ``holdout_loss`` where rows are held out.

    Raises:
        DataError: the data cannot be used.
        NonFiniteLoss: training diverged.
    """
    tokenizer, policy = load_tokenizer(task.model), load_policy(task.model)
    data = Demonstrations(task.data, policy.config)
    settings, pad_id = task.settings, tokenizer.pad_token_id
    engine = SupervisedEngine(ResponseLogprobs(policy), settings.optimiser, context)

    def loss_share(part: np.ndarray, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        ids, prompts, responses = data.batch(part, pad_id, engine.device)
        logprobs = engine.forward(ids, prompts, responses)
        loss = sft_loss(logprobs, response_mask(responses), token_count=int(data.response_lengths[batch].sum()))
        return loss, logprobs.sum(dim=1)

    trained = np.flatnonzero(~data.holdout)
    plan = fixed_steps_plan(trained, steps=settings.steps, batch_size=settings.batch_size, seed=task.seed)
    curves = run_steps(engine, context, task.name, plan, data.rows.lengths, settings.optimiser, loss_share)
    metrics = curves.metrics() | {"rows": float(len(trained)), "tokens": float(data.response_lengths[plan].sum())}
    if data.holdout.any():
        metrics["holdout_loss"] = holdout_loss(engine, context, data, pad_id)
    state = gather_weights(engine, context)
    if context.ranks.rank == 0:
        saved = load_policy(task.model)
        load_weights(saved, state)
        training = {"task": task.name, "seed": task.seed, "settings": settings.model_dump(mode="json")}
        training |= {"metrics": metrics, "curves": curves.document()}
        save_model(saved, tokenizer, task.output, {"training.json": training})
    return metrics


def holdout_loss(engine: SupervisedEngine, context: TrainingContext, data: Demonstrations, pad_id: int) -> float:
    """Nats per response token on the held-out rows; collective."""
    holdout = np.flatnonzero(data.holdout)

    def forward(ids: Tensor, lengths: Tensor, indices: np.ndarray) -> Tensor:
        prompts = torch.from_numpy(data.prompt_lengths[holdout[indices]]).to(lengths.device)
        return engine.forward(ids, prompts, lengths - prompts).sum(dim=1)

    logprobs = evaluate_rows(context, [data.rows[i] for i in holdout], pad_id, forward)
    return float(-logprobs.sum() / data.response_lengths[holdout].sum())
