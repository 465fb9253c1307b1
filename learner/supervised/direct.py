"""Preference-only policies, `dpo` and `safe_dpo`: the pairs teach the policy itself; no loop, no reward or cost model.

What a pair means and its loss are in `learner.algorithms.dpo` and `learner.algorithms.safe_dpo`; here is the training they share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from configs.exits import DataError
from configs.schema.supervised import DirectSettings
from learner.algorithms.dpo import DirectLoss, dpo_losses
from learner.algorithms.safe_dpo import safe_dpo_losses
from learner.models.modules import ResponseLogprobs, load_policy, load_tokenizer, pad_right, save_model
from learner.supervised.training import (
    SupervisedEngine,
    TokenRows,
    TrainingContext,
    epochs_plan,
    evaluate_rows,
    gather_weights,
    load_weights,
    read_columns,
    run_steps,
)

__all__ = ["DirectLoss", "DirectPairs", "DirectTask", "dpo_losses", "safe_dpo_losses", "train_direct"]

SPLITS = ("train", "holdout", "calibration")
"""Pairs of the last one are for the cost models' probabilities, and no policy sees them."""


@dataclass(frozen=True)
class DirectTask:
    """Train the policy in `policy` on the pairs in `data` and save it in `output`; absolute paths."""

    name: str
    kind: Literal["dpo", "safe_dpo"]
    data: Path
    """Parquet: ``better_ids``, ``worse_ids`` list<int32> (prompt and response), ``better_prompt_length``,
    ``worse_prompt_length``, ``margin_weight`` (1 where the better response is safe and the worse one is not, of
    `safe_dpo`), ``split`` (``train``, ``holdout``, ``calibration``)."""
    policy: Path
    """Hugging Face folder to start from; its weights are the reference too."""
    output: Path
    settings: DirectSettings
    seed: int


class DirectPairs:
    """The rows of a file of ordered pairs.

    Raises:
        DataError: the file cannot be used; names the row.
    """

    def __init__(self, path: Path, config: object) -> None:
        names = ["better_ids", "better_prompt_length", "worse_ids", "worse_prompt_length", "margin_weight", "split"]
        table = read_columns(path, names)
        better, worse = TokenRows(table["better_ids"]), TokenRows(table["worse_ids"])
        prompts = [table[f"{side}_prompt_length"].to_numpy().astype(np.int64) for side in ("better", "worse")]
        for side, rows, lengths in (("better", better, prompts[0]), ("worse", worse, prompts[1])):
            rows.check(lengths, config, f"{path} ({side})", least_response=1)
        self.rows = [*(better[i] for i in range(len(better))), *(worse[i] for i in range(len(worse)))]
        """Better responses, then worse ones, each with its prompt: 2n rows."""
        self.prompt_lengths = np.concatenate(prompts)
        """Int64 ``[2n]``."""
        self.margin_weights = table["margin_weight"].to_numpy().astype(np.float32)
        """``[n]``."""
        if not (self.margin_weights >= 0).all():
            raise DataError(
                f"{path}: margin_weight must not be negative: 1 is a safe response that beats an unsafe one"
            )
        split = np.array(table["split"].to_pylist())
        if (unknown := ~np.isin(split, SPLITS)).any():
            row = int(np.flatnonzero(unknown)[0])
            raise DataError(f"{path}: row {row} is of split '{split[row]}'; use {', '.join(SPLITS)}")
        self.train, self.holdout = np.flatnonzero(split == "train"), np.flatnonzero(split == "holdout")
        for name, indices in (("train", self.train), ("holdout", self.holdout)):
            if not indices.size:
                raise DataError(f"{path} has no pair of the split {name}: raise preferences.pairs, or look at splits")
        self.lengths = better.lengths + worse.lengths
        """Tokens of each pair, ``[n]``."""

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, pairs: np.ndarray, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """``input_ids [2b, T]``, ``prompt_lengths [2b]`` and ``response_lengths [2b]``: better responses, then worse."""
        rows = np.concatenate([pairs, pairs + len(self)])
        ids, lengths = pad_right([self.rows[row] for row in rows], pad_id)
        prompts = torch.from_numpy(self.prompt_lengths[rows])
        return ids.to(device), prompts.to(device), (lengths - prompts).to(device)


