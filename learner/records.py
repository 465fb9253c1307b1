"""The records that flow through one step: Prompt → Rollout → Scores → Experience → StepResult.

Arrays are numpy, so they travel through Ray's object store without a copy and without pickle
of torch tensors. Shapes: ``B`` samples, ``T`` tokens of one sequence, ``R`` tokens of one
response, ``K`` constraints. Log-probs are in nats, of the response tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Message = Mapping[str, str]
"""One turn: ``{"role": "user" | "assistant" | "system", "content": text}``."""


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a user turn and waits for a response."""

    prompt_id: str
    messages: tuple[Message, ...]
    source: str
    """Where it came from: ``sandbox``, a file's name, ``red_team`` …"""
    category: str | None = None
    """Harm category of the request, where one is known."""
    tags: frozenset[str] = frozenset()
    """What constraints' subsets select on: the kind (``harmful``, ``dual_use``, ``benign`` …), the form, the split."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Provenance of the source; the sandbox gives ``task_id``, ``form``, ``kind``, ``split``."""


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are drawn. ``top_p`` and ``top_k`` stay off in PPO: they renormalise the log-probs."""

    temperature: float = 1.0
    max_response_tokens: int = 40
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()
    """Empty: the tokenizer's end token."""


@dataclass(frozen=True)
class GenerationRequest:
    """One sample to draw. ``request_id`` is unique in a run and is what makes delivery exactly-once."""

    request_id: str
    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    seed: int
    sampling: SamplingSettings


@dataclass(frozen=True)
class RolloutMeta:
    """The scalars of one finished sample: what the driver holds."""

    request_id: str
    prompt_id: str
    prompt_length: int
    response_length: int
    finish_reason: str
    """``stop`` (the end token was drawn, and is the last response token) or ``length`` (cut)."""
    weight_version: int
    generator: str


@dataclass(frozen=True)
class RolloutChunk:
    """Samples that finished together, as they travel from a generator to scorers and learner ranks.

    ``token_ids[i]`` is prompt + response, int32 ``[T_i]``; ``behaviour_logprobs[i]`` float32 ``[R_i]``.
    """

    meta: tuple[RolloutMeta, ...]
    token_ids: tuple[np.ndarray, ...]
    behaviour_logprobs: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class ScoreChunk:
    """What one scorer says of a RolloutChunk, rows in the same order.

    ``scores`` maps a signal's name to float32 ``[B]`` raw terminal scores;
    ``reference_logprobs[i]`` is float32 ``[R_i]`` at the sampling temperature, or the tuple is
    empty when this scorer holds no reference model.
    """

    request_ids: tuple[str, ...]
    scores: Mapping[str, np.ndarray]
    reference_logprobs: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class ScoredSample:
    """The scalars of one scored sample as the driver holds them; a missing or non-finite cost never gets here."""

    rollout: RolloutMeta
    reward: float
    costs: Mapping[str, float]
    watched: Mapping[str, float] = field(default_factory=dict)
    """Scores that are logged and never learned from, such as the test-half reward model's."""


@dataclass(frozen=True)
class SignalTerms:
    """Everything a rank must know to turn raw scores into advantages for one optimiser step."""

    multipliers: Mapping[str, float]
    """lambda_k >= 0 per constraint."""
    measure_state: Mapping[str, Mapping[str, float]]
    """Frozen parameters of g per constraint for this step (calibration, cvar's eta …), scalars only."""
    minibatch_multipliers: tuple[Mapping[str, float], ...] = ()
    """lambda_k of each minibatch in turn, where the multiplier moves before every one; the last goes on for any more.
    Empty: ``multipliers`` for all."""


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step reports; every value is a plain float (``metrics`` keys are catalogue names)."""

    step: int
    weight_version: int
    metrics: Mapping[str, float]
    phase_seconds: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)
    """What a number cannot say: ``delta_logprob_worst`` is the request with the largest gap between vLLM and learner."""
