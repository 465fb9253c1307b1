"""Stage `sft`: the tokenizer, the demonstrations, and the supervised policy that everything starts from."""

from __future__ import annotations

from actors.crowd.datasets import write_demonstrations
from actors.crowd.vocabulary import world_words
from cluster.runs.context import RunContext
from cluster.runs.stages.base import TRAINING, Stage, StageOutput, entry_of
from cluster.runs.stages.on_data import data
from configs.schema.run import RunSettings
from learner.data.tokenizer import build_tokenizer
from learner.deadlines import fetch_result
from learner.models.modules import new_policy, save_model
from learner.supervised.sft import SftTask

NAME = "sft"
CODE = (*TRAINING, "learner.supervised.sft:train_sft")


def sft_stage(settings: RunSettings, world_digest: str) -> Stage:
    """The stage for these settings."""
    return Stage(
        name=NAME,
        inputs=(),
        settings={
            "world": world_digest,
            "seed": settings.seed,
            "model": settings.model.model_dump(mode="json"),
            "sft": settings.sft.model_dump(mode="json"),
            "workers": settings.resources.supervised.workers,
            "deterministic": settings.deterministic,
        },
        code=(entry_of(_run), *CODE),
        run=_run,
    )


def sft_on_data_stage(settings: RunSettings) -> Stage:
    """SFT on the demonstrations that stage `data` wrote; without any, the model as it was given."""
    return Stage(
        name=NAME,
        inputs=(data.NAME,),
        settings={
            "seed": settings.seed,
            "sft": settings.sft.model_dump(mode="json"),
            "workers": settings.resources.supervised.workers,
            "deterministic": settings.deterministic,
        },
        code=(entry_of(_run_on_data), *CODE),
        run=_run_on_data,
    )


def _run_on_data(context: RunContext) -> StageOutput:
    settings, layout = context.settings, context.layout
    if not context.files.demonstrations:
        return StageOutput((data.copy_unlearnt(context),), {"examples": 0})
    path, start = layout.data / data.DEMONSTRATIONS, layout.data / data.INITIAL
    task = SftTask(name=NAME, data=path, model=start, output=layout.sft, settings=settings.sft, seed=settings.seed)
    metrics = context.engines.train(task, context.status)
    return StageOutput(
        (layout.sft,), {"examples": context.facts(data.NAME)["sets"]["demonstrations"]["written"], **metrics}
    )


def _run(context: RunContext) -> StageOutput:
    settings, layout = context.settings, context.layout
    context.engines.start_supervised()
    tokenizer = build_tokenizer(world_words(context.world), settings.model.max_length)
    tokenizer.save_pretrained(str(context.tokenizer_path))
    start = layout.data / data.INITIAL
    save_model(new_policy(settings.model, tokenizer, settings.seed), tokenizer, start)
    path = layout.data / data.DEMONSTRATIONS
    examples = fetch_result(
        write_demonstrations.remote(
            context.world_path,
            str(context.tokenizer_path),
            str(path),
            n=settings.sft.steps * settings.sft.batch_size,
            seed=settings.seed,
        ),
        deadline_seconds=settings.resources.deadlines.train_seconds,
        operation="write_demonstrations",
    )
    task = SftTask(name=NAME, data=path, model=start, output=layout.sft, settings=settings.sft, seed=settings.seed)
    metrics = context.engines.train(task, context.status)
    return StageOutput((layout.sft, context.tokenizer_path, path), {"examples": examples, **metrics})