def train_direct(task: DirectTask, context: TrainingContext) -> dict[str, float]:
    """Run the task on this rank; collective. Rank 0 saves the policy with ``training.json``.

    The reference's log-probs are computed once, with the start weights, before anything moves.

    Returns:
        ``accuracy`` (share of the hold-out pairs whose better response has the higher implicit reward),
        ``train_accuracy``, ``reward_margin`` (mean gap of the implicit rewards on the hold-out pairs, nats),
        ``log_ratio`` (mean |log pi - log pi_ref| of a hold-out response, nats), ``loss``, ``steps``, ``seconds``,
        ``seconds_per_step``, ``pairs``, ``holdout_pairs``.

    Raises:
        DataError: the data cannot be used.
        NonFiniteLoss: training diverged.
    """
    tokenizer, policy = load_tokenizer(task.policy), load_policy(task.policy)
    data = DirectPairs(task.data, policy.config)
    settings, pad_id = task.settings, tokenizer.pad_token_id
    engine = SupervisedEngine(ResponseLogprobs(policy), settings.optimiser, context)
    before = response_logprobs(engine, context, data, pad_id)
    reference = torch.from_numpy(before).float().to(engine.device)
    weights = torch.from_numpy(data.margin_weights).to(engine.device)

    def loss_share(part: np.ndarray, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        logprobs = engine.forward(*data.batch(part, pad_id, engine.device)).sum(dim=1)
        better, worse = logprobs.split(len(part))
        pairs = torch.from_numpy(part).to(engine.device)
        loss = _loss(task, (better, worse, reference[0, pairs], reference[1, pairs]), weights[pairs])
        return loss * len(part) / len(batch), better + worse

    plan = epochs_plan(data.train, epochs=settings.epochs, batch_size=settings.batch_size, seed=task.seed)
    curves = run_steps(engine, context, task.name, plan, data.lengths, settings.optimiser, loss_share)
    after = response_logprobs(engine, context, data, pad_id)
    metrics = judge_direct(data, after - before, beta=settings.beta) | curves.metrics()
    state = gather_weights(engine, context)
    if context.ranks.rank == 0:
        saved = load_policy(task.policy)
        load_weights(saved, state)
        training = {
            "task": task.name,
            "kind": task.kind,
            "seed": task.seed,
            "settings": settings.model_dump(mode="json"),
            "metrics": metrics,
            "curves": curves.document(),
        }
        save_model(saved, tokenizer, task.output, {"training.json": training})
    return metrics


def _loss(task: DirectTask, logprobs: tuple[Tensor, Tensor, Tensor, Tensor], margin_weights: Tensor) -> Tensor:
    if task.kind == "dpo":
        return dpo_losses(*logprobs, beta=task.settings.beta).loss
    return safe_dpo_losses(
        *logprobs, beta=task.settings.beta, margin=task.settings.margin, margin_weights=margin_weights
    ).loss


def response_logprobs(engine: SupervisedEngine, context: TrainingContext, data: DirectPairs, pad_id: int) -> np.ndarray:
    """Summed response log-probs float64 ``[2, n]`` of better and worse responses, all splits; collective.

    Raises:
        DataError: one is not finite; names the row.
    """

    def forward(ids: Tensor, lengths: Tensor, indices: np.ndarray) -> Tensor:
        prompts = torch.from_numpy(data.prompt_lengths[indices]).to(lengths.device)
        return engine.forward(ids, prompts, lengths - prompts).sum(dim=1)

    logprobs = evaluate_rows(context, data.rows, pad_id, forward).reshape(2, len(data))
    if not np.isfinite(logprobs).all():
        row = int(np.flatnonzero(~np.isfinite(logprobs).all(axis=0))[0])
        raise DataError(
            f"the log-prob of row {row} is not finite: look at the policy it starts from, or lower the rate"
        )
    return logprobs


def judge_direct(data: DirectPairs, log_ratios: np.ndarray, *, beta: float) -> dict[str, float]:
    """What the implicit reward beta * log ratio is worth, from log ratios ``[2, n]`` (nats)."""
    gaps = log_ratios[0] - log_ratios[1]
    holdout = data.holdout
    return {
        "accuracy": float((gaps[holdout] > 0).mean()),
        "train_accuracy": float((gaps[data.train] > 0).mean()),
        "reward_margin": float(beta * gaps[holdout].mean()),
        "log_ratio": float(np.abs(log_ratios[:, holdout]).mean()),
        "pairs": float(data.train.size),
        "holdout_pairs": float(holdout.size),
    }
