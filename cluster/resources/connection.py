"""How a driver joins its cluster and keeps its engines warm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.resources import auth
from cluster.resources.local_head import clean_environment, ensure_head, state_dir
from cluster.resources.stopping import stop_on_sigterm
from configs.exits import ClusterError
from configs.layout import RunLayout
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.resources.engines import Engines
    from cluster.resources.placement_groups import OnWait

STORAGE_VARIABLE = "STEELYARD_STORAGE"
"""Where run folders go; must be absolute, since a job runs in Ray's copy of the working folder."""
NAMESPACE = "steelyard-"
"""With the run's name: actors of two runs on one cluster have the same names."""


def join_own_head(storage: Path) -> None:
    """Make this process a job of our own head, starting the head if needed. Ray must not have been imported yet."""
    head = ensure_head(state_dir())
    environment = clean_environment(os.environ) | head.environment() | {STORAGE_VARIABLE: str(storage)}
    os.environ.clear()
    os.environ.update(environment)  # before Ray is imported, and for as long as this process lives


@contextmanager
def warm_engines(
    settings: RunSettings, layout: RunLayout, *, on_wait: OnWait | None = None
) -> Iterator[tuple[Engines, str]]:
    """Join the cluster that RAY_ADDRESS names; engines that stay warm until the block ends, and the dashboard's address.

    Args:
        on_wait: is told what the cluster lacks while the run waits for nodes.

    Raises:
        ClusterError: no cluster is there, or it lacks what the settings ask for.
    """
    from cluster.resources.placement_groups import say_waiting

    with (
        joined(settings, layout) as dashboard,
        engines_when_placed(settings, layout, on_wait or say_waiting) as engines,
    ):
        yield engines, dashboard


@contextmanager
def joined(settings: RunSettings, layout: RunLayout) -> Iterator[str]:
    """Part of the cluster, and ready to be stopped; gives the dashboard's address."""
    dashboard = _connect(settings)
    import ray

    stop_on_sigterm(layout.status)
    try:
        yield dashboard
    finally:
        ray.shutdown()


@contextmanager
def engines_when_placed(settings: RunSettings, layout: RunLayout, on_wait: OnWait) -> Iterator[Engines]:
    """Engines on nodes that can hold the run, once they have come."""
    from cluster.resources.placement_groups import wait_for_nodes

    wait_for_nodes(settings.resources, on_wait)
    # Imports the engines' libraries: a run that cannot be is refused before.
    from cluster.resources.engines import Engines

    engines = Engines(
        settings.resources, settings.model.max_length, layout.root / "ray_train", deterministic=settings.deterministic
    )
    try:
        yield engines
    finally:
        engines.close()


def _connect(settings: RunSettings) -> str:
    """Join the cluster that RAY_ADDRESS names; returns the dashboard's address."""
    token_shown = auth.follow_cluster()
    import ray

    from learner.model_files.remote_code import environment

    # Whether a model's own code may run is the settings' word, here and in every process of this job.
    variables = environment(settings.model.trust_remote_code)
    os.environ.update(variables)
    try:
        context = ray.init(
            address="auto",
            namespace=NAMESPACE + settings.name,
            log_to_driver=False,
            runtime_env={"env_vars": variables},
        )
    except ConnectionError as error:
        raise ClusterError(
            f"there is no Ray cluster to run on: {auth.unreachable(token_shown)}; submit with `steelyard submit`, or start "
            "one with `steelyard run`"
        ) from error
    url = context.dashboard_url or ""
    return url if url.startswith("http") or not url else f"http://{url}"
