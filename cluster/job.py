"""What `ray job submit` runs: ``python -m cluster.job CONFIG [key=value …]``.

Ends with the exit code of configs/exits.py; an error meant for the user is one line on stderr. Storage is the
configuration's `storage`, else ``STEELYARD_STORAGE`` (set by whoever submits): an absolute folder, or a store's URL.
With ``--from-environment`` instead of CONFIG, the configuration is the text in ``STEELYARD_CONFIG``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import auth
from cluster.inputs import RunInputs, check_inputs
from cluster.status import OnStatus, RunStatus, replace_text
from cluster.stopping import stop_on_sigterm
from configs.exits import ClusterError, ConfigError, Exit, SteelyardError
from configs.layout import RunLayout
from configs.load import load_settings, with_arms
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.engines import Engines
    from cluster.groups import OnWait
    from cluster.store import RunStore

STORAGE_VARIABLE = "STEELYARD_STORAGE"
CONFIG_VARIABLE = "STEELYARD_CONFIG"
FROM_ENVIRONMENT = "--from-environment"
NAMESPACE = "steelyard-"
"""With the run's name: actors of two runs on one cluster have the same names."""
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
        print(f"usage: python -m cluster.job CONFIG|{FROM_ENVIRONMENT} [key=value ...] [--dry-run]")
        return Exit.DONE if words else Exit.USAGE
    try:
        settings = _settings(words)
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


def _settings(words: Sequence[str]) -> RunSettings:
    if words[0] != FROM_ENVIRONMENT:
        return load_settings(words[0], words[1:])
    text = os.environ.get(CONFIG_VARIABLE)
    if not text:
        raise ConfigError(f"{FROM_ENVIRONMENT}: {CONFIG_VARIABLE} is empty; submit with `steelyard submit --image`")
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        path = Path(folder) / "submitted.yaml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path, words[1:])


def _run(settings: RunSettings, inputs: RunInputs, on_status: OnStatus | None) -> Exit:
    auth.follow_cluster()  # before Ray is imported
    from cluster.store import kept

    storage, store = _storage(settings)
    layout = RunLayout(storage / settings.name)

    def say_waiting(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        replace_text(layout.status, RunStatus(run=settings.name, message=text, pid=os.getpid()).model_dump_json())

    with warm_engines(settings, layout, on_wait=say_waiting) as (engines, dashboard):
        from cluster.storage_probe import probe_storage

        probe_storage(layout.root)
        with kept(store, layout), _shown(on_status) as show:
            return _work(settings, inputs, layout, storage, engines, dashboard, show)


def _work(
    settings: RunSettings, inputs: RunInputs, layout: RunLayout, storage: Path, engines: Engines, dashboard: str,
    show: OnStatus,
) -> Exit:  # fmt: skip
    from cluster.arms import run_comparison
    from cluster.pipeline import run_pipeline
    from cluster.stages.labelling import reach_judge

    for _, one in with_arms(settings):
        reach_judge(one)
    donors = _donors(settings, storage)
    if settings.arms:
        return run_comparison(settings, layout, engines, donors=donors, dashboard_url=dashboard, on_status=show)
    outcome = run_pipeline(
        settings, layout, inputs, engines, donors=donors, dashboard_url=dashboard, started=STARTED, on_status=show
    )
    print(f"{outcome.summary.verdict}\nreport: {layout.report}")
    return outcome.exit_code


@contextmanager
def _shown(on_status: OnStatus | None) -> Iterator[OnStatus]:
    """Shows each status to whoever asked for it, and in Ray's record of this job."""
    from cluster.job_card import JobCard, submission_id

    card = JobCard(submission_id())

    def show(status: RunStatus) -> None:
        card.show(status)
        if on_status is not None:
            on_status(status)

    try:
        yield show
    finally:
        card.close()


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
    dashboard = _connect(settings)
    import ray

    from cluster.groups import wait_for_nodes

    stop_on_sigterm(layout.status)
    wait_for_nodes(settings.resources, on_wait or (lambda text: print(text, file=sys.stderr, flush=True)))
    from cluster.engines import Engines  # imports the engines' libraries: a run that cannot be is refused before

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
    token_shown = auth.follow_cluster()
    import ray

    from learner.remote_code import environment

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


def _donors(settings: RunSettings, storage: Path) -> list[RunLayout]:
    return [RunLayout(storage / name) for name in settings.reuse_from]


def _storage(settings: RunSettings) -> tuple[Path, RunStore | None]:
    """The folder that run folders are worked on in, and the store that this run is kept in, if it is kept in one.

    Raises:
        ConfigError: nobody said, the folder is relative (a job runs in Ray's copy of the working directory), or the URL
            names no store.
    """
    place = settings.storage or os.environ.get(STORAGE_VARIABLE)
    if not place:
        raise ConfigError(f"storage: no folder for the run; set {STORAGE_VARIABLE} or storage=/an/absolute/path")
    if "://" in str(place):
        from cluster.store import RunStore, working_folder

        folder = working_folder(str(place), settings.scratch)
        return folder, RunStore(str(place), settings.name)
    if not Path(place).is_absolute():
        raise ConfigError(
            f"storage: '{place}' is relative, and a job runs in Ray's copy of the working directory; make it absolute"
        )
    return Path(place), None


if __name__ == "__main__":
    raise SystemExit(main())
