"""Seconds of one step by phase and by what they are spent on. docs/planning.md has the formulas and their sources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.resources.planning.hardware import Cluster
from cluster.resources.planning.memory import AS_BUILT, Sharding, dtype_bytes, micro_tokens
from cluster.resources.planning.rates import LINK_SHARE, Rates
from cluster.resources.planning.sizes import ModelShape
from cluster.resources.planning.workload import Workload
from configs.schema.resources import ResourceSettings

LONGEST = 1.5
"""The longest response of a batch, as a multiple of the mean, capped by the setting."""
FIRST_CHUNK = 0.7
"""Share of a wave after which the first samples have been handed on to the scorers (measured on the sandbox)."""
TENSOR_PARALLEL_SHARE = 0.8
"""Of the ideal speed-up, where a plan on paper spreads an engine over GPUs (assumed)."""


@dataclass(frozen=True)
class Phase:
    """One phase of a step."""

    name: str
    seconds: float
    parts: Mapping[str, float]
    """Seconds by what they are spent on; those that run at the same time do not add up."""

    @property
    def largest(self) -> str:
        """What most of it is spent on."""
        return max(self.parts, key=lambda name: self.parts[name])


@dataclass(frozen=True)
class Task:
    """What the phases are worked out from."""

    resources: ResourceSettings
    shape: ModelShape
    work: Workload
    cluster: Cluster
    rates: Rates
    sharding: Sharding = AS_BUILT


def phases(task: Task) -> list[Phase]:
    """Rollout, learn and publish, which follow one another."""
    return [rollout(task), learn(task), publish(task)]


# --- rollout: generation and scoring side by side ----------------------------------------------------------------


def rollout(task: Task) -> Phase:
    """Samples are drawn by all engines at once and scored as they finish."""
    rates = task.rates
    generating = generation(task)
    whole = sum(generating.values())
    first, chunks = whole * FIRST_CHUNK / max(1.0, _waves(task)), _chunks(task)
    scoring = scoring_seconds(task)
    seconds = max(whole + scoring / chunks, first + scoring)
    if task.cluster.hardware.is_cpu:
        busy = task.resources.generators.count * whole + _scorer_actors(task) * scoring
        seconds = max(seconds, busy / task.cluster.devices)
    parts = {f"generation: {name}": part for name, part in generating.items()}
    parts["scoring"] = scoring if scoring > whole else scoring / chunks
    fixed = rates.rollout_seconds
    parts = {name: rates.rollout_factor * part for name, part in parts.items()} | {"calls": fixed}
    return Phase("rollout", rates.rollout_factor * seconds + fixed, parts)


def concurrency(task: Task) -> float:
    """Sequences one engine decodes at a time: its share of the batch, its limit, and what its cache holds."""
    settings, work = task.resources.generators, task.work
    width = dtype_bytes(settings.dtype)
    cached_sequences = (
        settings.kv_cache_bytes
        * task.sharding.tensor_parallel
        / (task.shape.kv_bytes_per_token(width) * work.row_tokens)
    )
    return max(1.0, min(work.batch / settings.count, float(settings.max_concurrent), math.floor(cached_sequences)))


def _waves(task: Task) -> float:
    return task.work.batch / task.resources.generators.count / concurrency(task)


def generation(task: Task) -> dict[str, float]:
    """Seconds of one engine by what bounds them: a decoding step costs the larger of its FLOPs and its bytes."""
    rates, shape, work = task.rates, task.shape, task.work
    engine_batch = work.batch / task.resources.generators.count
    longest = min(LONGEST * work.response_tokens, float(work.longest_response))
    steps = work.response_tokens * max(1.0, _waves(task)) + max(0.0, longest - work.response_tokens)
    together = engine_batch * work.response_tokens / steps
    context = work.prompt_tokens + work.response_tokens / 2
    width = dtype_bytes(task.resources.generators.dtype)
    speed = _parallel(task.sharding)
    flops = (shape.trunk_flops(together, context) + shape.logit_flops(together)) / (rates.decode_flops * speed)
    bytes_read = width * shape.parameters + together * context * shape.kv_bytes_per_token(width)
    moved = bytes_read / (rates.decode_bytes * speed)
    prefill = shape.trunk_flops(engine_batch * work.prompt_tokens, work.prompt_tokens / 2) / (
        rates.decode_flops * speed
    )
    bound = "compute" if flops > moved else "memory bandwidth"
    overhead = shape.layers * rates.step_layer_seconds + together * rates.sequence_seconds
    return {"prefill": prefill, bound: steps * max(flops, moved), "steps' overhead": steps * overhead}


def scoring_seconds(task: Task) -> float:
    """Of one scorer with its share of the batch; where signals have actors of their own, of the slowest."""
    settings, rates, shape, work = task.resources.scorers, task.rates, task.shape, task.work
    rows = work.batch / settings.replicas
    trunk = shape.trunk_flops(rows * work.row_tokens, work.row_tokens / 2)
    logits = shape.logit_flops(rows * work.response_tokens)
    per_chunk = task.resources.generators.flush_samples * work.row_tokens
    passes = rows * work.row_tokens / per_chunk * max(1.0, math.ceil(per_chunk / settings.tokens_per_batch))
    launch = max(1.0, passes) * shape.layers * rates.pass_layer_seconds
    speed = rates.score_flops * _parallel(task.sharding)
    model_seconds, reference = trunk / speed + launch, (trunk + logits) / speed + launch
    if settings.colocate:
        return work.score_models * model_seconds + reference
    members = work.score_models / max(work.signals, 1)
    return max(members * model_seconds, reference)


def _scorer_actors(task: Task) -> int:
    settings = task.resources.scorers
    return settings.replicas * (1 if settings.colocate else 1 + task.work.signals)


def _chunks(task: Task) -> float:
    return max(1.0, task.work.batch / task.resources.generators.flush_samples / task.resources.scorers.replicas)


def _parallel(sharding: Sharding) -> float:
    more = sharding.tensor_parallel
    return 1.0 if more == 1 else TENSOR_PARALLEL_SHARE * more


# --- learn ------------------------------------------------------------------------------------------------------------


def learn(task: Task) -> Phase:
    """Proximal log-probs and values once, then every epoch's forward and backward passes, and the optimisers."""
    rates, work, settings = task.rates, task.work, task.resources.learner
    models = 1 + work.critics
    rows = work.batch / settings.ranks
    compute, launch = _pass(task, rows, models)
    once = 4.0 if settings.checkpoint_activations else 3.0
    per_update = max(
        1.0, math.ceil(rows * work.epochs / work.minibatches * work.row_tokens / micro_tokens(settings, work))
    )
    passes = max(1.0, math.ceil(rows * work.row_tokens / micro_tokens(settings, work)))
    ptx_compute, ptx_launch = _pass(task, work.ptx_rows / settings.ranks, 1, ptx=True)
    updates = work.minibatches
    parts = {
        "compute": compute * (1 + once * work.epochs) + once * updates * ptx_compute,
        "kernel launches": launch * (passes + once * updates * per_update) + once * updates * ptx_launch,
        "communication": _communication(task, passes, updates * (per_update + (1 if work.ptx_rows else 0) / models)),
        "optimiser": optimiser_seconds(task),
        "updates' overhead": updates * models * rates.update_seconds,
    }
    crowded = 1.0
    if task.cluster.hardware.is_cpu:
        crowded = max(1.0, settings.ranks * settings.threads / task.cluster.devices)
    factor = rates.learn_factor * crowded
    fixed = rates.learn_seconds
    parts = {name: factor * part for name, part in parts.items()} | {"calls": fixed}
    if settings.offload:  # measured by itself, and not with the passes that the factor is about
        parts["optimiser"] = optimiser_seconds(task)
    return Phase("learn", sum(parts.values()), parts)


