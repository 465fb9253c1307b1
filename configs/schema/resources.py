"""Who does the work: generators, scorers, learner ranks, and how long anyone waits for them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from configs.schema.base import Count, CountOrZero, NonNegative, Positive, Settings


class GeneratorSettings(Settings):
    """vLLM engines, one per Ray actor."""

    count: Count = 2
    threads: Count = 1
    cpus: NonNegative = 0.4
    gpus: NonNegative = 0.0
    """Logical Ray resources of one actor."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_concurrent: Count = 64
    """Sequences one engine decodes at a time."""
    kv_cache_bytes: Count = 256 * 2**20
    flush_samples: Count = 16
    """Finished samples are handed on in chunks of at least this many (fewer at the end of a batch)."""
    max_restarts: CountOrZero = 3
    sleep: bool = False
    """Give the GPU's memory back while the learner works (vLLM's sleep mode, level 1); `placement: colocated` sets it."""
    engine_metrics: bool = False
    """vLLM's own metrics, through Ray's, for a Prometheus that scrapes the cluster."""


class ScorerSettings(Settings):
    """Reward, cost and reference models."""

    colocate: bool = True
    """One actor holds every model; otherwise one actor per signal (`scorer-reward`, `scorer-cost-harm`, `scorer-reference`)."""
    replicas: Count = 1
    threads: Count = 1
    cpus: NonNegative = 0.4
    gpus: NonNegative = 0.0
    tokens_per_batch: Count = 4096
    """Padded tokens in one length-sorted forward pass."""
    max_restarts: CountOrZero = 3


class LearnerSettings(Settings):
    """The DeepSpeed group that updates the policy."""

    ranks: Count = 2
    threads: Count = 1
    cpus: NonNegative = 0.4
    gpus: NonNegative = 0.0
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload: bool = False
    """Optimiser state in host memory (GPU only)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens_per_micro_batch: Count | None = None
    """Of one forward and backward pass; none: 1,024 on a CPU, 16,384 on a GPU. Fewer need less memory for activations."""
    checkpoint_activations: bool = False
    """Keep only what enters each layer and compute the rest again in the backward pass: a third more work, less memory."""


class SupervisedSettings(Settings):
    """The Ray Train workers of SFT, reward and cost models."""

    workers: Count = 2
    threads: Count = 1
    cpus: NonNegative = 0.4
    gpus: NonNegative = 0.0
    zero_stage: Literal[0, 1, 2, 3] = 0
    checkpoint_activations: bool = False
    """As the learner's."""


class TransportSettings(Settings):
    """How weights reach the generators."""

    bucket_bytes: Count = 64 * 2**20

    @model_validator(mode="before")
    @classmethod
    def _without_backend(cls, values: Any) -> Any:
        # Nothing ever read it, but configurations that runs of 0.2.0 wrote down name it, and must still resume.
        if isinstance(values, dict) and values.get("backend") == "gloo":
            return {name: value for name, value in values.items() if name != "backend"}
        return values


class DeadlineSettings(Settings):
    """Seconds after which a remote wait is given up; the message names the actor and the call."""

    start_seconds: Positive = 300.0
    """Of an actor or engine."""
    generate_seconds: Positive = 120.0
    score_seconds: Positive = 120.0
    learn_seconds: Positive = 300.0
    """Of one optimiser step."""
    broadcast_seconds: Positive = 60.0
    train_seconds: Positive = 3600.0
    """Of one supervised stage."""


class ResourceSettings(Settings):
    """Everything the run asks of the cluster."""

    generators: GeneratorSettings = GeneratorSettings()
    scorers: ScorerSettings = ScorerSettings()
    learner: LearnerSettings = LearnerSettings()
    supervised: SupervisedSettings = SupervisedSettings()
    placement: Literal["disaggregated", "colocated", "mixed"] = "disaggregated"
    """Who shares a GPU: no actors; each learner rank with a generator, which sleeps while the rank works; or with a scorer."""
    wait_for_nodes_seconds: NonNegative = 0.0
    """How long a run may wait for nodes that it needs and the cluster does not have yet; 0 refuses it at once."""
    transport: TransportSettings = TransportSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
