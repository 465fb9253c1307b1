"""What `ray job submit` runs: ``python -m cluster.job CONFIG [key=value …]``.

Ends with the exit code of configs/exits.py; an error meant for the user is one line on stderr. Storage is the
configuration's `storage`, else ``STEELYARD_STORAGE`` (set by the submitter): an absolute folder, or a store's URL.
With ``--from-environment`` instead of CONFIG, the configuration is the text in ``STEELYARD_CONFIG``; with ``--resume FOLDER``
(or a URL in a store) it is the one that the run there was resolved to, and the storage is where that run is.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.inputs.sources import RunInputs, check_inputs
from cluster.jobs.resume import resumed_settings
from cluster.resources import auth
from cluster.resources.connection import engines_when_placed, joined
from cluster.run_folder.manifest import Manifest
from cluster.run_folder.round_names import split_name, stage_name
from cluster.run_folder.status import OnStatus
from cluster.runs.stages.complete_labels import complete_labels
from configs.exits import ConfigError, Exit, SteelyardError, request_to_stop
from configs.layout import RunLayout
from configs.load import arm_settings, load_settings
from configs.schema.labels import JudgeSettings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.resources.engines import Engines
    from cluster.run_folder.remote_store import RunStore

STORAGE_VARIABLE = "STEELYARD_STORAGE"
CONFIG_VARIABLE = "STEELYARD_CONFIG"
FROM_ENVIRONMENT = "--from-environment"
RESUME = "--resume"
STARTED = time.monotonic()
"""When this process began to be a job."""


def main(arguments: Sequence[str] | None = None, on_status: OnStatus | None = None) -> int:
    """Run one configuration to its end; returns the exit code.

    Args:
        on_status: is shown every change of the run's status, by a command that runs the job in its own process.
    """
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    dry_run = "--dry-run" in command_line
    command_line = [argument for argument in command_line if argument != "--dry-run"]
    if not command_line or command_line[0] in ("-h", "--help"):
        print(f"usage: python -m cluster.job CONFIG|{FROM_ENVIRONMENT}|{RESUME} FOLDER [key=value ...] [--dry-run]")
        return Exit.DONE if command_line else Exit.USAGE
    try:
        settings = _settings(command_line)
        inputs = check_inputs(settings)
        if dry_run:
            print(
                f"{command_line[0]}: valid; run '{settings.name}', {len(settings.constraints)} constraint(s), seed {settings.seed}"
            )
            return Exit.DONE
        return int(_run(settings, inputs, on_status))
    except (SteelyardError, SystemError) as error:
        reason = request_to_stop(error) or error
        if not isinstance(reason, SteelyardError):
            raise
        print(f"error: {reason}", file=sys.stderr)
        return int(reason.exit_code)


def _settings(command_line: Sequence[str]) -> RunSettings:
    if command_line[0] == RESUME:
        if len(command_line) < 2:
            raise ConfigError(f"{RESUME}: no run is named; give its folder, or its URL in a store")
        return resumed_settings(command_line[1], command_line[2:])
    if command_line[0] != FROM_ENVIRONMENT:
        return load_settings(command_line[0], command_line[1:])
    text = os.environ.get(CONFIG_VARIABLE)
    if not text:
        raise ConfigError(f"{FROM_ENVIRONMENT}: {CONFIG_VARIABLE} is empty; submit with `steelyard submit --image`")
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        path = Path(folder) / "submitted.yaml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path, command_line[1:])


def _run(settings: RunSettings, inputs: RunInputs, on_status: OnStatus | None) -> Exit:
    auth.follow_cluster()  # before Ray is imported
    from cluster.run_folder.remote_store import kept

    storage, store = _storage(settings)
    layout = RunLayout(storage / settings.name)

    with joined(settings, layout) as dashboard:
        from cluster.jobs.job_metadata import shown  # imports Ray
        from cluster.run_folder.storage_probe import probe_storage

        with (
            shown(settings.name, layout, on_status) as followers,
            engines_when_placed(settings, layout, followers.tell_waiting) as engines,
        ):
            probe_storage(layout.root, setting="storage" if store is None else "scratch")
            with kept(store, layout):
                return _work(settings, inputs, layout, storage, engines, dashboard, followers.show)


def _work(
    settings: RunSettings,
    inputs: RunInputs,
    layout: RunLayout,
    storage: Path,
    engines: Engines,
    dashboard: str,
    show: OnStatus,
) -> Exit:
    from cluster.experiments.arms import run_comparison
    from cluster.runs.pipeline import run_pipeline

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
    from cluster.runs.pipeline import stages_of
    from cluster.runs.stages.labelling import reach_judge
    from cluster.runs.stages.on_data.certify import NAME as CERTIFY
    from cluster.runs.stages.on_data.certify import reach_certificate_judge

    reached_judges: list[JudgeSettings | None] = []
    earlier_runs = list(donors)
    for variant, place in _runs_of(settings, layout):
        preferences = variant.preferences
        if preferences.labels == "people" or (
            preferences.labels == "judge" and preferences.judge not in reached_judges
        ):
            stages, manifest = (
                stages_of(variant, check_inputs(variant) if settings.arms else inputs),
                Manifest(place.manifest),
            )
            own_labels = complete_labels(stages, manifest)
            donor_labels = (
                complete_labels(stages, Manifest(donor.manifest), of_another=True) for donor in earlier_runs
            )
            if preferences.labels == "people":
                _note_unread(variant, place, manifest, [name for name, complete in own_labels.items() if complete])
            elif not any(all(labels.values()) for labels in (own_labels, *donor_labels)):
                reach_judge(variant)
                reached_judges.append(preferences.judge)
        if stage_name(CERTIFY, variant.rounds.count) not in Manifest(place.manifest):
            reach_certificate_judge(variant)
        earlier_runs.append(place)


def _note_unread(settings: RunSettings, layout: RunLayout, manifest: Manifest, complete: Sequence[str]) -> None:
    """A stage that is complete does not run, so what it would warn of is put with its own warnings here."""
    from cluster.runs.stages.labelling import not_learned_from

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


def _donors(settings: RunSettings, storage: Path) -> list[RunLayout]:
    return [RunLayout(storage / name) for name in settings.reuse_from]


def _storage(settings: RunSettings) -> tuple[Path, RunStore | None]:
    """The folder that run folders are worked on in, and the store that this run is kept in, if it is kept in one.

    Raises:
        ConfigError: it is not set, the folder is relative (a job runs in Ray's copy of the working directory), or the URL
            names no store.
    """
    place = settings.storage or os.environ.get(STORAGE_VARIABLE)
    if not place:
        raise ConfigError(f"storage: no folder for the run; set {STORAGE_VARIABLE} or storage=/an/absolute/path")
    if "://" in str(place):
        from cluster.run_folder.remote_store import RunStore, working_folder

        folder = working_folder(str(place), settings.scratch)
        return folder, RunStore(str(place), settings.name)
    if not Path(place).is_absolute():
        raise ConfigError(
            f"storage: '{place}' is relative, and a job runs in Ray's copy of the working directory; make it absolute"
        )
    return Path(place), None


if __name__ == "__main__":
    raise SystemExit(main())
