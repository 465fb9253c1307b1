"""From chunks of samples to one rank's padded experience, and how its rows are dealt into minibatches.

Invariant: which rows make a minibatch depends on the batch, the seed and the step only, never on the number of ranks or
the order in which samples arrived. Pure: chunks are fetched by the caller (`learner/ranks/rank.py`).
Shapes: ``B`` rows of this rank, ``T`` tokens of prompt and response, ``R`` response tokens; rows are right-padded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.exits import SteelyardError
from learner.records import RolloutChunk, RolloutMeta, ScoreChunk

REWARD = "reward"
"""The objective's signal name."""

BLOCK = 8
"""Neighbouring rows, in the shuffled order, that stay in one minibatch together.

A minibatch made of whole blocks gives each of 1, 2, 4 or 8 ranks the same number of rows, whatever the permutation.
"""


def cost_signal(constraint: str) -> str:
    """The signal name of a constraint's cost."""
    return f"cost/{constraint}"


class BadBatch(SteelyardError):
    """A batch that cannot be learned from: a sample twice, missing, without a score, or in the wrong chunk."""


@dataclass(frozen=True)
class BatchRow:
    """Where one scored sample of the batch is: what the driver knows of it."""

    request_id: str
    rollout: Any
    """ObjectRef of the RolloutChunk."""
    scores: tuple[Any, ...]
    """ObjectRefs of the ScoreChunks of the same chunk, one per scorer actor."""
    row: int
    """Index of the sample in all of these chunks."""
    subset: frozenset[str] = frozenset()
    """Names of the constraints that apply to its prompt (m_ik = 1)."""


@dataclass(frozen=True)
class RankShard:
    """One rank's rows of one batch."""

    rows: tuple[BatchRow, ...]
    positions: tuple[int, ...]
    """Of each row in the batch's shuffled order."""
    total_rows: int
    """Of the batch, over all ranks."""


def deal_rows(rows: Sequence[BatchRow], *, ranks: int, seed: int, step: int) -> list[RankShard]:
    """Shuffle a batch by (seed, step, request_id) and deal its rows to the ranks in turn.

    Raises:
        BadBatch: the batch is empty, smaller than the ranks, or names a request twice.
    """
    request_ids: set[str] = set()
    for row in rows:
        if row.request_id in request_ids:
            raise BadBatch(f"request {row.request_id} is in the batch twice: a sample may be learned from once")
        request_ids.add(row.request_id)
    if len(rows) < ranks:
        raise BadBatch(f"a batch of {len(rows)} samples cannot be dealt to {ranks} learner ranks: every rank needs one")
    shuffled = sorted(rows, key=lambda row: _digest(seed, step, row.request_id))
    return [
        RankShard(tuple(shuffled[rank::ranks]), tuple(range(rank, len(rows), ranks)), len(rows))
        for rank in range(ranks)
    ]


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Samples:
    """One rank's samples as arrays, on the host."""

    meta: tuple[RolloutMeta, ...]
    positions: np.ndarray
    """Int64 ``[B]``: place of each row in the batch's shuffled order."""
    total_rows: int
    input_ids: Tensor
    """Int64 ``[B, T]``."""
    prompt_lengths: Tensor
    response_lengths: Tensor
    """Int64 ``[B]``."""
    mask: Tensor
    """Bool ``[B, R]``: response tokens that are learned from; all of them, unless some ids are left out."""
    behaviour_logprobs: Tensor
    reference_logprobs: Tensor
    """Float32 ``[B, R]``, zero after a row's end."""
    reward: Tensor
    """Float32 ``[B]``, as the reward model gave it."""
    costs: Mapping[str, Tensor]
    """Float32 ``[B]`` raw terminal cost per constraint."""
    subset: Mapping[str, Tensor]
    """Bool ``[B]`` per constraint: m_ik."""

    @property
    def request_ids(self) -> list[str]:
        """Of each row."""
        return [meta.request_id for meta in self.meta]


