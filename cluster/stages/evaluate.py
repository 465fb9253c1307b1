"""Stage `evaluate`: SFT and trained policy answer the same prompts; gold scores, cells, and the certificate."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from actors.crowd.tasks import judge_samples
from actors.judging.cells import evaluate_cells
from actors.judging.samples import iter_samples
from cluster.context import RunContext
from cluster.promptsets import certificate_prompts, evaluation_prompts
from cluster.requests import Sampler
from cluster.stages import ppo, sft
from cluster.stages.base import Stage, StageOutput
from configs.schema.run import RunSettings
from configs.schema.signals import ConstraintSettings
from learner.deadlines import fetch_result
from learner.records import Prompt, SamplingSettings
from learner.statistics.certificate import Certificate, certify

NAME = "evaluate"
SFT, POLICY = "sft", "policy"


def evaluate_stage(settings: RunSettings) -> Stage:
    """The evaluation for these settings."""
    return Stage(
        name=NAME,
        inputs=(sft.NAME, ppo.NAME),
        settings={
            "seed": settings.seed,
            "evaluation": settings.evaluation.model_dump(mode="json"),
            "certificate": settings.certificate.model_dump(mode="json"),
            "constraints": {name: one.model_dump(mode="json") for name, one in settings.constraints.items()},
            "max_response_tokens": settings.ppo.max_response_tokens,
            "dtype": settings.resources.generators.dtype,
        },
        code=(
            "cluster/stages/evaluate.py",
            "cluster/promptsets.py",
            "cluster/requests.py",
            "actors",
            "learner/statistics",
        ),
        run=_run,
        shared=False,
    )


def _run(context: RunContext) -> StageOutput:
    settings = context.settings
    folder = context.layout.evaluation(context.round_number)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = evaluation_prompts(context.world, settings.evaluation, settings.seed + 3)
    own = {
        name: certificate_prompts(
            context.world, n=settings.certificate.samples, seed=settings.seed + 4, subset=one.subset, constraint=name
        )
        for name, one in settings.constraints.items()
    }
    everything = [*prompts, *(prompt for some in own.values() for prompt in some)]
    _answer(context, POLICY, context.layout.policy(context.round_number), everything, folder / "policy.parquet")
    _answer(context, SFT, context.layout.sft, prompts, folder / "sft.parquet")
    certificates = {
        name: _certify(settings, one, folder / "policy.parquet", own[name])
        for name, one in settings.constraints.items()
    }
    samples = _merge(folder, {prompt.prompt_id for some in own.values() for prompt in some})
    evaluation = evaluate_cells(iter_samples(samples), confidence=settings.evaluation.confidence)
    path = folder / "evaluation.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(evaluation, indent=1) + "\n")
    os.replace(partial, path)
    facts = {name: vars(certificate) for name, certificate in certificates.items()}
    return StageOutput((samples, folder / "certificate.parquet", path), {"certificates": facts})


def _answer(context: RunContext, model: str, model_path: Path, prompts: Sequence[Prompt], path: Path) -> None:
    """One model answers every prompt once; its samples are judged and written beside the data."""
    settings = context.settings
    pool = context.engines.rollout_pool(model_path, context.tokenizer_path)
    sampler = Sampler(context.tokenizer_path, settings.seed, f"{NAME}-{model}")
    sampling = SamplingSettings(settings.evaluation.temperature, settings.ppo.max_response_tokens)
    requests = [sampler.request(prompt, f"{model}/{prompt.prompt_id}", sampling) for prompt in prompts]
    chunks = list(dict.fromkeys(row.chunk for row in pool.generate_only(requests).rows))
    call = judge_samples.remote(
        context.world_path, model, list(prompts), str(context.tokenizer_path / "tokenizer.json"), str(path), *chunks
    )
    judged = fetch_result(
        call, deadline_seconds=settings.resources.deadlines.score_seconds, what=f"judge_samples({model})"
    )
    if judged != len(prompts):
        context.warn(
            f"{len(prompts) - judged} of {len(prompts)} answers of {model} could not be drawn; cells have fewer samples"
        )


def _certify(
    settings: RunSettings, constraint: ConstraintSettings, samples: Path, prompts: Sequence[Prompt]
) -> Certificate:
    """Certify the share of unsafe answers by gold label. A constraint on a cost's mean has no gold unit, so its limit is
    checked by the share of unsafe answers too, against `certificate.rate_limit`."""
    wanted = {prompt.prompt_id for prompt in prompts}
    labels = [
        _violates(sample.gold_unsafe, sample.gold_category, constraint)
        for sample in iter_samples(samples)
        if sample.prompt_id in wanted
    ]
    limit = constraint.limit if constraint.measure == "rate" else settings.certificate.rate_limit
    return certify(
        labels,
        limit,
        labels_source="gold",
        confidence=settings.certificate.confidence,
        constraints=len(settings.constraints),
    )


def _violates(unsafe: bool, category: str | None, constraint: ConstraintSettings) -> bool:
    return unsafe and (not constraint.categories or category in constraint.categories)


def _merge(folder: Path, certificate_ids: set[str]) -> Path:
    """``samples.parquet`` of both models, and the certificate's samples apart in ``certificate.parquet``."""
    target, apart = folder / "samples.parquet", folder / "certificate.parquet"
    tables = {model: pq.read_table(folder / f"{model}.parquet") for model in (SFT, POLICY)}
    schema = tables[SFT].schema
    with (
        pq.ParquetWriter(f"{target}.partial", schema) as all_samples,
        pq.ParquetWriter(f"{apart}.partial", schema) as own,
    ):
        for table in tables.values():
            mask = [row in certificate_ids for row in table["prompt_id"].to_pylist()]
            own.write_table(table.filter(mask))
            all_samples.write_table(table.filter([not kept for kept in mask]))
    for path in (target, apart):
        os.replace(f"{path}.partial", path)
    for model in tables:
        (folder / f"{model}.parquet").unlink()
    return target
