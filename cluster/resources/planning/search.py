"""A better split of the same cluster among generators, scorers and learner ranks, by trying them all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.resources.planning.memory import learner_memory, role_memory, usable
from cluster.resources.planning.plan import Plan, Question, make_plan, task_of, with_value
from cluster.resources.planning.sharing import pair_of, pair_shortage
from cluster.resources.planning.timing import learn
from configs.schema.resources import LearnerSettings, ResourceSettings, ScorerSettings
from configs.schema.run import RunSettings

WORTH = 0.97
"""Another split is told only if a step takes less than this share of the present one's time."""
_LEAST_TOKENS = 2048
_ALIKE = 0.02
"""Steps whose seconds differ by less than this share are taken to be as fast: no plan is that exact."""
_FRACTIONS = "gpus"


@dataclass(frozen=True)
class Better:
    """A split and what it gives."""

    plan: Plan
    overrides: tuple[str, ...]
    """``key=value`` as `steelyard run` takes them."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "overrides": list(self.overrides),
            "step_seconds": self.plan.step_seconds,
            "samples_per_second": self.plan.samples_per_second,
            "bottleneck": self.plan.bottleneck,
        }


def better_split(settings: RunSettings, plan: Plan) -> Better | None:
    """The fastest split that fits, if it is worth telling; what fits beats what does not."""
    best = fastest_split(settings, plan.question)
    if best is None or (plan.fits and best.step_seconds > WORTH * plan.step_seconds):
        return None
    return Better(best, tuple(_differences(plan.question.resources, best.question.resources)))


def fastest_split(settings: RunSettings, question: Question) -> Plan | None:
    """Of all that fit; None where nothing does, or where actors share GPUs and the split is more than counts."""
    if question.cluster.gpus and any(share not in (0, 1) for share in _shares(question.resources)):
        return None
    best: Plan | None = None
    for resources in _candidates(settings, question):
        plan = make_plan(question.with_resources(resources))
        if plan.fits and (best is None or _rank(plan) < _rank(best)):
            best = plan
    return best


def _rank(plan: Plan) -> tuple[int, float, float]:
    """Faster first; among steps within some 2 % of one another, the one that leaves most memory free."""
    fullest = max(role.device_bytes for role in plan.memory)
    return _about(plan.step_seconds), fullest, plan.step_seconds


def _about(seconds: float) -> int:
    return round(math.log(max(seconds, 1e-9)) / _ALIKE)


def _shares(resources: ResourceSettings) -> list[float]:
    roles = (resources.generators, resources.scorers, resources.learner, resources.supervised)
    return [getattr(role, _FRACTIONS) for role in roles]


def _candidates(settings: RunSettings, original: Question) -> Iterator[ResourceSettings]:
    devices = original.cluster.devices
    on_gpu = original.cluster.gpus > 0
    for placement in _placements(original):
        question = original.with_resources(original.resources.model_copy(update={"placement": placement}))
        scorer_options = _scorers_that_fit(question)
        for ranks in _ranks(settings, devices):
            learner = _fastest_learner(question, ranks)
            if learner is None:
                continue
            for generators in _counts(devices):
                for scorers in scorer_options:
                    if on_gpu and _gpus(question, ranks, generators, scorers) > devices:
                        continue
                    resources = question.resources.model_copy(update={"learner": learner, "scorers": scorers})
                    resources = with_value(resources, "generators", "count", generators)
                    workers = _workers(settings, _free_for_trainers(question, generators))
                    if workers is not None:
                        yield _with_workers(question, resources, workers)


def _placements(question: Question) -> tuple[str, ...]:
    """Those that can be had: engines over several GPUs, which are on paper only, share none."""
    if not question.cluster.gpus or question.sharding.tensor_parallel > 1:
        return (question.resources.placement,)
    return ("disaggregated", "colocated", "mixed")


def _gpus(question: Question, ranks: int, generators: int, scorers: ScorerSettings) -> int:
    """Of the loop, one for each actor or pair."""
    shards = question.sharding.tensor_parallel
    actors = scorers.replicas * (1 if scorers.colocate else 1 + question.work.signals)
    if question.resources.placement == "colocated":
        return max(ranks, generators) + actors
    if question.resources.placement == "mixed":
        return max(ranks, actors) + generators
    return ranks + shards * (generators + actors)


def _free_for_trainers(question: Question, generators: int) -> int:
    """Devices that the trainers find before the loop; next to colocated generators they would have none, so they come first."""
    at_once = question.cluster.gpus and question.resources.placement != "colocated"
    return question.cluster.devices - (question.sharding.tensor_parallel * generators if at_once else 0)


def _counts(upper: int) -> list[int]:
    """Every small number, then ever fewer of the large ones."""
    return sorted({n for n in range(1, upper + 1) if n <= 8 or n % 2 ** (n.bit_length() - 3) == 0})


def _ranks(settings: RunSettings, upper: int) -> list[int]:
    """Numbers of ranks that deal every batch equally."""
    sizes = [settings.ppo.minibatch_size] + ([settings.ppo.ptx_batch_size] if settings.ppo.ptx_coefficient else [])
    common = math.gcd(*sizes)
    return [n for n in range(1, upper + 1) if common % n == 0]


def _workers(settings: RunSettings, upper: int) -> int | None:
    """The most workers, up to the present number, that fit next to the generators and deal every batch equally."""
    batches = (
        settings.sft.batch_size,
        settings.reward_model.batch_size,
        settings.cost_model.batch_size,
        settings.direct.batch_size,
    )
    common = math.gcd(*batches)
    fitting = [n for n in range(1, upper + 1) if common % n == 0 and n <= max(settings.resources.supervised.workers, 1)]
    return max(fitting, default=None)


def _with_workers(question: Question, resources: ResourceSettings, workers: int) -> ResourceSettings:
    """Trainers that save memory only where they must."""
    resources = with_value(resources, "supervised", "workers", workers)
    if _role_fits(question, resources, "supervised"):
        return resources
    return with_value(
        with_value(resources, "supervised", "checkpoint_activations", True), "supervised", "zero_stage", 3
    )


def _fastest_learner(question: Question, ranks: int) -> LearnerSettings | None:
    """Of this many ranks, with the memory savers that they need and no more."""
    present = question.resources.learner
    best: tuple[tuple[int, float], LearnerSettings] | None = None
    tokens = present.tokens_per_micro_batch
    smaller = [role for role in (16384, 8192, 4096, _LEAST_TOKENS) if role < (tokens or 16384)] if present.gpus else []
    memory = (False, True)
    for offload in memory if present.gpus and present.zero_stage else (present.offload,):
        for checkpointed in memory if present.gpus else (present.checkpoint_activations,):
            for passed in [tokens, *smaller]:
                changes = {
                    "ranks": ranks,
                    "offload": offload,
                    "checkpoint_activations": checkpointed,
                    "tokens_per_micro_batch": passed,
                }
                learner = present.model_copy(update=changes)
                resources = question.resources.model_copy(update={"learner": learner})
                if not _role_fits(question, resources, "learner ranks"):
                    continue
                task = task_of(question.with_resources(resources))
                needed = learner_memory(learner, question.shape, question.work, question.sharding).device_bytes
                rank = _about(learn(task).seconds), needed
                if best is None or rank < best[0]:
                    best = rank, learner
    return best[1] if best else None


def _scorers_that_fit(question: Question) -> list[ScorerSettings]:
    """Of each arrangement the largest passes that fit."""
    present, fitting = question.resources.scorers, []
    for colocate in (True,) if question.resources.placement == "mixed" else (True, False):
        for replicas in _counts(question.cluster.devices):
            for share in (1, 2, 4, 8):
                tokens = max(1024, present.tokens_per_batch // share)
                scorers = present.model_copy(
                    update={"colocate": colocate, "replicas": replicas, "tokens_per_batch": tokens}
                )
                if _role_fits(question, question.resources.model_copy(update={"scorers": scorers}), "scorers"):
                    fitting.append(scorers)
                    break
    return fitting


def _role_fits(question: Question, resources: ResourceSettings, role: str) -> bool:
    if not question.cluster.gpus:
        return True  # one memory for all: looked at with the whole plan
    roles = role_memory(resources, question.shape, question.work, sharding=question.sharding)
    alone = all(
        actor_memory.device_bytes <= usable(question.cluster)
        for actor_memory in roles
        if actor_memory.role.startswith(role)
    )
    pair = pair_of(resources, roles)
    if not alone or pair is None or not pair.ranks.role.startswith(role):
        return alone
    return pair_shortage(pair, question.cluster) is None


def _differences(before: ResourceSettings, after: ResourceSettings) -> Iterator[str]:
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    for section, values in new.items():
        if not isinstance(values, dict):
            if values != old[section]:
                yield f"resources.{section}={values}"
            continue
        for key, value in values.items():
            if value != old[section][key]:
                text = (
                    {True: "true", False: "false", None: "null"}.get(value)
                    if isinstance(value, (bool, type(None)))
                    else str(value)
                )
                yield f"resources.{section}.{key}={text}"
