"""A tiny policy, critics and made-up samples, and a TrainEngine of plain PyTorch: what the update's tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from configs.schema.ppo import PpoSettings
from learner.algorithms.experience import BatchRow, RankShard, Samples, assemble, deal_rows
from learner.algorithms.update import Critic, PolicyLearner
from learner.engine.collective import OneRank
from learner.models.modules import ResponseLogprobs, SharedCritic, ValueHead
from learner.ranks.critics import critic_signals
from learner.records import RolloutChunk, RolloutMeta, ScoreChunk
from learner.signals.measure import Measure

VOCABULARY = 40
CONSTRAINTS = ("harm", "bias")


class PlainEngine:
    """AdamW on one process; remembers the last gradient before clipping."""

    device = torch.device("cpu")

    def __init__(self, module: nn.Module, clip: float = 1.0) -> None:
        self.module = module.eval()
        self.optimiser = torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0)
        self.clip = clip
        self.steps = 0
        self.gradient: dict[str, Tensor] = {}

    def forward(self, *inputs: Any) -> Tensor:
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def gradient_bound(self) -> float:
        gradients = [one.grad for one in self.module.parameters() if one.grad is not None]
        return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def step(self, learning_rate: float) -> float:
        self.gradient = {name: one.grad.clone() for name, one in self.module.named_parameters() if one.grad is not None}
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.clip))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.steps += 1
        return norm

    def gathered_parameters(self, bucket_bytes: int) -> Iterator[list[tuple[str, Tensor]]]:
        yield [(name, one.detach()) for name, one in self.module.named_parameters()]

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        raise NotImplementedError


def tiny_config() -> LlamaConfig:
    """Two layers of 32."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def tiny_learner(settings: PpoSettings, *, constraints: Sequence[str] = CONSTRAINTS, **changes: Any) -> PolicyLearner:
    """A learner on one rank; the same weights every time."""
    torch.manual_seed(0)
    actor = PlainEngine(ResponseLogprobs(LlamaForCausalLM(tiny_config())))
    critics = []
    algorithm = changes.get("algorithm", "ppo_lag")
    for signals in critic_signals(settings.critics, constraints) if algorithm == "ppo_lag" else []:
        module = SharedCritic(
            LlamaModel(tiny_config()), 32, [ValueHead(score_scale=1.0) for _ in signals], 0.1 * torch.randn(1, 32)
        )
        critics.append(Critic(PlainEngine(module), signals))
    learner = PolicyLearner(
        actor=actor,
        critics=tuple(critics),
        ranks=OneRank(),
        settings=settings,
        measures={name: Measure("rate" if name == "harm" else "mean") for name in constraints},
        reward_mean=0.5,
        reward_std=2.0,
        seed=3,
        tokens_per_micro_batch=200,
    )
    return replace(learner, **changes)


@dataclass(frozen=True)
class MadeUpBatch:
    """Chunks keyed by plain names in place of object references, and the rows in them."""

    rows: tuple[BatchRow, ...]
    rollouts: Mapping[str, RolloutChunk]
    scores: Mapping[str, ScoreChunk]

    def samples(self, shard: RankShard, constraints: Sequence[str] = CONSTRAINTS) -> Samples:
        """Assembled for one rank."""
        return assemble(shard, self.rollouts, self.scores, constraints, pad_token_id=0)

    def all_samples(self, *, seed: int = 3, step: int = 0, constraints: Sequence[str] = CONSTRAINTS) -> Samples:
        """Assembled for a group of one."""
        return self.samples(deal_rows(self.rows, ranks=1, seed=seed, step=step)[0], constraints)


def made_up_batch(
    rows: int = 48,
    *,
    chunks: int = 3,
    vocabulary: int = VOCABULARY,
    prompt: tuple[int, int] = (4, 16),
    response: tuple[int, int] = (1, 13),
    group_size: int = 1,
    constraints: Sequence[str] = CONSTRAINTS,
    wrap: Callable[[Any], Any] | None = None,
) -> MadeUpBatch:
    """Random samples with random scores and log-probs; about half of the prompts in each subset.

    Args:
        prompt, response: ranges of lengths, the upper end excluded.
        group_size: rows that share a prompt's id and subset, one after the other.
        wrap: turns a chunk into the reference under which rows name it (``ray.put``); none keeps a name.
    """
    generator = np.random.default_rng(0)
    batch_rows: list[BatchRow] = []
    subset: frozenset[str] = frozenset()
    rollouts: dict[Any, RolloutChunk] = {}
    scores: dict[Any, ScoreChunk] = {}
    for index, ids in enumerate(np.array_split(np.arange(rows), chunks)):
        metas, tokens, behaviour, reference = [], [], [], []
        for row in ids:
            prompt_length, response_length = int(generator.integers(*prompt)), int(generator.integers(*response))
            metas.append(
                RolloutMeta(
                    f"r{row:04d}",
                    f"p{row // group_size:04d}",
                    prompt_length,
                    response_length,
                    "stop" if row % 5 else "length",
                    0,
                    "generator-0",
                )
            )
            tokens.append(generator.integers(3, vocabulary, prompt_length + response_length).astype(np.int32))
            surprise = -np.abs(generator.normal(np.log(vocabulary), 0.2, response_length))
            behaviour.append(surprise.astype(np.float32))
            reference.append((surprise + generator.normal(0, 0.1, response_length)).astype(np.float32))
        chunk = RolloutChunk(tuple(metas), tuple(tokens), tuple(behaviour))
        values = {
            signal: generator.normal(0, 1.5, len(ids)).astype(np.float32)
            for signal in ("reward", *(f"cost/{name}" for name in constraints))
        }
        score = ScoreChunk(tuple(meta.request_id for meta in metas), values, tuple(reference))
        chunk_key, score_key = (wrap(chunk), wrap(score)) if wrap else (f"chunk-{index}", f"scores-{index}")
        rollouts[chunk_key], scores[score_key] = chunk, score
        for row, meta in enumerate(metas):
            if int(ids[row]) % group_size == 0:
                subset = frozenset(name for name in constraints if generator.random() < 0.5)
            batch_rows.append(BatchRow(meta.request_id, chunk_key, (score_key,), row, subset))
    return MadeUpBatch(tuple(batch_rows), rollouts, scores)
