"""The scorer actor: reward, cost and reference models over chunks of rollouts.

Invariant: a row's scores and reference log-probs do not depend on the rows it is batched with (to float32 rounding), and a
row that cannot be scored is reported as such, never as a number. An ensemble answers as one model: its members' bound.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from configs.exits import SteelyardError
from configs.schema.resources import ScorerSettings
from learner.models import (
    forward_response_logprobs,
    length_sorted_batches,
    load_policy,
    pad_right,
)
from learner.records import RolloutChunk, ScoreChunk
from learner.score_folders import WholeScoreModel, load_whole_score_model

HEALTH = "health"
"""Concurrency group of calls that never wait for a model."""


@dataclass(frozen=True)
class ScorerModels:
    """What one scorer holds."""

    signals: Mapping[str, Path] = field(default_factory=dict)
    """Signal name (``reward``, ``cost/<name>``, ``reward_test``) to the score model's Hugging Face folder, or ensemble's."""
    reference: Path | None = None
    """The policy that the KL penalty is measured against."""
    temperature: float = 1.0
    """Of sampling: the reference's logits are divided by it."""


@dataclass(frozen=True)
class ScoreMeta:
    """The scalars of a ScoreChunk: what the driver reads of it. Rows in the chunk's order."""

    request_ids: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]
    faults: Mapping[str, str]
    """Request id to what is wrong with it; such a sample must not be learned from."""
    busy_seconds: float
    tokens: int
    """Padded tokens that went through each model."""
    spreads: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of each signal that an ensemble scores: standard deviation over its members, per row."""


class ModelScorer:
    """The actor ``scorer-…``."""

    def __init__(self, name: str, settings: ScorerSettings, models: ScorerModels) -> None:
        self._name, self._settings = name, settings
        torch.set_num_threads(settings.threads)
        self._device = torch.device("cuda" if settings.gpus > 0 else "cpu")
        self.load(models)

    def load(self, models: ScorerModels) -> float:
        """Hold these models in place of the ones before; returns the seconds."""
        begin = time.perf_counter()
        self._models = models
        self._scorers: dict[str, WholeScoreModel] = {
            name: load_whole_score_model(path, torch.float32, self._device) for name, path in models.signals.items()
        }
        self._reference: Any = (
            load_policy(models.reference, torch.float32).to(self._device) if models.reference else None
        )
        return time.perf_counter() - begin

    @ray.method(concurrency_group=HEALTH)
    def ping(self) -> int:
        """The process id, at any time."""
        return os.getpid()

    def ready(self) -> int:
        """Answers once the models are loaded."""
        return os.getpid()

    @ray.method(num_returns=2)
    def score(self, chunk: RolloutChunk) -> tuple[ScoreMeta, ScoreChunk]:
        """Score all rows.

        Returns:
            Two objects: the scalars for the driver, and the ScoreChunk for learner ranks.
        """
        begin = time.perf_counter()
        scores, spreads, reference, tokens = self._forward(chunk)
        ids = tuple(meta.request_id for meta in chunk.meta)
        meta = ScoreMeta(
            request_ids=ids,
            scores=_as_tuples(scores),
            faults=find_faults(ids, scores, reference),
            busy_seconds=time.perf_counter() - begin,
            tokens=tokens,
            spreads=_as_tuples(spreads),
        )
        return meta, ScoreChunk(ids, scores, reference)

    def _forward(
        self, chunk: RolloutChunk
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], tuple[np.ndarray, ...], int]:
        """Scores and ensembles' spreads by signal, reference log-probs by row, and the padded tokens."""
        rows = chunk.token_ids
        _check_lengths(self._name, chunk)
        scores = {name: np.full(len(rows), np.nan, dtype=np.float32) for name in self._scorers}
        spreads = {name: np.zeros(len(rows), dtype=np.float32) for name, one in self._scorers.items() if one.bound}
        reference = [np.empty(0, dtype=np.float32)] * len(rows)
        tokens = 0
        with torch.inference_mode():
            for batch in length_sorted_batches([len(row) for row in rows], self._settings.tokens_per_batch):
                input_ids, lengths = (
                    one.to(self._device) for one in pad_right([rows[index] for index in batch], pad_id=0)
                )
                tokens += input_ids.numel()
                for name, model in self._scorers.items():
                    scores[name][batch], deviation = model.score(input_ids, lengths)
                    if deviation is not None:
                        spreads[name][batch] = deviation
                if self._reference is not None:
                    prompts, responses = (
                        torch.tensor([getattr(chunk.meta[index], what) for index in batch], device=self._device)
                        for what in ("prompt_length", "response_length")
                    )
                    logprobs = forward_response_logprobs(
                        self._reference, input_ids, prompts, responses, self._models.temperature
                    )
                    for row, index in enumerate(batch):
                        reference[index] = logprobs[row, : int(responses[row])].cpu().numpy()
        return scores, spreads, tuple(reference) if self._reference is not None else (), tokens

    def shutdown(self) -> None:
        """End this process; the caller sees the actor die."""
        ray.actor.exit_actor()


def find_faults(
    request_ids: Sequence[str], scores: Mapping[str, np.ndarray], reference: Sequence[np.ndarray]
) -> dict[str, str]:
    """Request ids whose score or reference log-probs are not finite, with what is wrong."""
    faults: dict[str, str] = {}
    for row, request_id in enumerate(request_ids):
        bad = [name for name, values in scores.items() if not np.isfinite(values[row])]
        if reference and not np.isfinite(reference[row]).all():
            bad.append("reference log-probs")
        if bad:
            faults[request_id] = f"not finite: {', '.join(bad)}"
    return faults


def _as_tuples(rows: Mapping[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(float(value) for value in values) for name, values in rows.items()}


def _check_lengths(name: str, chunk: RolloutChunk) -> None:
    for meta, row in zip(chunk.meta, chunk.token_ids, strict=True):
        if meta.response_length < 1 or meta.prompt_length + meta.response_length != len(row):
            raise SteelyardError(
                f"{name}: request {meta.request_id} says {meta.prompt_length} + {meta.response_length} tokens and brings {len(row)}"
            )