def assemble(
    shard: RankShard,
    rollouts: Mapping[Any, RolloutChunk],
    scores: Mapping[Any, ScoreChunk],
    constraints: Sequence[str],
    pad_token_id: int,
    *,
    needs_reward: bool = True,
    excluded_token_ids: Sequence[int] = (),
) -> Samples:
    """Pick the shard's rows out of their chunks and pad them.

    Args:
        rollouts, scores: chunks by the reference that the shard's rows name.
        needs_reward: False when nothing is maximised; the reward is then 0 where no scorer gave one.
        excluded_token_ids: response tokens that the mask leaves out; usually none.

    Raises:
        BadBatch: a row is not where it should be, has no reference log-probs, or a score is missing or not finite.
    """
    picked = [_pick(row, rollouts, scores, constraints, needs_reward) for row in shard.rows]
    metas = tuple(sample.meta for sample in picked)
    input_ids = _padded([sample.token_ids for sample in picked], np.int64, pad_token_id)
    prompt_lengths = torch.tensor([meta.prompt_length for meta in metas])
    response_lengths = torch.tensor([meta.response_length for meta in metas])
    reward = torch.tensor([sample.reward for sample in picked], dtype=torch.float32)
    return Samples(
        meta=metas,
        positions=np.asarray(shard.positions, dtype=np.int64),
        total_rows=shard.total_rows,
        input_ids=input_ids,
        prompt_lengths=prompt_lengths,
        response_lengths=response_lengths,
        mask=learned_tokens(input_ids, prompt_lengths, response_lengths, excluded_token_ids),
        behaviour_logprobs=_padded([sample.behaviour for sample in picked], np.float32, 0.0),
        reference_logprobs=_padded([sample.reference for sample in picked], np.float32, 0.0),
        reward=reward,
        costs={
            name: torch.tensor([sample.costs[name] for sample in picked], dtype=torch.float32) for name in constraints
        },
        subset={name: torch.tensor([name in row.subset for row in shard.rows]) for name in constraints},
    )


def learned_tokens(
    input_ids: Tensor, prompt_lengths: Tensor, response_lengths: Tensor, excluded_token_ids: Sequence[int] = ()
) -> Tensor:
    """Bool ``[B, R]``: response tokens by length, less those whose id is excluded.

    Exclusion by id is the papers' mask (`reference.masks_by_token_id`): it also drops an end token that pads.
    """
    offsets = torch.arange(int(response_lengths.max()))[None, :]
    mask = offsets < response_lengths[:, None]
    if not excluded_token_ids:
        return mask
    positions = (prompt_lengths[:, None] + offsets).clamp(max=input_ids.shape[1] - 1)
    return mask & ~torch.isin(input_ids.gather(1, positions), torch.tensor(list(excluded_token_ids)))


@dataclass(frozen=True)
class _Sample:
    meta: RolloutMeta
    token_ids: np.ndarray
    behaviour: np.ndarray
    reference: np.ndarray
    reward: float
    costs: Mapping[str, float]


