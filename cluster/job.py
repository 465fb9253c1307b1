"""What `ray job submit` runs: ``python -m cluster.job CONFIG [key=value …]``.

Ends with the exit code of configs/exits.py; an error meant for the user is one line on stderr. Storage is the
configuration's `storage`, else ``STEELYARD_STORAGE`` (set by whoever submits); it must be absolute.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cluster.inputs import RunInputs, check_inputs
from cluster.status import OnStatus
from configs.exits import ClusterError, ConfigError, Exit, SteelyardError, StoppedError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.engines import Engines

STORAGE_VARIABLE = "STEELYARD_STORAGE"
NAMESPACE = "steelyard"
STARTED = time.monotonic()
"""When this process began to be a job."""


def main(arguments: Sequence[str] | None = None, on_status: OnStatus | None = None) -> int:
    """Run one configuration to its end; returns the exit code.

    Args:
        on_status: is shown every change of the run's status, by a command that runs the job in its own process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    dry_run = "--dry-run" in words
    words = [word for word in words if word != "--dry-run"]
    if not words or words[0] in ("-h", "--help"):
        print("usage: python -m cluster.job CONFIG [key=value ...] [--dry-run]")
        return Exit.DONE if words else Exit.USAGE
    try:
        settings = load_settings(words[0], words[1:])
        inputs = check_inputs(settings)
        if dry_run:
            print(
                f"{words[0]}: valid; run '{settings.name}', {len(settings.constraints)} constraint(s), seed {settings.seed}"
            )
            return Exit.DONE
        return int(_run(settings, inputs, on_status))
    except SteelyardError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)


def _run(settings: RunSettings, inputs: RunInputs, on_status: OnStatus | None) -> Exit:
    from cluster.arms import run_comparison
    from cluster.pipeline import run_pipeline, storage_root

    storage = _storage(settings)
    layout = storage_root(settings, storage)
    with warm_engines(settings, layout) as (engines, dashboard):
        donors = _donors(settings, storage)
        if settings.arms:
            return run_comparison(
                settings, layout, engines, donors=donors, dashboard_url=dashboard, on_status=on_status
            )
        outcome = run_pipeline(
            settings, layout, inputs, engines,
            donors=donors, dashboard_url=dashboard, started=STARTED, on_status=on_status,
        )  # fmt: skip
        print(f"{outcome.summary.verdict}\nreport: {layout.report}")
        return outcome.exit_code


@contextmanager
def warm_engines(settings: RunSettings, layout: RunLayout) -> Iterator[tuple[Engines, str]]:
    """Join the cluster that RAY_ADDRESS names; engines that stay warm until the block ends, and the dashboard's address.

    Raises:
        ClusterError: no cluster is there, or it lacks what the settings ask for.
    """
    import ray

    from cluster.engines import Engines
    from cluster.placement import require_resources

    dashboard = _connect(settings)
    require_resources(settings.resources, ray.cluster_resources())
    _stop_on_sigterm()
    engines = Engines(
        settings.resources, settings.model.max_length, layout.root / "ray_train", deterministic=settings.deterministic
    )
    try:
        yield engines, dashboard
    finally:
        engines.close()
        ray.shutdown()


def _connect(settings: RunSettings) -> str:
    """Join the cluster that RAY_ADDRESS names; returns the dashboard's address."""
    import ray

    from learner.remote_code import environment

    # Whether a model's own code may run is the settings' word, here and in every process of this job.
    variables = environment(settings.model.trust_remote_code)
    os.environ.update(variables)
    try:
        context = ray.init(
            address="auto", namespace=NAMESPACE, log_to_driver=False, runtime_env={"env_vars": variables}
        )
    except ConnectionError as error:
        raise ClusterError(
            "there is no Ray cluster to run on: submit with `steelyard submit`, or start one with `steelyard run`"
        ) from error
    url = context.dashboard_url or ""
    return url if url.startswith("http") or not url else f"http://{url}"


def _donors(settings: RunSettings, storage: Path) -> list[RunLayout]:
    return [RunLayout(storage / name) for name in settings.reuse_from]


def _storage(settings: RunSettings) -> Path:
    """Where run folders go.

    Raises:
        ConfigError: nobody said, or the path is relative (a job runs in Ray's copy of the working directory).
    """
    text = os.environ.get(STORAGE_VARIABLE)
    path = settings.storage or (Path(text) if text else None)
    if path is None:
        raise ConfigError(f"storage: no folder for the run; set {STORAGE_VARIABLE} or storage=/an/absolute/path")
    if not path.is_absolute():
        raise ConfigError(
            f"storage: '{path}' is relative, and a job runs in Ray's copy of the working directory; make it absolute"
        )
    return path


def _stop_on_sigterm() -> None:
    """`ray job stop` sends SIGTERM: end as a stopped run that can go on later. Only after ray.init does this take."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise StoppedError("the run was stopped; the same command goes on where it stopped")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    raise SystemExit(main())
