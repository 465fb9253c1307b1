"""Bytes that each role needs on its device and on its host. docs/planning.md has the formulas.

Counts are of one actor of a role. On CPUs there is one memory, the node's, and every actor's process counts too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.resources.planning.hardware import Cluster
from cluster.resources.planning.sizes import ModelShape
from cluster.resources.planning.workload import Workload
from configs.schema.resources import LearnerSettings, ResourceSettings
from learner.engine.micro_batch_size import MOST_BUCKET_ELEMENTS, SUPERVISED_ROWS, SUPERVISED_TOKENS, micro_batch_tokens

RESERVE = 3.0e9
"""Of a GPU: CUDA context, NCCL's buffers, the allocator's unused pieces."""
HOST_RESERVE = 2.0e9
"""Of a node: system, Ray's own processes, object store of a small run."""
PROCESS = {"generator": 1.8e9, "scorer": 0.7e9, "learner": 0.8e9, "supervised": 0.9e9}
"""Resident bytes of an actor without a model: the interpreter, PyTorch, and vLLM or DeepSpeed (measured, CPU)."""
GRAPHS = 1.5e9
"""What vLLM's CUDA graphs take (assumed)."""
PREFILL_TOKENS = 8192
"""`actors.generation.vllm_engine.PREFILL_TOKENS`."""
LOGIT_COPIES = 4
"""Float32 copies of the logits that a backward pass needs: logits, log-softmax, its gradient and the gather's."""
STATES = 8
"""Bytes of Adam's two moments per parameter; a float32 master copy adds 4."""


@dataclass(frozen=True)
class RoleMemory:
    """One actor of a role."""

    role: str
    actors: int
    gpus: float
    """Each actor's share of a GPU; 0 runs on cores."""
    device: Mapping[str, float]
    """Bytes by what they are for, on the GPU; on CPUs empty."""
    host: Mapping[str, float]
    loading: float = 0.0
    """Bytes on the GPU while models are being placed, where that is the most it ever needs."""
    notes: tuple[str, ...] = field(default=())

    @property
    def device_bytes(self) -> float:
        """The most it needs at once."""
        return max(sum(self.device.values()), self.loading)

    @property
    def host_bytes(self) -> float:
        """Of its process and what it keeps there."""
        return sum(self.host.values())


@dataclass(frozen=True)
class Shortage:
    """One thing that does not fit."""

    role: str
    where: str
    """``one h100`` or ``a node's memory``."""
    needed: float
    there: float
    unit: str = "bytes"

    @property
    def missing(self) -> float:
        """By how much."""
        return self.needed - self.there

    def describe(self) -> str:
        """``scorers need 88.1 GB on one h100, which has 82.5 GB: 5.6 GB too much``."""
        verb = "need" if self.role.endswith("s") or " and " in self.role else "needs"
        if self.unit != "bytes":
            return (
                f"{self.role} {verb} {self.needed:g} {self.unit} and there are {self.there:g}: {self.missing:g} too few"
            )
        place = f"{self.where}, which has {gigabytes(self.there)}"
        return f"{self.role} {verb} {gigabytes(self.needed)} on {place}: {gigabytes(self.missing)} too much"


@dataclass(frozen=True)
class Sharding:
    """What the code cannot do yet and a plan on paper may assume. As built: one GPU an engine, whole models at load."""

    tensor_parallel: int = 1
    """GPUs that one engine or scorer is spread over."""
    sharded_load: bool = False
    """Whether each rank loads its own share of the parameters."""


AS_BUILT = Sharding()


def gigabytes(number: float) -> str:
    """``5.6 GB``, of 10^9 bytes."""
    return f"{number / 1e9:.1f} GB" if abs(number) >= 1e8 else f"{number / 1e6:.1f} MB"


def dtype_bytes(dtype: str) -> int:
    """Of one number."""
    return 4 if dtype == "float32" else 2


def role_memory(
    resources: ResourceSettings, shape: ModelShape, work: Workload, *, sharding: Sharding = AS_BUILT
) -> list[RoleMemory]:
    """Memory of every role's actors."""
    return [
        _generator(resources, shape, work, sharding),
        *_scorers(resources, shape, work, sharding),
        learner_memory(resources.learner, shape, work, sharding),
        _supervised(resources, shape, work),
    ]


# --- the roles --------------------------------------------------------------------------------------------------------


def _generator(resources: ResourceSettings, shape: ModelShape, work: Workload, sharding: Sharding) -> RoleMemory:
    settings = resources.generators
    width, shards = dtype_bytes(settings.dtype), sharding.tensor_parallel
    tokens = max(PREFILL_TOKENS, work.longest_row)
    parts = {
        "weights": width * shape.parameters / shards,
        "KV cache": float(settings.kv_cache_bytes),
        "activations": width * tokens * (4 * shape.hidden + 2 * shape.intermediate / shards)
        + 2 * 4.0 * settings.max_concurrent * shape.vocabulary / shards,
        "weight update": 2.0 * _bucket(resources, shape, width),
    }
    on_gpu = settings.gpus > 0
    host = {"process": PROCESS["generator"]} | ({"bucket": parts.pop("weight update")} if on_gpu else parts)
    device = parts | {"CUDA graphs": GRAPHS} if on_gpu else {}
    return RoleMemory("generators", settings.count, settings.gpus * shards, device, host)


