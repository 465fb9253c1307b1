"""What `ray job submit` runs: ``python -m cluster.job CONFIG [key=value …]``.

Ends with the exit code of configs/exits.py; an error meant for the user is one line on stderr. Storage is the
configuration's `storage`, else ``STEELYARD_STORAGE`` (set by whoever submits): an absolute folder, or a store's URL.
With ``--from-environment`` instead of CONFIG, the configuration is the text in ``STEELYARD_CONFIG``; with ``--resume FOLDER``
(or a URL in a store) it is the one that the run there was resolved to, and the storage is where that run is.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import auth
from cluster.inputs import RunInputs, check_inputs
from cluster.label_checks import complete_labels
from cluster.manifest import Manifest
from cluster.resuming import resumed_settings
from cluster.rounds.names import split_name
from cluster.status import OnStatus
from cluster.stopping import stop_on_sigterm
from configs.exits import ClusterError, ConfigError, Exit, SteelyardError, request_to_stop
from configs.layout import RunLayout
from configs.load import arm_settings, load_settings
from configs.schema.labels import JudgeSettings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.engines import Engines
    from cluster.groups import OnWait
    from cluster.store import RunStore

STORAGE_VARIABLE = "STEELYARD_STORAGE"
CONFIG_VARIABLE = "STEELYARD_CONFIG"
FROM_ENVIRONMENT = "--from-environment"
RESUME = "--resume"
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
        print(f"usage: python -m cluster.job CONFIG|{FROM_ENVIRONMENT}|{RESUME} FOLDER [key=value ...] [--dry-run]")
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
    except (SteelyardError, SystemError) as error:
        told = request_to_stop(error) or error
        if not isinstance(told, SteelyardError):
            raise
        print(f"error: {told}", file=sys.stderr)
        return int(told.exit_code)


def _settings(words: Sequence[str]) -> RunSettings:
    if words[0] == RESUME:
        if len(words) < 2:
            raise ConfigError(f"{RESUME}: no run is named; give its folder, or its URL in a store")
        return resumed_settings(words[1], words[2:])
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

    with _joined(settings, layout) as dashboard:
        from cluster.job_card import shown  # imports Ray
        from cluster.storage_probe import probe_storage

        with (
            shown(settings.name, layout, on_status) as followers,
            _engines(settings, layout, followers.tell_waiting) as engines,
        ):
            probe_storage(layout.root, setting="storage" if store is None else "scratch")
            with kept(store, layout):
                return _work(settings, inputs, layout, storage, engines, dashboard, followers.show)


def _work(
    settings: RunSettings, inputs: RunInputs, layout: RunLayout, storage: Path, engines: Engines, dashboard: str,
    show: OnStatus,
) -> Exit:  # fmt: skip
    from cluster.arms import run_comparison
    from cluster.pipeline import run_pipeline

    donors = _donors(settings, storage)
    _look_at_labels(settings, inputs, layout, donors)
    if settings.arms:
        return run_comparison(settings, layout, engines, donors=donors, dashboard_url=dashboard, on_status=show)
    outcome = run_pipeline(
        settings, layout, inputs, engines, donors=donors, dashboard_url=dashboard, started=STARTED, on_status=show
    )
    print(f"{outcome.summary.verdict}\nreport: {layout.report}")
    return outcome.exit_code


def _look_at_labels(settings: RunSettings, inputs: RunInputs, layout: RunLayout, donors: Sequence[RunLayout]) -> None:
    """Before anything is trained: a judge that will be asked answers, and what people wrote too late is said.

    Raises:
        ConfigError, DataError: a judge has no key, or does not answer.
    """
    from cluster.pipeline import stages_of
    from cluster.stages.labelling import reach_judge

    tried: list[JudgeSettings | None] = []
    known = list(donors)
    for one, place in _runs_of(settings, layout):
        asked = one.preferences
        if asked.labels == "people" or (asked.labels == "judge" and asked.judge not in tried):
            stages, manifest = stages_of(one, check_inputs(one) if settings.arms else inputs), Manifest(place.manifest)
            there = complete_labels(stages, manifest)
            taken = (complete_labels(stages, Manifest(each.manifest), of_another=True) for each in known)
            if asked.labels == "people":
                _note_unread(one, place, manifest, [name for name, complete in there.items() if complete])
            elif not any(all(found.values()) for found in (there, *taken)):
                reach_judge(one)
                tried.append(asked.judge)
        known.append(place)


def _note_unread(settings: RunSettings, layout: RunLayout, manifest: Manifest, complete: Sequence[str]) -> None:
    """A stage that is complete does not run, so what it would warn of is put with its own warnings here."""
    from cluster.stages.labelling import not_learned_from

    for name in complete:
        record, labels = manifest[name], layout.preferences(split_name(name)[1]) / "preferences.parquet"
        text = not_learned_from(settings, labels, record.facts)
        facts = {key: value for key, value in record.facts.items() if key != "warnings"}
        if text is not None:
            print(f"warning: {text}", file=sys.stderr, flush=True)
            facts["warnings"] = [text]
        if facts != record.facts:
            manifest.record(replace(record, facts=facts))


def _runs_of(settings: RunSettings, layout: RunLayout) -> Iterator[tuple[RunSettings, RunLayout]]:
    """The run, or in their order all runs of a comparison."""
    if not settings.arms:
        yield settings, layout
    for seed in settings.seeds or (settings.seed,):
        for arm in settings.arms:
            yield arm_settings(settings, arm, seed), layout.arm(arm, seed)


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
    from cluster.groups import say_waiting

    with _joined(settings, layout) as dashboard, _engines(settings, layout, on_wait or say_waiting) as engines:
        yield engines, dashboard


@contextmanager
def _joined(settings: RunSettings, layout: RunLayout) -> Iterator[str]:
    """Part of the cluster, and ready to be stopped; gives the dashboard's address."""
    dashboard = _connect(settings)
    import ray

    stop_on_sigterm(layout.status)
    try:
        yield dashboard
    finally:
        ray.shutdown()


@contextmanager
def _engines(settings: RunSettings, layout: RunLayout, on_wait: OnWait) -> Iterator[Engines]:
    """Engines on nodes that can hold the run, once they have come."""
    from cluster.groups import wait_for_nodes

    wait_for_nodes(settings.resources, on_wait)
    from cluster.engines import Engines  # imports the engines' libraries: a run that cannot be is refused before

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
