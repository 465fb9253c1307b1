"""What a run asks of the cluster, node by node, against what the nodes have; decided before anything is started.

A *bundle* is what must be on one node: an actor, or two actors that share a GPU. `resources.placement` says who shares:
no two (`disaggregated`), each learner rank with a generator that sleeps while the rank works (`colocated`), or each learner
rank with a scorer (`mixed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.exits import ClusterError
from configs.schema.resources import ResourceSettings

GENERATORS, SCORERS, LEARNER, TRAINERS = "generators", "scorers", "learner", "supervised workers"
CHANGES = (
    "lower resources.*.{kind} or the counts of generators, scorers, learner ranks and supervised workers, add nodes, or wait "
    "for them with resources.wait_for_nodes_seconds"
)


@dataclass(frozen=True)
class Bundles:
    """Equal bundles of one role, or of two that share them."""

    roles: tuple[str, ...]
    count: int
    cpus: float
    gpus: float

    def resources(self) -> dict[str, float]:
        """Of one bundle, as Ray takes them; empty where it asks for nothing."""
        return {name: value for name, value in (("CPU", self.cpus), ("GPU", self.gpus)) if value > 0}

    def __str__(self) -> str:
        per_actor = " and ".join(f"{value:g} {name}" for name, value in self.resources().items()) or "nothing"
        return f"{self.count} x {' with '.join(self.roles)} of {per_actor}"


def bundles_of(settings: ResourceSettings) -> list[Bundles]:
    """The bundles of the loop's actors, by `resources.placement`; the trainers of supervised stages have their own."""
    generators, scorers, learner = settings.generators, settings.scorers, settings.learner
    alone = {
        GENERATORS: Bundles((GENERATORS,), generators.count, generators.cpus, generators.gpus),
        SCORERS: Bundles((SCORERS,), scorers.replicas, scorers.cpus, scorers.gpus),
        LEARNER: Bundles((LEARNER,), learner.ranks, learner.cpus, learner.gpus),
    }
    guest = {"colocated": GENERATORS, "mixed": SCORERS}.get(settings.placement)
    if guest is None:
        return list(alone.values())
    shared = _shared(alone.pop(guest), alone.pop(LEARNER))
    return [shared, *alone.values()]


def _shared(guest: Bundles, host: Bundles) -> Bundles:
    return Bundles(
        (*guest.roles, *host.roles), max(guest.count, host.count), guest.cpus + host.cpus, max(guest.gpus, host.gpus)
    )


def share_of_gpu(settings: ResourceSettings, role: str) -> float:
    """GPUs that Ray is asked for by one actor of a role: half of the bundle's where two share it."""
    gpus = {
        GENERATORS: settings.generators.gpus,
        SCORERS: settings.scorers.gpus,
        LEARNER: settings.learner.gpus,
    }
    bundle = next(candidate for candidate in bundles_of(settings) if role in candidate.roles)
    sharing = [name for name in bundle.roles if gpus[name] > 0]
    return gpus[role] if len(sharing) < 2 else bundle.gpus / 2


def phases(settings: ResourceSettings) -> list[list[Bundles]]:
    """What is on the cluster at one time: trainers next to generators, or the whole loop. Colocated, trainers are alone."""
    supervised = settings.supervised
    trainers = Bundles((TRAINERS,), supervised.workers, supervised.cpus, supervised.gpus)
    loop = bundles_of(settings)
    if settings.placement == "colocated":
        return [[trainers], loop]
    return [[trainers, *(bundles for bundles in loop if GENERATORS in bundles.roles)], loop]


def needed_resources(settings: ResourceSettings) -> dict[str, float]:
    """Logical CPUs and GPUs of the busiest phase."""
    needed = {}
    for name in ("CPU", "GPU"):
        per_phase = [
            sum(bundles.count * bundles.resources().get(name, 0.0) for bundles in phase) for phase in phases(settings)
        ]
        needed[name] = round(max(per_phase), 6)  # shares of a core are not exact in binary
    return needed


def unmet(settings: ResourceSettings, nodes: Sequence[Mapping[str, float]]) -> str | None:
    """What the nodes lack for this run, as a sentence with what to change; None when it fits.

    Args:
        nodes: of each node that lives, its resources by Ray's names.
    """
    for name, needed in needed_resources(settings).items():
        available = sum(float(node.get(name, 0.0)) for node in nodes)
        if needed > available + 1e-6:
            return f"the run asks for {needed:g} {name} and the cluster has {available:g}: {CHANGES.format(kind=name.lower() + 's')}"
    for phase in phases(settings):
        if (homeless := _first_homeless(phase, nodes)) is not None:
            requested = ", ".join(map(str, phase))
            return (
                f"the run asks for {requested}, and no node has room for one more of {homeless.roles[-1]} "
                f"(nodes: {describe(nodes)}): {CHANGES.format(kind='cpus and resources.*.gpus')}"
            )
    return None


def _first_homeless(phase: Sequence[Bundles], nodes: Sequence[Mapping[str, float]]) -> Bundles | None:
    """Place bundles largest first, each on the fullest node that takes it; the first that none takes."""
    free = [dict(node) for node in nodes]
    for bundles in sorted(phase, key=lambda bundles: (bundles.gpus, bundles.cpus), reverse=True):
        required = bundles.resources()
        for _ in range(bundles.count):
            room = [
                node for node in free if all(node.get(name, 0.0) + 1e-6 >= value for name, value in required.items())
            ]
            if not room:
                return bundles
            home = min(room, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)))
            for name, value in required.items():
                home[name] -= value
    return None


def describe(nodes: Sequence[Mapping[str, float]]) -> str:
    """Equal nodes together: ``2 x 8 GPU and 64 CPU``."""
    kinds: dict[str, int] = {}
    for node in nodes:
        kind = " and ".join(f"{node[name]:g} {name}" for name in ("GPU", "CPU") if node.get(name)) or "nothing"
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "none"


def require_resources(settings: ResourceSettings, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse a run that the cluster could never hold.

    Raises:
        ClusterError: says what is asked, what there is, and what to change.
    """
    if (problem := unmet(settings, nodes)) is not None:
        raise ClusterError(problem)
