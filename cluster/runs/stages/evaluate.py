"""Stage `evaluate`: the trained policy answers what SFT was asked; gold scores, cells, and the certificate."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from actors.crowd.hindsight import judge_rollouts, tasks_of
from actors.judging.by_gold.figures import evaluate_cells
from actors.judging.by_gold.samples import EvaluatedSample, iter_samples
from cluster.inputs.sandbox_prompts import CERTIFICATE, evaluation_prompts, judged_prompts
from cluster.runs.answers.judge_by_gold import is_unsafe, judge_answers, rate_limit_of, with_missing
from cluster.runs.context import RunContext
from cluster.runs.loop.ppo_loop import prompts_of
from cluster.runs.round_inputs import named
from cluster.runs.signals import calibration_of
from cluster.runs.stages import baseline, direct, score_models, selection, sft
from cluster.runs.stages.base import DRAWING, SCORING, Stage, StageOutput, entry_of, link_tree
from cluster.runs.stages.selection import load_scorers
from configs.schema.run import DIRECT_ALGORITHMS, LOOP_ALGORITHMS, RunSettings
from learner.deadlines import fetch_result
from learner.statistics.certificate import Certificate, certify

NAME = baseline.DRAWN_AS
SFT, POLICY, CERTIFIED = baseline.MODEL, "policy", "policy"


def evaluate_stage(settings: RunSettings) -> Stage:
    """The evaluation for these settings."""
    return Stage(
        name=NAME,
        inputs=_inputs(settings),
        settings={
            "seed": settings.seed,
            "algorithm": settings.algorithm,
            "splits": settings.splits.model_dump(mode="json"),
            "best_of_k": settings.best_of_k.model_dump(mode="json") if settings.algorithm == "best_of_k" else None,
            "crowd": settings.preferences.crowd.model_dump(mode="json"),
            "evaluation": settings.evaluation.model_dump(mode="json"),
            "certificate": settings.certificate.model_dump(mode="json"),
            "constraints": {
                name: constraint.model_dump(mode="json") for name, constraint in settings.constraints.items()
            },
            "max_response_tokens": settings.ppo.max_response_tokens,
            "dtype": settings.resources.generators.dtype,
        },
        code=(entry_of(_run), *DRAWING, *SCORING),
        run=_run,
        shared=False,
    )


def _inputs(settings: RunSettings) -> tuple[str, ...]:
    """What the answers come from: the promoted policy, the direct one, or SFT with the models that choose."""
    if settings.algorithm in DIRECT_ALGORITHMS:
        return (baseline.NAME, direct.NAME, *(stage.name for stage in score_models.stages(settings)))
    if settings.algorithm in LOOP_ALGORITHMS:
        return (baseline.NAME, selection.NAME)
    return (sft.NAME, baseline.NAME, *(stage.name for stage in score_models.stages(settings)))


def _run(context: RunContext) -> StageOutput:
    settings = context.settings
    folder = context.layout.evaluation(context.round_number)
    folder.mkdir(parents=True, exist_ok=True)
    if context.round_number > 1:  # every round is asked the same cells, so SFT's answers are the first round's
        link_tree(context.layout.evaluation(1) / f"{SFT}.parquet", folder / f"{SFT}.parquet")
    cells = evaluation_prompts(context.world, settings.evaluation, context.run_settings.seed + 3)
    policy = context.layout.sft if settings.algorithm == "best_of_k" else context.layout.policy(context.round_number)
    if settings.algorithm in DIRECT_ALGORITHMS and settings.certificate.labelled is not None:
        load_scorers(context)  # after a loop they are there, and best-of-k brings its own
    judge_answers(context, POLICY, policy, cells, folder / "policy.parquet", stage=NAME)
    certificates = _certify_all(context, policy, folder / "certificate.parquet")
    samples = _merge(folder)
    evaluation = evaluate_cells(iter_samples(samples), confidence=settings.evaluation.confidence)
    path = folder / "evaluation.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(evaluation, indent=1) + "\n")
    os.replace(partial, path)
    outputs = [samples, path, *([folder / "certificate.parquet"] if settings.constraints else [])]
    if settings.algorithm in LOOP_ALGORITHMS:
        outputs.append(_hindsight(context, folder / "training_gold.json"))
    return StageOutput(
        tuple(outputs), {"certificates": {name: asdict(certificate) for name, certificate in certificates.items()}}
    )


def _certify_all(context: RunContext, policy: Path, path: Path) -> dict[str, Certificate]:
    """Judge the promoted policy on the certificate split, constraint by constraint, and keep the samples."""
    settings = context.settings
    prompts = {
        name: named(
            judged_prompts(
                context.splits,
                CERTIFICATE,
                n=settings.certificate.samples,
                seed=settings.seed + 4,
                prefix=f"certificate-{name}",
                subset=constraint.subset,
            ),
            context.round_number,
        )
        for name, constraint in settings.constraints.items()
    }
    if not prompts:
        return {}
    samples = {
        sample.prompt_id: sample
        for sample in judge_answers(
            context,
            CERTIFIED,
            policy,
            [prompt for constraint_prompts in prompts.values() for prompt in constraint_prompts],
            path,
            stage=NAME,
            scored=settings.certificate.labelled is not None,
            crowd=settings.certificate.labels == "crowd",
        )
    }
    return {
        name: _certify(
            context,
            name,
            [samples[prompt.prompt_id] for prompt in constraint_prompts if prompt.prompt_id in samples],
            len(constraint_prompts),
        )
        for name, constraint_prompts in prompts.items()
    }


def _certify(context: RunContext, name: str, samples: Sequence[EvaluatedSample], expected: int) -> Certificate:
    """Certify the share of unsafe answers by labels; of those beyond `certificate.labelled` only the cost is looked at.

    Of `expected` answers those that are missing count as unsafe.
    """
    settings, constraint = context.settings, context.settings.constraints[name]
    options = settings.certificate
    labels = [is_unsafe(sample, constraint, options.labels) for sample in samples[: options.labelled]]
    predictions: list[float] | None = None
    if options.labelled is not None:
        calibration = calibration_of(context, name)
        if calibration is None:
            context.warn(
                f"certificate of {name}: its cost model has no calibration, so only the labelled answers count"
            )
        else:
            predictions = calibration.platt.probability([sample.costs[name] for sample in samples]).tolist()
            predictions = [1.0] * (expected - len(samples)) + predictions
    return certify(
        with_missing(labels, expected, len(samples)),
        rate_limit_of(settings, constraint),
        labels_source=options.labels,
        confidence=options.confidence,
        constraints=len(settings.constraints),
        predictions=predictions,
    )


def _merge(folder: Path) -> Path:
    """``samples.parquet``: the cells' answers of both models."""
    target = folder / "samples.parquet"
    tables = [pq.read_table(folder / f"{model}.parquet") for model in (SFT, POLICY)]
    with pq.ParquetWriter(f"{target}.partial", tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    os.replace(f"{target}.partial", target)
    (folder / f"{POLICY}.parquet").unlink()
    return target


def _hindsight(context: RunContext, path: Path) -> Path:
    """What the true scorer says of every sample that was learned from, step by step."""
    settings = context.settings
    call = judge_rollouts.remote(
        context.world_path,
        str(context.layout.rollouts_of(context.round_number)),
        tasks_of(prompts_of(context)),
        str(context.tokenizer_path / "tokenizer.json"),
        str(path),
        {name: list(constraint.categories) for name, constraint in settings.constraints.items()},
    )
    fetch_result(call, deadline_seconds=settings.resources.deadlines.score_seconds, operation="judge_rollouts")
    return path
