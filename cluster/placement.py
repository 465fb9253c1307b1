"""What a run asks of the cluster, against what the cluster has; checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping

from configs.exits import ClusterError
from configs.schema.resources import ResourceSettings


def needed_resources(settings: ResourceSettings) -> dict[str, float]:
    """Logical CPUs and GPUs of the busiest phase: trainers beside generators, or the whole loop."""
    generators, scorers, learner, trainers = (
        settings.generators,
        settings.scorers,
        settings.learner,
        settings.supervised,
    )
    needed = {}
    for name, attribute in (("CPU", "cpus"), ("GPU", "gpus")):
        sampling = generators.count * getattr(generators, attribute)
        training = trainers.workers * getattr(trainers, attribute)
        loop = scorers.replicas * getattr(scorers, attribute) + learner.ranks * getattr(learner, attribute)
        needed[name] = round(sampling + max(training, loop), 6)  # shares of a core are not exact in binary
    return needed


def require_resources(settings: ResourceSettings, present: Mapping[str, float]) -> None:
    """Refuse a run that the cluster could never hold.

    Raises:
        ClusterError: says what is asked, what there is, and what to change.
    """
    for name, needed in needed_resources(settings).items():
        there = float(present.get(name, 0.0))
        if needed > there:
            kind = name.lower() + "s"
            raise ClusterError(
                f"the run asks for {needed:g} {name} and the cluster has {there:g}: lower resources.*.{kind} or the counts "
                "of generators, scorers, learner ranks and supervised workers, or add nodes"
            )