def _pick(
    row: BatchRow,
    rollouts: Mapping[Any, RolloutChunk],
    scores: Mapping[Any, ScoreChunk],
    constraints: Sequence[str],
    needs_reward: bool,
) -> _Sample:
    chunk = rollouts[row.rollout]
    meta = chunk.meta[row.row]
    if meta.request_id != row.request_id:
        raise BadBatch(
            f"row {row.row} of its chunk is request {meta.request_id}, not {row.request_id}: rows were mixed up"
        )
    reference: np.ndarray | None = None
    signal_scores: dict[str, float] = {}
    for reference_to_scores in row.scores:
        score_chunk = scores[reference_to_scores]
        if score_chunk.request_ids[row.row] != row.request_id:
            raise BadBatch(f"row {row.row} of its scores is not request {row.request_id}: rows were mixed up")
        signal_scores |= {signal: float(values[row.row]) for signal, values in score_chunk.scores.items()}
        if score_chunk.reference_logprobs:
            reference = score_chunk.reference_logprobs[row.row]
    required_signals = [*([REWARD] if needs_reward else []), *map(cost_signal, constraints)]
    for signal in required_signals:
        if not np.isfinite(signal_scores.get(signal, np.nan)):
            raise BadBatch(
                f"request {row.request_id} has no finite {signal} score: an unknown cost is never learned from"
            )
    behaviour = chunk.behaviour_logprobs[row.row]
    if reference is None:
        raise BadBatch(
            f"request {row.request_id} came without reference log-probs: no scorer holds the reference model"
        )
    if not len(behaviour) == len(reference) == meta.response_length > 0:
        raise BadBatch(
            f"request {row.request_id} has {meta.response_length} response tokens, {len(behaviour)} behaviour and "
            f"{len(reference)} reference log-probs: all three must be equal and above 0"
        )
    if len(chunk.token_ids[row.row]) != meta.prompt_length + meta.response_length or meta.prompt_length < 1:
        raise BadBatch(f"request {row.request_id}: prompt and response lengths do not add up to its tokens")
    for name, values in (("behaviour", behaviour), ("reference", reference)):
        if not np.isfinite(values).all():
            raise BadBatch(
                f"request {row.request_id} has a {name} log-prob that is not finite: nothing is learned from it"
            )
    costs = {name: signal_scores[cost_signal(name)] for name in constraints}
    return _Sample(meta, chunk.token_ids[row.row], behaviour, reference, signal_scores.get(REWARD, 0.0), costs)


def _padded(rows: Sequence[np.ndarray], dtype: Any, fill: float) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows))), fill, dtype=dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def minibatch_rows(
    positions: np.ndarray, total_rows: int, *, minibatch_size: int, seed: int, step: int, epoch: int
) -> list[np.ndarray]:
    """This rank's row indices of each minibatch of one epoch; over all ranks they part the batch.

    Args:
        positions: int64 ``[B]`` of this rank's rows in the batch's shuffled order.
    """
    count = max(1, round(total_rows / minibatch_size))
    blocks = -(-total_rows // BLOCK)
    generator = np.random.default_rng([seed, step, epoch])
    minibatch_of_block = np.empty(blocks, dtype=np.int64)
    minibatch_of_block[generator.permutation(blocks)] = np.arange(blocks) * count // blocks
    membership = minibatch_of_block[positions // BLOCK]
    return [np.flatnonzero(membership == index) for index in range(count)]


def micro_batches(rows: np.ndarray, lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Part `rows` into exactly `count` micro-batches of like lengths (some empty, when there are fewer rows).

    Args:
        lengths: tokens of every row of the rank; padding is what sorting by it saves.
    """
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    return np.array_split(ordered, count)


def micro_batch_count(rows: np.ndarray, lengths: np.ndarray, tokens_per_micro_batch: int) -> int:
    """How many micro-batches keep about `tokens_per_micro_batch` tokens each; at least 1."""
    return max(1, -(-int(lengths[rows].sum()) // tokens_per_micro_batch))


def total_lengths(samples: Samples) -> np.ndarray:
    """Tokens of prompt and response, int64 ``[B]``."""
    return (samples.prompt_lengths + samples.response_lengths).numpy()


def model_inputs(samples: Samples, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """``input_ids``, ``prompt_lengths`` and ``response_lengths`` of some rows, no wider than the longest.

    No rows give one row of two tokens, which the mask takes out again: ranks must make equally many passes.
    """
    if len(rows) == 0:
        return torch.zeros((1, 2), dtype=torch.long, device=device), *torch.ones(
            (2, 1), dtype=torch.long, device=device
        )
    prompt, response = samples.prompt_lengths[rows], samples.response_lengths[rows]
    width = int((prompt + response).max())
    return samples.input_ids[rows, :width].to(device), prompt.to(device), response.to(device)


def response_mask(samples: Samples, rows: np.ndarray) -> Tensor:
    """Bool ``[len(rows), R of these rows]``; of no rows ``[1, 1]``, false."""
    if len(rows) == 0:
        return torch.zeros((1, 1), dtype=torch.bool)
    return samples.mask[rows, : int(samples.response_lengths[rows].max())]
