"""One configuration on one cluster: does it fit, how long does a step take, what is the bottleneck, what would be better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.resources.planning.fit import shortages
from cluster.resources.planning.hardware import Cluster
from cluster.resources.planning.memory import AS_BUILT, RoleMemory, Sharding, Shortage, role_memory
from cluster.resources.planning.rates import Rates, assumed_rates
from cluster.resources.planning.sharing import Pair, loop_gpus, pair_of
from cluster.resources.planning.sizes import ModelShape
from cluster.resources.planning.timing import Phase, Task, phases
from cluster.resources.planning.workload import Workload
from configs.exits import ConfigError
from configs.schema.resources import ResourceSettings


@dataclass(frozen=True)
class Question:
    """What is asked of the planner."""

    resources: ResourceSettings
    shape: ModelShape
    work: Workload
    cluster: Cluster
    rates: Rates | None = None
    """None: assumed ones, which depend on the resources."""
    sharding: Sharding = AS_BUILT

    def with_resources(self, resources: ResourceSettings) -> Question:
        """The same, shared out otherwise."""
        return replace(self, resources=resources)


@dataclass(frozen=True)
class Plan:
    """The answer."""

    question: Question
    memory: tuple[RoleMemory, ...]
    shortages: tuple[Shortage, ...]
    phases: tuple[Phase, ...]
    rates: Rates

    @property
    def fits(self) -> bool:
        """Whether every role has its memory and its devices."""
        return not self.shortages

    @property
    def step_seconds(self) -> float:
        """Of one optimiser step."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def samples_per_second(self) -> float:
        """Over all engines."""
        return self.question.work.batch / self.step_seconds

    @property
    def gpus_in_use(self) -> float:
        """By the loop."""
        return loop_gpus(self.question.resources, self.memory)

    @property
    def pair(self) -> Pair | None:
        """The roles that share GPUs."""
        return pair_of(self.question.resources, self.memory)

    @property
    def bottleneck(self) -> str:
        """The phase that takes longest and what it is spent on."""
        slowest = max(self.phases, key=lambda phase: phase.seconds)
        return f"{slowest.name}, {slowest.largest}"

    def cost(self, price: float, *, steps: int = 1000) -> float:
        """Of so many steps, at `price` for one device and hour; idle devices cost too."""
        return self.step_seconds * steps / 3600 * price * self.question.cluster.devices

    def phase(self, name: str) -> Phase:
        """One of them."""
        return next(phase for phase in self.phases if phase.name == name)


def make_plan(question: Question) -> Plan:
    """Work everything out; also what does not fit is timed, for comparison."""
    task = task_of(question)
    rates = task.rates
    roles = role_memory(question.resources, question.shape, question.work, sharding=question.sharding)
    missing = shortages(roles, question.resources, question.shape, question.work, question.cluster)
    return Plan(question, tuple(roles), tuple(missing), tuple(phases(task)), rates)


def task_of(question: Question) -> Task:
    """With the rates that hold for its resources and its model's width."""
    if question.rates is None:
        rates = assumed_rates(question.resources, question.cluster)
    else:
        rates = question.rates.for_resources(question.resources, question.cluster)
    rates = rates.at_width(question.shape.hidden)
    return Task(question.resources, question.shape, question.work, question.cluster, rates, question.sharding)


def check_devices(resources: ResourceSettings, cluster: Cluster) -> None:
    """Refuse a plan for GPUs that the run would leave idle, and the other way round.

    Raises:
        ConfigError: says which keys to set.
    """
    roles = {name: getattr(resources, name) for name in ("generators", "scorers", "learner", "supervised")}
    on_gpu = [name for name, role in roles.items() if role.gpus > 0]
    kind = cluster.hardware.kind
    if cluster.hardware.is_cpu and on_gpu:
        keys = ", ".join(f"resources.{name}.gpus" for name in on_gpu)
        raise ConfigError(f"--gpu cpu: {keys} ask for GPUs; set them to 0, or plan for GPUs such as --gpu h100:8")
    if not cluster.hardware.is_cpu and len(on_gpu) < len(roles):
        keys = " ".join(f"resources.{name}.gpus=1" for name in roles if name not in on_gpu)
        raise ConfigError(
            f"--gpu {kind}: {', '.join(set(roles) - set(on_gpu))} would run on CPUs next to idle GPUs; add {keys}"
        )


# --- what would fit ---------------------------------------------------------------------------------------------------


