"""The scorer actor: reward, cost and reference models, and scorers from outside, over chunks of rollouts.

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

from actors.scoring.outside import OutsideScorers
from actors.scoring.protocol import ScorerFault
from actors.scoring.sources import SignalSource
from configs.exits import SteelyardError
from configs.schema.resources import ScorerSettings
from learner.models.modules import forward_response_logprobs, length_sorted_batches, load_policy, pad_right
from learner.models.score_models.folders import WholeScoreModel, load_whole_score_model
from learner.records import RolloutChunk, ScoreChunk

HEALTH = "health"
"""Concurrency group of calls that never wait for a model."""


@dataclass(frozen=True)
class ScorerModels:
    """What one scorer holds."""

    signals: Mapping[str, SignalSource] = field(default_factory=dict)
    """Signal name (``reward``, ``cost/<name>``, ``reward_test``) to who scores it: the Hugging Face folder of a model that
    the run trained, or of an ensemble; a Python function; a foreign model."""
    reference: Path | None = None
    """The policy that the KL penalty is measured against."""
    temperature: float = 1.0
    """Of sampling: the reference's logits are divided by it."""
    tokenizer: Path | None = None
    """The policy's, for functions and foreign models, which read text."""


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
    fault_kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Request id with a fault to ``{signal: ScorerFault}``; the reference's are not among them."""


class ModelScorer:
    """The actor ``scorer-…``."""

    def __init__(self, name: str, settings: ScorerSettings, models: ScorerModels) -> None:
        self._name, self._settings = name, settings
        torch.set_num_threads(settings.threads)
        self._device = torch.device("cuda" if settings.gpus > 0 else "cpu")
        self._outside: OutsideScorers | None = None
        self._problem: SteelyardError | None = None
        try:
            self.load(models)
        except SteelyardError as error:
            # For `ready` to tell: of an actor that fails to start Ray says only that it died.
            self._problem = error

    def __repr__(self) -> str:
        return self._name  # what Ray's dashboard and logs call this actor

    def load(self, models: ScorerModels) -> float:
        """Hold these models in place of the ones before; returns the seconds.

        Raises:
            ConfigError, DataError: a function or a folder is not what it should be.
        """
        begin = time.perf_counter()
        self._models, self._problem = models, None
        self._scorers: dict[str, WholeScoreModel] = {
            name: load_whole_score_model(path, torch.float32, self._device)
            for name, path in models.signals.items()
            if isinstance(path, Path)
        }
        if self._outside is not None:
            self._outside.close()
        outside = {name: source for name, source in models.signals.items() if not isinstance(source, Path)}
        self._outside = (
            OutsideScorers(outside, models.tokenizer, self._device, self._settings.tokens_per_batch)
            if outside
            else None
        )
        self._reference: Any = (
            load_policy(models.reference, torch.float32).to(self._device) if models.reference else None
        )
        return time.perf_counter() - begin

    @ray.method(concurrency_group=HEALTH)
    def ping(self) -> int:
        """The process id, at any time."""
        return os.getpid()

    def ready(self) -> int:
        """Answers once the models are loaded. Raises as `load`."""
        self._check_started()
        return os.getpid()

    def _check_started(self) -> None:
        if self._problem is not None:
            raise self._problem

    @ray.method(num_returns=2)
    def score(self, chunk: RolloutChunk) -> tuple[ScoreMeta, ScoreChunk]:
        """Score all rows.

        Returns:
            Two objects: the scalars for the driver, and the ScoreChunk for learner ranks.
        """
        self._check_started()
        begin = time.perf_counter()
        scores, spreads, reference, tokens = self._forward(chunk)
        ids = tuple(meta.request_id for meta in chunk.meta)
        reasons: Mapping[str, str] = {}
        kinds: Mapping[str, Mapping[str, str]] = {}
        if self._outside is not None:
            outside = self._outside.score(chunk)
            scores |= outside.scores
            reasons, kinds = outside.reasons, outside.kinds
        meta = ScoreMeta(
            request_ids=ids,
            scores=_as_tuples(scores),
            faults={**find_faults(ids, scores, reference), **reasons},
            fault_kinds=find_kinds(ids, scores, kinds),
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
        spreads = {
            name: np.zeros(len(rows), dtype=np.float32) for name, scorer in self._scorers.items() if scorer.bound
        }
        reference = [np.empty(0, dtype=np.float32)] * len(rows)
        tokens = 0
        with torch.inference_mode():
            for batch in length_sorted_batches([len(row) for row in rows], self._settings.tokens_per_batch):
                input_ids, lengths = (
                    tensor.to(self._device) for tensor in pad_right([rows[index] for index in batch], pad_id=0)
                )
                tokens += input_ids.numel()
                for name, model in self._scorers.items():
                    scores[name][batch], deviation = model.score(input_ids, lengths)
                    if deviation is not None:
                        spreads[name][batch] = deviation
                if self._reference is not None:
                    prompts, responses = (
                        torch.tensor([getattr(chunk.meta[index], field) for index in batch], device=self._device)
                        for field in ("prompt_length", "response_length")
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


def find_kinds(
    request_ids: Sequence[str], scores: Mapping[str, np.ndarray], reported: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Request ids without a score to ``{signal: kind}``: the kind that is known, else that the score is not finite."""
    kinds: dict[str, dict[str, str]] = {}
    for name, values in scores.items():
        for row in np.flatnonzero(~np.isfinite(values)):
            kind = reported.get(request_ids[row], {}).get(name, ScorerFault.NOT_FINITE)
            kinds.setdefault(request_ids[row], {})[name] = str(kind)
    return kinds


def _as_tuples(rows: Mapping[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(float(value) for value in values) for name, values in rows.items()}


def _check_lengths(name: str, chunk: RolloutChunk) -> None:
    for meta, row in zip(chunk.meta, chunk.token_ids, strict=True):
        if meta.response_length < 1 or meta.prompt_length + meta.response_length != len(row):
            raise SteelyardError(
                f"{name}: request {meta.request_id} says {meta.prompt_length} + {meta.response_length} tokens and brings {len(row)}"
            )
