"""Stage `evaluate` of a run on data: SFT and the promoted policy answer the same prompts, and the run's models judge them.

Nothing is certified: there are no labels of these answers, and the models that judge are the ones that were optimised.
Answered are the prompts kept for the last judgement, and every set of `data.evaluation`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.judging.by_models.answers import KEPT, POLICY, SFT, read_answers
from actors.judging.by_models.figures import evaluate_scored
from actors.judging.by_models.limits import Limit
from cluster.inputs.file_prompts import read_prompts
from cluster.runs.answers.judge_by_models import book_of, limits_of, rewarded, score_answers
from cluster.runs.context import RunContext
from cluster.runs.stages import score_models, selection, sft
from cluster.runs.stages.base import DRAWING, SCORING, Stage, StageOutput, entry_of
from cluster.runs.stages.on_data import data
from cluster.runs.stages.on_data.selection import promoted
from cluster.runs.stages.selection import load_scorers
from configs.schema.run import RunSettings
from learner.data.splits import CERTIFICATE
from learner.records import Prompt

NAME = "evaluate"
COST_MODEL, SCORER = "cost model", "scorer"


def scored_evaluate_stage(settings: RunSettings) -> Stage:
    """The evaluation for these settings."""
    assert settings.data is not None
    models = [stage.name for stage in score_models.stages(settings)]
    return Stage(
        name=NAME,
        inputs=(data.NAME, sft.NAME, *models, selection.NAME),
        settings={
            "seed": settings.seed,
            "sets": sorted(settings.data.evaluation),
            "evaluation": settings.evaluation.model_dump(mode="json"),
            "samples": settings.certificate.samples,
            "objective": settings.objective.model_dump(mode="json"),
            "constraints": {
                name: constraint.model_dump(mode="json") for name, constraint in settings.constraints.items()
            },
            "max_length": settings.model.max_length,
            "max_response_tokens": settings.ppo.max_response_tokens,
            "dtype": settings.resources.generators.dtype,
        },
        code=(entry_of(_run), *DRAWING, *SCORING),
        run=_run,
        shared=False,
    )


def _run(context: RunContext) -> StageOutput:
    settings, layout = context.settings, context.layout
    folder = layout.evaluation(context.round_number)
    sets, limits = evaluation_sets(context), limits_of(context)
    load_scorers(context, watched=True)
    parts = []
    for model, path in ((SFT, layout.sft), (POLICY, layout.policy(context.round_number))):
        parts.append(folder / f"{model}.parquet")
        score_answers(context, model, path, sets, parts[-1], stage=NAME)
    samples = _merge(parts, folder / "samples.parquet")
    document = evaluate_scored(
        read_answers(samples),
        limits,
        reward=rewarded(context),
        test=settings.halves.enabled,
        confidence=settings.evaluation.confidence,
    )
    document["constraints"] = {limit.name: _about(context, limit) for limit in limits}
    document["promoted"] = promoted(context.facts(selection.NAME))
    path = folder / "evaluation.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)
    return StageOutput((samples, path), {"feasible": document["promoted"]["feasible"]})


def evaluation_sets(context: RunContext) -> dict[str, list[Prompt]]:
    """The prompts by set: those kept for the last judgement, and each of `data.evaluation`, the same in every round."""
    settings = context.settings
    assert settings.data is not None
    certificate_prompts = book_of(context).judged(
        CERTIFICATE, n=settings.certificate.samples, seed=settings.seed + 4, prefix=KEPT
    )
    n = settings.evaluation.samples_per_cell
    return {KEPT: certificate_prompts} | {
        name: read_prompts(data.evaluation_file(context, name), n=n, seed=context.run_settings.seed + 3, prefix=name)
        for name in settings.data.evaluation
    }


def _about(context: RunContext, limit: Limit) -> dict[str, Any]:
    """What a reader must know of a constraint's cost: who gives it, and whether safety labels stand behind its zero."""
    constraint = context.settings.constraints[limit.name]
    if constraint.scorer is not None:
        return {**limit.document(), "judge": SCORER, "safety_labels": False, "zero": None}
    labels = score_models.labels_facts(context)["harm-labels"].get(limit.name, {})
    zero = context.facts(score_models.cost_stage_name(limit.name)).get("zero")
    signed = int(labels.get("signed", 0)) > 0
    return {**limit.document(), "judge": COST_MODEL, "safety_labels": signed, "zero": zero}


def _merge(parts: list[Path], target: Path) -> Path:
    """``samples.parquet``: the answers of both models; it replaces theirs."""
    partial = target.with_name(target.name + ".partial")
    pq.write_table(pa.concat_tables([pq.read_table(path) for path in parts]), partial, compression="zstd")
    os.replace(partial, target)
    for path in parts:
        path.unlink()
    return target
