"""What SFT and preference training share: token rows from Parquet, the plan of batches, and the step loop on one rank.

Invariant: a batch's loss is a sum of shares over ranks and micro-batches, each divided by the *global* count, so the
gradient does not depend on how rows were dealt. Every rank makes equally many passes in the same order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from torch import Tensor, nn

from configs.exits import DataError, StoppedError
from configs.schema.supervised import OptimiserSettings
from learner.engine.collective import Ranks
from learner.engine.deepspeed_engine import DeepSpeedTrainEngine, TrainEngine, learning_rate
from learner.engine.micro_batch_size import SUPERVISED_ROWS, SUPERVISED_TOKENS
from learner.models.modules import checkpoint_layers, length_sorted_batches, pad_right
from learner.supervised.mailbox import TaskProgress

PROGRESS_SECONDS = 0.5
"""Least time between two reports of progress."""


class NonFiniteLoss(StoppedError):
    """A loss is not finite; training stopped before the parameters moved."""


@dataclass(frozen=True)
class TrainingContext:
    """One rank's surroundings."""

    ranks: Ranks
    zero_stage: int
    device: torch.device
    report: Callable[[TaskProgress], None]
    """Called on rank 0 only."""
    checkpoint_activations: bool = False


@dataclass
class Curves:
    """Per optimiser step, over all ranks."""

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def metrics(self) -> dict[str, float]:
        """``steps``, ``loss`` (mean of the last tenth of the steps), ``seconds`` and ``seconds_per_step``."""
        steps = len(self.loss)
        tail = self.loss[-max(1, steps // 10) :]
        return {
            "steps": float(steps),
            "loss": float(np.mean(tail)),
            "seconds": self.seconds,
            "seconds_per_step": self.seconds / max(1, steps),
        }

    def document(self) -> dict[str, list[float]]:
        """For ``training.json``."""
        return {"loss": self.loss, "learning_rate": self.learning_rate, "gradient_norm": self.gradient_norm}


# --- data -------------------------------------------------------------------------------------------------------------


class TokenRows:
    """Many rows of token ids in one flat array; ``rows[i]`` is a view, int32 ``[T_i]``."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        self._values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        self.lengths: np.ndarray = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        """Int64 ``[n]``."""
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self._values[self._starts[row] : self._starts[row + 1]]

    def check(self, prompt_lengths: np.ndarray, config: Any, source: str, *, least_response: int) -> None:
        """Refuse rows that the model cannot take.

        Raises:
            DataError: a prompt is empty, a response has fewer than `least_response` tokens, a row is longer than the
                model's positions, or a token id is outside the vocabulary; names the row.
        """
        problems = (
            (prompt_lengths < 1, "has an empty prompt"),
            (self.lengths - prompt_lengths < least_response, f"has a response of fewer than {least_response} tokens"),
            (self.lengths > config.max_position_embeddings, f"is longer than {config.max_position_embeddings} tokens"),
        )
        for wrong, complaint in problems:
            if wrong.any():
                raise DataError(
                    f"{source}: row {int(np.flatnonzero(wrong)[0])} {complaint} ({int(wrong.sum())} rows do)"
                )
        outside = (self._values < 0) | (self._values >= config.vocab_size)
        if outside.any():
            row = int(np.searchsorted(self._starts, np.flatnonzero(outside)[0], side="right")) - 1
            raise DataError(f"{source}: row {row} holds a token id outside the vocabulary of {config.vocab_size}")


def read_columns(path: Path, required: Sequence[str]) -> pa.Table:
    """A Parquet table with at least these columns and one row.

    Raises:
        DataError: the file is missing, not Parquet, empty, lacks a column, or a required value is null.
    """
    try:
        table = parquet.read_table(path)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}")
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows: there is nothing to train on")
    for name in required:
        if table[name].null_count:
            raise DataError(f"{path}: column {name} has {table[name].null_count} null values")
    return table


def holdout_column(table: pa.Table) -> np.ndarray:
    """Bool ``[n]``: rows kept out of training; all false where the column is absent."""
    if "holdout" not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    return table["holdout"].to_numpy().astype(bool)


# --- batches ----------------------------------------------------------------------------------------------------------


def fixed_steps_plan(rows: np.ndarray, *, steps: int, batch_size: int, seed: int) -> list[np.ndarray]:
    """`steps` batches of `batch_size` rows from shuffled passes over `rows`, by seed."""
    rng = np.random.default_rng(seed)
    passes = -(-steps * batch_size // len(rows))
    order = np.concatenate([rng.permutation(rows) for _ in range(passes)])
    return list(order[: steps * batch_size].reshape(steps, batch_size))


def epochs_plan(rows: np.ndarray, *, epochs: int, batch_size: int, seed: int) -> list[np.ndarray]:
    """Each epoch a shuffled pass over `rows`, in nearly equal batches of at most `batch_size`; no row is dropped."""
    rng = np.random.default_rng(seed)
    per_epoch = -(-len(rows) // batch_size)
    return [batch for _ in range(epochs) for batch in np.array_split(rng.permutation(rows), per_epoch)]


def deal_batch(batch: np.ndarray, lengths: np.ndarray, ranks: int) -> list[list[np.ndarray]]:
    """Cut one batch into micro-batches of like lengths, equally many per rank, the dearest as cheap as can be.

    Batches stay random samples of the data; only their inside is sorted, so that padding costs little and ranks
    finish together. Of one batch, ``result[rank]`` is that rank's list.

    Raises:
        DataError: fewer rows than ranks.
    """
    if len(batch) < ranks:
        raise DataError(f"a batch of {len(batch)} rows cannot be dealt to {ranks} workers: every worker needs one")
    ordered = batch[np.argsort(lengths[batch], kind="stable")]
    by_tokens = -(-int(lengths[batch].sum()) // (ranks * SUPERVISED_TOKENS))
    passes = max(1, round(len(batch) / (ranks * SUPERVISED_ROWS)), by_tokens)
    pieces = cut_evenly(ordered, lengths[ordered], ranks * min(passes, len(batch) // ranks))
    pieces.sort(key=lambda piece: -len(piece) * int(lengths[piece[-1]]))
    # There and back again: the rank with the dearest piece gets the cheapest one too.
    forward_order = list(range(ranks))
    turns = [
        rank
        for turn in range(len(pieces) // ranks)
        for rank in (forward_order if turn % 2 == 0 else reversed(forward_order))
    ]
    dealt: list[list[np.ndarray]] = [[] for _ in range(ranks)]
    for piece, rank in zip(pieces, turns, strict=True):
        dealt[rank].append(piece)
    return dealt


def cut_evenly(ordered: np.ndarray, lengths: np.ndarray, parts: int) -> list[np.ndarray]:
    """Cut rows of ascending `lengths` into `parts` runs, the largest run's padded tokens as few as can be.

    Padded tokens of a run are its rows times its longest row. No run is empty: give at least `parts` rows.
    """
    low, high = int(lengths[-1]), int(lengths[-1]) * len(lengths)
    while low < high:
        bound = (low + high) // 2
        if len(_runs(lengths, bound)) <= parts:
            high = bound
        else:
            low = bound + 1
    pieces = [ordered[start:end] for start, end in _runs(lengths, low)]
    while len(pieces) < parts:
        longest = max(range(len(pieces)), key=lambda index: len(pieces[index]))
        pieces[longest : longest + 1] = np.array_split(pieces[longest], 2)
    return pieces


def _runs(lengths: np.ndarray, bound: int) -> list[tuple[int, int]]:
    """Fewest runs of at most `bound` padded tokens, from the longest rows down; as (start, end)."""
    runs, end = [], len(lengths)
    while end > 0:
        start = max(0, end - bound // int(lengths[end - 1]))
        runs.append((start, end))
        end = start
    return runs


# --- training ---------------------------------------------------------------------------------------------------------


class SupervisedEngine(DeepSpeedTrainEngine):
    """The learner's DeepSpeed engine with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(self, module: nn.Module, optimiser: OptimiserSettings, context: TrainingContext) -> None:
        if context.checkpoint_activations:
            checkpoint_layers(module)
        super().__init__(
            module,
            learning_rate=optimiser.learning_rate,
            gradient_clip=optimiser.gradient_clip,
            zero_stage=context.zero_stage,
        )
        for group in self._optimiser.param_groups:
            group["weight_decay"] = optimiser.weight_decay


LossShare = Callable[[np.ndarray, np.ndarray], tuple[Tensor, Tensor]]
"""(rows of this pass, rows of the whole batch) → this pass's share of the batch's loss, and a tensor ``[rows]`` that
is not finite where a row spoilt it."""


def run_steps(
    engine: TrainEngine,
    context: TrainingContext,
    task: str,
    plan: Sequence[np.ndarray],
    lengths: np.ndarray,
    optimiser: OptimiserSettings,
    loss_share: LossShare,
) -> Curves:
    """One optimiser step per batch of the plan; collective.

    Raises:
        NonFiniteLoss: the loss of a batch is not finite; names the step and the rows. No parameter was moved by it.
        NonFiniteUpdate: the gradient is not finite.
    """
    curves, start, reported = Curves(), time.perf_counter(), -math.inf
    for step, batch in enumerate(plan):
        total, spoilt = 0.0, []
        for part in deal_batch(batch, lengths, context.ranks.size)[context.ranks.rank]:
            loss, per_row = loss_share(part, batch)
            engine.backward(loss)
            total += float(loss.detach())
            spoilt += part[~torch.isfinite(per_row.detach()).cpu().numpy()].tolist()
        total = float(context.ranks.sum(torch.tensor(total, dtype=torch.float64)))
        if not math.isfinite(total):
            rows = sorted(row for rank in context.ranks.gather_objects(spoilt) for row in rank) or batch.tolist()
            raise NonFiniteLoss(
                f"the loss of step {step + 1} of {len(plan)} is {total}; rows {rows[:8]} of "
                f"the batch of {len(batch)}: look at them, or lower the learning rate {optimiser.learning_rate:g}"
            )
        rate = learning_rate(
            step,
            base=optimiser.learning_rate,
            warmup_steps=optimiser.warmup_steps,
            total_steps=len(plan),
            schedule=optimiser.schedule,
        )
        curves.gradient_norm.append(engine.step(rate))
        curves.loss.append(total)
        curves.learning_rate.append(rate)
        step_end = time.perf_counter()
        curves.seconds = step_end - start
        if context.ranks.rank == 0 and (step_end - reported >= PROGRESS_SECONDS or step + 1 == len(plan)):
            context.report(TaskProgress(task, step + 1, len(plan), total, curves.seconds))
            reported = step_end
    return curves


@torch.no_grad()
def evaluate_rows(
    context: TrainingContext,
    rows: Sequence[np.ndarray],
    pad_id: int,
    forward: Callable[[Tensor, Tensor, np.ndarray], Tensor],
) -> np.ndarray:
    """One number per row, float64 ``[n]``, the same on every rank; collective.

    Args:
        forward: (``input_ids [b, T]``, ``lengths [b]``, indices ``[b]``) → ``[b]``.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    batches = length_sorted_batches(lengths, SUPERVISED_TOKENS // 2)
    ranks = context.ranks
    result = torch.zeros(len(rows), dtype=torch.float64)
    # Every rank passes equally often: a rank with fewer batches repeats the last, and does not count it.
    for turn in range(0, len(batches), ranks.size):
        batch_index = turn + ranks.rank
        indices = batches[min(batch_index, len(batches) - 1)]
        ids, row_lengths = pad_right([rows[i] for i in indices], pad_id)
        values = forward(ids.to(context.device), row_lengths.to(context.device), indices)
        if batch_index < len(batches):
            result[torch.from_numpy(indices)] = values.double().cpu()
    return ranks.sum(result).numpy()


def gather_weights(engine: TrainEngine, context: TrainingContext, prefix: str = "model.") -> dict[str, Tensor]:
    """Whole parameters on rank 0's host, their names without the wrapper's prefix; empty on other ranks; collective."""
    state: dict[str, Tensor] = {}
    for group in engine.gathered_parameters(64 * 2**20):
        if context.ranks.rank == 0:
            state |= {name.removeprefix(prefix): parameter.detach().cpu().clone() for name, parameter in group}
    return state


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy gathered parameters into a plain model; tied ones come once.

    Raises:
        RuntimeError: a parameter is not the model's, or one is missing.
    """
    parameters = dict(model.named_parameters())
    if parameters.keys() != state.keys():
        raise RuntimeError(f"gathered parameters are not the model's: {sorted(parameters.keys() ^ state.keys())[:5]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
