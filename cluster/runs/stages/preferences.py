"""Stages `pairs` and `preferences`: two responses per prompt from the current policy, then somebody's labels.

They are two stages so that arms with different labels share the same pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.crowd.rounds import join_pairs, join_training
from actors.crowd.tasks import Provenance, pair_request_id, write_pairs
from actors.training_sets.later_rounds import RoundSets, write_round_sets
from cluster.inputs.sampler import Sampler
from cluster.inputs.sandbox_prompts import labelled_prompts
from cluster.run_folder.digests import model_digest
from cluster.runs.context import RunContext
from cluster.runs.round_inputs import pair_sources, with_finds
from cluster.runs.signals import trains_reward
from cluster.runs.stages import sft
from cluster.runs.stages.base import DRAWING, Stage, StageOutput, entry_of
from cluster.runs.stages.labelling import label, labeller
from cluster.runs.stages.on_data import data
from configs.schema.run import RunSettings
from learner.deadlines import fetch_result
from learner.records import GenerationRequest, Prompt, SamplingSettings

PAIRS, NAME = "pairs", "preferences"


def pairs_stage(settings: RunSettings) -> Stage:
    """Sampling of pairs for these settings."""
    return Stage(
        name=PAIRS,
        inputs=(sft.NAME,) if settings.data is None else (data.NAME, sft.NAME),
        settings={
            "seed": settings.seed,
            "preferences": settings.preferences.model_dump(
                mode="json", exclude={"labels", "crowd", "judge", "people", "tampering"}
            ),
            "splits": settings.splits.model_dump(mode="json"),
            "max_response_tokens": settings.ppo.max_response_tokens,
            "deterministic": settings.deterministic,
            "dtype": settings.resources.generators.dtype,
        },
        code=(entry_of(_sample), *DRAWING),
        run=_sample,
    )


def preferences_stage(settings: RunSettings) -> Stage:
    """Labelling of the pairs for these settings."""
    return Stage(
        name=NAME,
        inputs=(PAIRS,) if settings.data is None else (data.NAME, PAIRS),
        settings={"seed": settings.seed, **labeller(settings), **_sets_of(settings)},
        code=(entry_of(_label),),
        run=_label,
    )


def labelled_by(context: RunContext) -> str:
    """Who labelled the pairs of this round: crowd, people, a judge's name, or on data the files of the first round."""
    if context.settings.data is not None and context.round_number == 1:
        return "files"
    return str(context.facts(NAME).get("labelled_by", "crowd"))


def _sample(context: RunContext) -> StageOutput:
    settings = context.settings
    prompts = _prompts(context)
    path = context.layout.preferences(context.round_number) / "pairs.parquet"
    if context.round_number == 1:
        return StageOutput((path,), {"pairs": _sample_from(context, context.layout.sft, prompts, path)})
    sources = pair_sources(context, with_finds(context, prompts, "pair"))
    parts = [path.with_name(f"pairs-{source.name}.parquet") for source in sources]
    for source, part in zip(sources, parts, strict=True):
        _sample_from(context, source.folder, source.prompts, part)
    call = join_pairs.remote([str(part) for part in parts], str(path))
    written = fetch_result(call, deadline_seconds=settings.resources.deadlines.score_seconds, operation="join_pairs")
    return StageOutput((path,), {"pairs": written})


def _prompts(context: RunContext) -> list[Prompt]:
    """What is asked twice: of the world, or of the files' prompts."""
    preferences, seed = context.settings.preferences, context.settings.seed + 1
    if context.book is not None:
        return context.book.labelled(n=preferences.pairs, seed=seed, weights=preferences.kind_weights)
    return labelled_prompts(context.splits, n=preferences.pairs, seed=seed, kind_weights=preferences.kind_weights)


def _sample_from(context: RunContext, folder: Path, prompts: Sequence[Prompt], path: Path) -> int:
    """Have one policy answer every prompt twice; returns how many pairs were written."""
    settings = context.settings
    preferences = settings.preferences
    pool = context.engines.rollout_pool(folder, context.tokenizer_path)
    sampler = context.sampler(PAIRS)
    requests = [request for prompt in prompts for request in _pair(prompt, sampler, context)]
    chunks = list(dict.fromkeys(row.chunk for row in pool.generate_only(requests).rows))
    provenance = Provenance(
        model_digest=model_digest(folder),
        temperatures=preferences.temperatures,
        max_response_tokens=settings.ppo.max_response_tokens,
        sampling_seed=settings.seed,
        weight_version=context.engines.weight_version,
    )
    call = write_pairs.remote(
        list(prompts), str(context.tokenizer_path / "tokenizer.json"), str(path), provenance, *chunks
    )
    written: int = fetch_result(
        call, deadline_seconds=settings.resources.deadlines.score_seconds, operation="write_pairs"
    )
    return written


def _pair(prompt: Prompt, sampler: Sampler, context: RunContext) -> list[GenerationRequest]:
    temperatures = context.settings.preferences.temperatures
    return [
        sampler.request(
            prompt,
            pair_request_id(prompt.prompt_id, side),
            SamplingSettings(temperatures[side % len(temperatures)], context.settings.ppo.max_response_tokens),
        )
        for side in (0, 1)
    ]


def _label(context: RunContext) -> StageOutput:
    folder = context.layout.preferences(context.round_number)
    pairs, path = folder / "pairs.parquet", folder / "preferences.parquet"
    facts = label(context, pairs, path)
    if context.round_number == 1:
        return StageOutput((path,), facts)
    if context.settings.data is not None:
        return _with_files(context, path, facts)
    return _with_earlier(context, path, facts)


def _with_earlier(context: RunContext, path: Path, facts: dict[str, Any]) -> StageOutput:
    """Next to this round's labels, everything that its score models learn from: those of all rounds so far."""
    layout, number = context.layout, context.round_number
    earlier = [str(layout.preferences(earlier_round) / "preferences.parquet") for earlier_round in range(1, number)]
    joined = layout.training_pairs(number)
    call = join_training.remote(earlier, str(path), str(joined))
    counts = fetch_result(
        call, deadline_seconds=context.settings.resources.deadlines.score_seconds, operation="join_training"
    )
    return StageOutput((path, joined), {**facts, **counts})


def _sets_of(settings: RunSettings) -> dict[str, Any]:
    """On data: what else decides the training sets that this stage makes."""
    if settings.data is None:
        return {}
    return {
        "unit": settings.data.unit,
        "categories": {name: list(constraint.categories) for name, constraint in settings.constraints.items()},
    }


def _with_files(context: RunContext, path: Path, facts: dict[str, Any]) -> StageOutput:
    """On data: this round's training sets, of the files and of all labels so far."""
    settings, layout, number = context.settings, context.layout, context.round_number
    assert settings.data is not None
    request = RoundSets(
        files=layout.data,
        earlier=tuple(layout.preferences(earlier_round) / "preferences.parquet" for earlier_round in range(2, number)),
        current=path,
        target=layout.data_of(number),
        by=settings.data.unit,
        reward=trains_reward(settings),
        costs={
            name: constraint.categories
            for name, constraint in settings.constraints.items()
            if constraint.scorer is None
        },
    )
    counts = fetch_result(
        write_round_sets.remote(request),
        deadline_seconds=settings.resources.deadlines.train_seconds,
        operation="write_round_sets",
    )
    training_sets = [request.target / f"{name}.parquet" for name in counts["sets"]]
    return StageOutput((path, *training_sets), {**facts, **counts})