def _scorers(resources: ResourceSettings, shape: ModelShape, work: Workload, sharding: Sharding) -> list[RoleMemory]:
    """Models are float32 in a scorer, and its forward passes keep nothing."""
    settings, shards = resources.scorers, sharding.tensor_parallel
    trunk, policy = 4.0 * shape.trunk_parameters / shards, 4.0 * shape.parameters / shards
    tokens = max(settings.tokens_per_batch, work.longest_row)
    passing = 4.0 * tokens * (6 * shape.hidden + 3 * shape.intermediate / shards)
    logits = 3 * 4.0 * _response_share(work) * tokens * shape.vocabulary / shards

    def role(name: str, models: float, activations: float) -> RoleMemory:
        parts = {"weights": models, "activations": activations}
        on_gpu = settings.gpus > 0
        host = {"process": PROCESS["scorer"]} | ({} if on_gpu else parts)
        return RoleMemory(name, settings.replicas, settings.gpus * shards, parts if on_gpu else {}, host)

    if settings.colocate:
        return [role("scorers", work.score_models * trunk + policy, passing + logits)]
    members = math.ceil(work.score_models / max(work.signals, 1))
    alone = [role(f"scorers of {work.signals} signals", members * trunk, passing)] if work.signals else []
    alone = [
        RoleMemory(memory.role, memory.actors * work.signals, memory.gpus, memory.device, memory.host)
        for memory in alone
    ]
    return [*alone, role("scorers of the reference", policy, passing + logits)]


def learner_memory(settings: LearnerSettings, shape: ModelShape, work: Workload, sharding: Sharding) -> RoleMemory:
    """The actor and each critic is an engine of its own under the same ZeRO stage."""
    width, ranks, stage = dtype_bytes(settings.dtype), settings.ranks, settings.zero_stage
    sizes = [shape.parameters, *[shape.trunk_parameters] * work.critics]
    total = float(sum(sizes))
    parts = _zero_states(total, width, ranks, stage, offload=settings.offload)
    offloaded = parts.pop("offloaded", 0.0)
    parts["buffers"] = len(sizes) * 2.0 * width * min(MOST_BUCKET_ELEMENTS, shape.parameters)
    if stage == 3:
        largest = max(shape.layer_parameters, shape.vocabulary * shape.hidden)
        parts["gathered layers"] = 2.0 * width * largest
    on_gpu = settings.gpus > 0
    tokens = micro_tokens(settings, work)
    parts["activations"] = shape.activation_bytes(tokens, width, checkpointed=settings.checkpoint_activations)
    parts["logits"] = LOGIT_COPIES * 4.0 * _response_share(work) * tokens * shape.vocabulary
    whole = 1.0 / ranks if sharding.sharded_load else 1.0
    host = {"process": PROCESS["learner"], "loading": 4.0 * max(sizes) * whole, "offloaded optimiser": offloaded}
    state_bytes = sum(parts[name] for name in ("weights", "gradients", "optimiser"))
    loading = state_bytes + width * max(sizes) * (whole - (1 / ranks if stage == 3 else 1.0)) if on_gpu else 0.0
    if not on_gpu:
        host = {"process": PROCESS["learner"]} | parts
    return RoleMemory("learner ranks", ranks, settings.gpus, parts if on_gpu else {}, host, loading)


def _supervised(resources: ResourceSettings, shape: ModelShape, work: Workload) -> RoleMemory:
    """SFT and score models train in float32, before the loop."""
    settings = resources.supervised
    parts = _zero_states(float(shape.parameters), 4, settings.workers, settings.zero_stage, offload=False)
    parts["buffers"] = 2.0 * 4 * min(MOST_BUCKET_ELEMENTS, shape.parameters)
    if settings.zero_stage == 3:
        parts["gathered layers"] = 2.0 * 4 * max(shape.layer_parameters, shape.vocabulary * shape.hidden)
    tokens = min(SUPERVISED_TOKENS, SUPERVISED_ROWS * work.longest_row)
    parts["activations"] = shape.activation_bytes(tokens, 4, checkpointed=settings.checkpoint_activations)
    parts["logits"] = LOGIT_COPIES * 4.0 * tokens * shape.vocabulary * _response_share(work)
    on_gpu = settings.gpus > 0
    host = {"process": PROCESS["supervised"]} | ({"loading": 4.0 * shape.parameters} if on_gpu else parts)
    return RoleMemory("supervised workers", settings.workers, settings.gpus, parts if on_gpu else {}, host)


def _zero_states(parameters: float, width: int, ranks: int, stage: int, *, offload: bool) -> dict[str, float]:
    """Model states of one rank (Rajbhandari et al., arXiv 1910.02054, section 3.1; figure 1)."""
    master = 0 if width == 4 else 4
    states = (STATES + master) * parameters / (ranks if stage >= 1 else 1)
    accumulated = 4 if width == 2 and stage <= 1 else width  # DeepSpeed adds bfloat16 gradients up in float32 there
    state_bytes = {
        "weights": width * parameters / (ranks if stage == 3 else 1),
        "gradients": accumulated * parameters / (ranks if stage >= 2 else 1),
        "optimiser": states,
    }
    if offload and stage:
        # DeepSpeed's own estimate: 16 bytes a parameter on the host.
        state_bytes |= {"optimiser": 0.0, "offloaded": 16.0 * parameters / ranks}
    return state_bytes


def micro_tokens(settings: LearnerSettings, work: Workload) -> float:
    """Tokens of one rank's largest pass: the setting's, or its share of a gradient update where that is less."""
    rows = work.batch * work.epochs / work.minibatches / settings.ranks
    setting = micro_batch_tokens(settings)
    return max(float(work.longest_row), min(float(setting), rows * work.longest_row))


def _response_share(work: Workload) -> float:
    return work.longest_response / work.longest_row


def _bucket(resources: ResourceSettings, shape: ModelShape, width: int) -> float:
    largest = shape.vocabulary * shape.hidden * width
    return float(min(width * shape.parameters, max(resources.transport.bucket_bytes, largest)))


def usable(cluster: Cluster) -> float:
    """Bytes of one GPU that a role can have."""
    return cluster.hardware.memory_bytes - RESERVE