def remedies(plan: Plan) -> list[str]:
    """Overrides after which nothing is short any more, simplest first: single keys, then pairs."""
    if plan.fits:
        return []
    single = list(_changes(plan.question.resources))
    pairs = [
        (f"{first} {second}", changed)
        for index, (first, _, change) in enumerate(single)
        for second, _, second_change in single[index + 1 :]
        if first.split("=")[0] != second.split("=")[0]
        and (changed := second_change(change(plan.question.resources))) is not None
    ]
    fitting = [text for text, resources, _ in single if _fits(plan.question, resources)]
    return fitting or [text for text, resources in pairs if _fits(plan.question, resources)]


def _fits(question: Question, resources: ResourceSettings) -> bool:
    roles = role_memory(resources, question.shape, question.work, sharding=question.sharding)
    return not shortages(roles, resources, question.shape, question.work, question.cluster)


def _changes(resources: ResourceSettings) -> Iterator[tuple[str, ResourceSettings, Any]]:
    """Single keys that lower what a role needs: (as text, the result, the change)."""
    scorers, workers = resources.scorers, resources.supervised.workers
    passes = (scorers.tokens_per_batch // share for share in (2, 4, 8))
    candidates: dict[tuple[str, str], list[object]] = {
        ("scorers", "colocate"): [False],
        ("scorers", "tokens_per_batch"): [tokens for tokens in passes if tokens >= 1024],
        ("learner", "zero_stage"): [3],
        ("learner", "offload"): [True] if resources.learner.zero_stage and resources.learner.gpus else [],
        ("learner", "checkpoint_activations"): [True],
        ("learner", "tokens_per_micro_batch"): [8192, 4096, 2048],
        ("generators", "kv_cache_bytes"): [resources.generators.kv_cache_bytes // share for share in (2, 4, 8)],
        ("supervised", "checkpoint_activations"): [True],
        ("supervised", "zero_stage"): [3],
        ("supervised", "workers"): list(range(workers - 1, 0, -1)),
        ("scorers", "replicas"): list(range(scorers.replicas - 1, 0, -1)),
    }
    if resources.placement == "mixed":
        candidates.pop(("scorers", "colocate"))  # one scorer next to each rank holds every model
    for (section, key), values in candidates.items():
        for value in values:
            if value != getattr(getattr(resources, section), key):
                change = _setter(section, key, value)
                text = str(value).lower() if isinstance(value, bool) else str(value)
                yield f"resources.{section}.{key}={text}", change(resources), change


def _setter(section: str, key: str, value: object) -> Any:
    def change(resources: ResourceSettings) -> ResourceSettings:
        return with_value(resources, section, key, value)

    return change


def with_value(resources: ResourceSettings, section: str, key: str, value: object) -> ResourceSettings:
    """A copy with one key changed."""
    inner = getattr(resources, section).model_copy(update={key: value})
    return resources.model_copy(update={section: inner})


# --- as a document ----------------------------------------------------------------------------------------------------


def document(plan: Plan, *, price: float | None, better: Mapping[str, Any] | None) -> dict[str, Any]:
    """The plan as JSON. Bytes, seconds, and money in the price's unit."""
    question = plan.question
    return {
        "cluster": {
            "kind": question.cluster.hardware.kind,
            "nodes": question.cluster.nodes,
            "per_node": question.cluster.per_node,
            "source": question.cluster.hardware.source,
        },
        "model": asdict(question.shape) | {"parameters": question.shape.parameters},
        "work": asdict(question.work),
        "fits": plan.fits,
        "shortages": [
            asdict(shortage) | {"missing": shortage.missing, "text": shortage.describe()} for shortage in plan.shortages
        ],
        "remedies": remedies(plan),
        "memory": [
            {
                "role": role.role,
                "actors": role.actors,
                "gpus": role.gpus,
                "device": dict(role.device),
                "host": dict(role.host),
                "loading": role.loading,
                "device_bytes": role.device_bytes,
                "host_bytes": role.host_bytes,
            }
            for role in plan.memory
        ],
        "shared_gpus": None
        if (pair := plan.pair) is None
        else {"roles": pair.name, "gpus": pair.gpus, "device_bytes": pair.device_bytes},
        "phases": {phase.name: {"seconds": phase.seconds, "parts": dict(phase.parts)} for phase in plan.phases},
        "step_seconds": plan.step_seconds,
        "samples_per_second": plan.samples_per_second,
        "bottleneck": plan.bottleneck,
        "cost_per_1000_steps": None if price is None else plan.cost(price),
        "rates": plan.rates.to_document(),
        "better": dict(better) if better is not None else None,
    }
