"""One run from start to report: its stages in order, then the summary, the report and the exit code."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.inputs.sandbox_prompts import Splits
from cluster.inputs.sources import FileInputs, RunInputs
from cluster.observability.telemetry.live import shown_to, telemetry_of
from cluster.resources.engines import Engines
from cluster.resources.placement_groups import OnWait, say_waiting
from cluster.run_folder.manifest import Manifest
from cluster.run_folder.round_names import split_name
from cluster.run_folder.status import OnStatus, StatusWriter
from cluster.runs.context import RunContext
from cluster.runs.rounds.plan import later_rounds
from cluster.runs.rounds.record import round_record, write_rounds
from cluster.runs.stages import baseline, direct, evaluate, ppo, preferences, score_models, selection, sft
from cluster.runs.stages.base import Stage, run_stages, with_code_of_inputs
from cluster.runs.stages.on_data import certify, data
from cluster.runs.stages.on_data import evaluate as scored_evaluate
from cluster.runs.stages.on_data import selection as scored_selection
from cluster.runs.summary import summarise, versions
from configs.exits import Exit, request_to_stop
from configs.layout import RunLayout
from configs.load import dump_settings
from configs.schema.run import DIRECT_ALGORITHMS, LOOP_ALGORITHMS, RunSettings
from serving.report import write_report
from serving.summary import Summary, write_summary


@dataclass(frozen=True)
class RunOutcome:
    """How a finished run ended."""

    summary: Summary
    exit_code: Exit


def stages_of(settings: RunSettings, inputs: RunInputs) -> list[Stage]:
    """Every stage of a run with these settings, in order; of later rounds under ``round-<r>/…``."""
    later = later_rounds(settings)
    return with_code_of_inputs(
        [*_first_round(settings, inputs), *(stage for stages in later.values() for stage in stages)]
    )


def _first_round(settings: RunSettings, inputs: RunInputs) -> list[Stage]:
    if isinstance(inputs, FileInputs):
        return [
            data.data_stage(settings, inputs),
            sft.sft_on_data_stage(settings),
            *score_models.stages(settings),
            ppo.ppo_stage(settings),
            scored_selection.scored_selection_stage(settings),
            scored_evaluate.scored_evaluate_stage(settings),
            *(certify.certify_stages(settings) if settings.rounds.count == 1 else []),
        ]
    learning: list[Callable[[RunSettings], Stage]] = []
    if settings.algorithm in LOOP_ALGORITHMS:
        learning = [ppo.ppo_stage, selection.selection_stage]
    elif settings.algorithm in DIRECT_ALGORITHMS:
        learning = [direct.direct_stage]
    return [
        sft.sft_stage(settings, inputs.digest()),
        preferences.pairs_stage(settings),
        preferences.preferences_stage(settings),
        baseline.baseline_stage(settings),
        *score_models.stages(settings),
        *(make(settings) for make in learning),
        evaluate.evaluate_stage(settings),
    ]


def run_pipeline(
    settings: RunSettings,
    layout: RunLayout,
    inputs: RunInputs,
    engines: Engines,
    *,
    donors: Sequence[RunLayout] = (),
    dashboard_url: str = "",
    started: float | None = None,
    on_status: OnStatus | None = None,
) -> RunOutcome:
    """Bring one run to its end, from wherever an earlier attempt left it.

    Args:
        donors: runs whose shared stages may be taken over.
        on_status: is shown every change of the run's status.
        started: when the job began (monotonic clock), for the total time; none means now.
    """
    started = time.monotonic() if started is None else started
    stages = stages_of(settings, inputs)
    with _attempt(settings, layout, inputs, engines, stages, donors, dashboard_url, on_status) as context:
        records = _go_through(context, stages)
        last = context.in_round(settings.rounds.count)
        summary = summarise(last, stages, time.monotonic() - started, records)
        write_summary(summary, layout.summary)
        write_report(layout.root)
        context.status.finish("finished", summary.verdict)
    shutil.rmtree(layout.checkpoints, ignore_errors=True)
    return RunOutcome(summary, Exit.DONE if summary.meets_limits else Exit.INFEASIBLE)


def run_until(
    last: str,
    settings: RunSettings,
    layout: RunLayout,
    inputs: RunInputs,
    engines: Engines,
    *,
    donors: Sequence[RunLayout] = (),
    on_status: OnStatus | None = None,
) -> None:
    """Bring a run to the end of its stage `last` and no further: no summary, no report; `run_pipeline` goes on from there."""
    stages = stages_of(settings, inputs)
    until_last = stages[: [stage.name for stage in stages].index(last) + 1]
    with _attempt(settings, layout, inputs, engines, until_last, donors, "", on_status) as context:
        run_stages(until_last, context)
        context.status.finish("finished", f"stopped after {last}, as asked")


@contextmanager
def _attempt(
    settings: RunSettings,
    layout: RunLayout,
    inputs: RunInputs,
    engines: Engines,
    stages: Sequence[Stage],
    donors: Sequence[RunLayout],
    dashboard_url: str,
    on_status: OnStatus | None,
) -> Iterator[RunContext]:
    """Folder, manifest, status and log of one attempt; however the block fails, the status says so."""
    layout.root.mkdir(parents=True, exist_ok=True)
    attempt = layout.attempts() + 1
    layout.logs(attempt).mkdir(parents=True, exist_ok=True)
    layout.config.write_text(dump_settings(settings), encoding="utf-8")
    manifest = Manifest(layout.manifest)
    manifest.header = {"run": settings.name, "seed": settings.seed, "versions": versions(), **_origin(settings, inputs)}
    telemetry = telemetry_of(settings, layout, engines)
    status = StatusWriter(
        layout.status,
        run=settings.name,
        stages=[stage.name for stage in stages],
        dashboard_url=dashboard_url,
        attempt=attempt,
        on_change=shown_to(on_status, telemetry.status),
    )
    log = _log_to(layout.logs(attempt) / "driver.log")
    context = RunContext(settings, layout, manifest, inputs, status, engines, tuple(donors), telemetry=telemetry)
    try:
        engines.tell_waiting(_in_status(status))
        telemetry.open(context.warn)
        yield context
    except BaseException as error:
        telemetry.failed(error)
        stop_request = request_to_stop(error)
        status.finish("failed" if stop_request is None else "stopped", one_line(stop_request or error))
        raise
    finally:
        engines.tell_waiting()
        telemetry.close()
        logging.getLogger().removeHandler(log)
        log.close()


def _in_status(status: StatusWriter) -> OnWait:
    """Shows what a run waits for to those who follow it."""

    def tell(waits_for: str) -> None:
        say_waiting(waits_for)
        status.update(message=waits_for)

    return tell


def _go_through(context: RunContext, stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Every stage, round by round; returns the record of each round, none where there is one round only.

    rounds.json holds what is finished: its rounds beyond the present one are of settings that may no longer hold.
    """
    count = context.settings.rounds.count
    if count == 1:
        context.layout.rounds.unlink(missing_ok=True)
        run_stages(stages, context)
        return []
    records: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        write_rounds(context, records)
        run_stages([stage for stage in stages if split_name(stage.name)[1] == number], context)
        records.append(round_record(context.in_round(number)))
        write_rounds(context, records)
        if number < count:
            write_report(context.layout.root)
    return records


def _origin(settings: RunSettings, inputs: RunInputs) -> dict[str, Any]:
    """What the manifest says of world or data, and of who may see which part of it."""
    if isinstance(inputs, FileInputs):
        shares = data.shares_of(settings)
        splits = {"by": shares.by, "disjoint": True, "shares": shares.kept}  # the purpose is a hash of the prompt
        return {"data": inputs.digest(), "sources": [source.place for source in inputs.all_sources], "splits": splits}
    return {"world": inputs.digest(), "splits": Splits(inputs, settings.splits).document()}


def _log_to(path: Path) -> logging.Handler:
    """Keep what this process logs, with times, next to the run."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    return handler


def one_line(error: BaseException) -> str:
    """What to tell those who follow the run."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