def _pass(task: Task, rows: float, models: int, *, ptx: bool = False) -> tuple[float, float]:
    """Seconds of one forward pass of so many rows through actor and critics, and fixed seconds of one pass through all."""
    shape, work, rates = task.shape, task.work, task.rates
    if rows <= 0:
        return 0.0, 0.0
    trunk = shape.trunk_flops(rows * work.row_tokens, work.row_tokens / 2)
    flops = models * trunk + shape.logit_flops(rows * work.response_tokens)
    launch = models * shape.layers * rates.pass_layer_seconds
    if ptx:
        launch *= max(1.0, math.ceil(rows * work.row_tokens / micro_tokens(task.resources.learner, work)))
    return flops / rates.learn_flops, launch


def _communication(task: Task, passes: float, backward_passes: float) -> float:
    """ZeRO 3 gathers parameters in every pass and spreads gradients; the other stages exchange gradients once an update."""
    settings, work, shape = task.resources.learner, task.work, task.shape
    if settings.ranks == 1:
        return 0.0
    parameters = shape.parameters + work.critics * shape.trunk_parameters
    size = dtype_bytes(settings.dtype) * parameters * (settings.ranks - 1) / settings.ranks
    volume = size * (passes + 3 * backward_passes) if settings.zero_stage == 3 else 2 * size * work.minibatches
    return volume / task.rates.collective_bytes


def optimiser_seconds(task: Task) -> float:
    """A step's updates by AdamW, which reads parameter, gradient and two moments, and writes three of them: 28 bytes a
    parameter, 32 with a master copy."""
    settings, work, shape = task.resources.learner, task.work, task.shape
    total = shape.parameters + work.critics * shape.trunk_parameters
    rank_parameters = total / (settings.ranks if settings.zero_stage >= 1 else 1)
    speed = task.rates.host_optimiser_bytes if settings.offload else task.rates.optimiser_bytes
    return work.minibatches * (28 if settings.dtype == "float32" else 32) * rank_parameters / speed


# --- publish ----------------------------------------------------------------------------------------------------------


def publish(task: Task) -> Phase:
    """Rank 0 fills buckets, gloo sends them down a binomial tree, every engine loads them."""
    rates, shape, resources = task.rates, task.shape, task.resources
    size = float(dtype_bytes(resources.generators.dtype) * shape.parameters)
    depth = math.ceil(math.log2(1 + resources.generators.count))
    ways = 1.0
    if task.cluster.hardware.is_cpu:
        ways = max(1.0, resources.generators.count / task.cluster.devices)
    parts = {
        "filling buckets": size / rates.fill_bytes,
        "broadcast": size * depth / rates.hop_bytes,
        "loading in engines": size * ways / rates.load_bytes / task.sharding.tensor_parallel,
    }
    if resources.learner.zero_stage == 3 and resources.learner.ranks > 1:
        parts["gathering"] = size / rates.collective_bytes
    if resources.placement == "colocated" and not task.cluster.hardware.is_cpu:
        # to the host and back: vLLM's sleep mode, level 1
        parts["sleeping and waking"] = 2 * size / (LINK_SHARE * task.cluster.hardware.host_link)
    parts = {name: rates.publish_factor * part for name, part in parts.items()}
    fixed = rates.publish_seconds
    return Phase("publish", sum(parts.values()) + fixed, parts | {"calls": fixed})
