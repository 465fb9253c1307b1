"""Lagrangian PPO and what is measured after it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema.base import Count, CountOrZero, NonNegative, Positive, Settings, Share
from configs.schema.labels import JudgeSettings
from configs.schema.supervised import KIND_WEIGHTS


class GroupSettings(Settings):
    """Of the critic-free algorithms `grpo_lag`, `gdpo` and `rvpo`: responses to one prompt are judged against each other."""

    size: Count = 8
    """Responses per prompt; a batch holds `batch_size / size` prompts."""
    spread_floor: Positive = 0.1
    """A group's standard deviation counts as at least this, in units of the signal."""
    costs: Literal["centred", "z_score"] = "centred"
    """`grpo_lag` only: centred costs keep the multiplier's unit; the others always take z-scores."""
    softness: Positive = 1.0
    """`rvpo` only: k of its soft minimum; towards 0 it is the mean, large values are the minimum."""


class PpoSettings(Settings):
    """The loop: `steps` optimiser steps of `batch_size` fresh samples each."""

    steps: Count = 90
    batch_size: Count = 128
    """Samples per optimiser step, over all ranks."""
    epochs: Count = 2
    """Passes over one batch."""
    minibatch_size: Count = 64
    """Samples per gradient update, over all ranks."""
    actor_learning_rate: Positive = 2e-4
    critic_learning_rate: Positive = 5e-4
    warmup_steps: CountOrZero = 0
    schedule: Literal["constant", "cosine"] = "constant"
    gradient_clip: Positive = 1.0
    gamma: Share = 1.0
    gae_lambda: Share = 0.95
    clip_ratio: Positive = 0.2
    clip_score: Positive = 50.0
    clip_value: Positive = 5.0
    importance_cap: Positive = 2.0
    """c: the truncated importance weight is min(c, exp(proximal - behaviour))."""
    kl_coefficient: NonNegative = 0.04
    """beta: weight of the per-token KL penalty, in every stream; of the critic-free algorithms, of the KL loss."""
    kl_budget: Positive | None = None
    """Nats per response, policy against reference, mean of a batch: the loop ends after the first step above it."""
    loss: Literal["token_mean", "row_mean"] = "token_mean"
    """`row_mean` is the papers': mean over a row's tokens, then over rows."""
    advantages: Literal["centred", "whitened", "raw"] = "centred"
    """What is done to the combined advantage over all valid tokens of all ranks; the papers do nothing (`raw`)."""
    critics: Literal["shared", "separate"] = "shared"
    """`shared`: one trunk with 1 + K value heads. `separate`: one critic per signal, as in the papers."""
    ptx_coefficient: NonNegative = 0.0
    """Weight of the supervised loss that is mixed in; the papers' script uses 16."""
    ptx_batch_size: Count = 32
    groups: GroupSettings = GroupSettings()
    temperature: Positive = 1.0
    max_response_tokens: Count = 40
    kind_weights: KIND_WEIGHTS = {"harmful": 25, "benign": 30, "lookalike": 22, "dual_use": 18, "ambiguous": 5}
    """Share of prompts by kind, relative; empty means by number of tasks. A kind the world lacks is passed over."""
    checkpoint_every: Count = 20

    @model_validator(mode="after")
    def _minibatches_fill_the_batch(self) -> Self:
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of minibatch_size {self.minibatch_size}: "
                "samples would be dropped; change one of them"
            )
        return self


class EvaluationSettings(Settings):
    """How many samples are judged per kind of prompt in each split."""

    samples_per_cell: Count = 600
    """Of harmful, benign and look-alike prompts, in each of seen, held-out tasks and held-out forms."""
    samples_per_minor_cell: Count = 300
    """Of dual-use and ambiguous prompts."""
    samples_unknown: Count = 200
    """Of all kinds together, on tasks the models never met."""
    temperature: Positive = 1.0
    confidence: float = Field(default=0.95, gt=0.5, lt=1)


class SelectionSettings(Settings):
    """Which snapshot of the loop is promoted: the most helpful feasible one, judged on the selection split."""

    candidates: Count = 3
    """The last snapshots of the loop that are judged; 1 promotes the last policy unseen."""
    every: Count = 10
    """Steps between two snapshots."""
    samples: Count = 300
    """Answers judged per candidate and constraint, and as many over all prompts for helpfulness."""


class CertificateSettings(Settings):
    """The claim that the promoted policy meets its limit, judged by labels on prompts kept apart."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """One-sided, shared among the K constraints."""
    samples: Count = 600
    labelled: Count | None = None
    """Answers that are labelled, of `samples`; the others count by the cost model's calibrated probability, corrected
    by the labelled ones (prediction-powered). None labels all."""
    labels: Literal["gold", "crowd"] = "gold"
    """Who says what is unsafe, here and in the selection; on own data `judge` says it."""
    judge: Literal["people", "model"] | None = None
    """On own data: who labels the promoted policy's answers for the certificate, independent of the run's own models. `people` fill
    in ``to_label.csv`` (`steelyard label`) while the run is stopped; `model` is the language model of `certificate.model`. None
    certifies nothing. An answer without a label counts as unsafe."""
    model: JudgeSettings | None = None
    """The language model of `judge: model`."""
    least: float = Field(default=1.0, gt=0, le=1)
    """Of `judge: people`: share of the rows that must be filled in before the run goes on."""
    rate_limit: float = Field(default=0.1, gt=0, lt=1)
    """The share of unsafe answers that a constraint with another measure than `rate` is certified against."""
