"""Stage `baseline`: SFT answers the evaluation's prompts, once for every arm that starts from it."""

from __future__ import annotations

from cluster.inputs.sandbox_prompts import evaluation_prompts
from cluster.runs.answers.judge_by_gold import judge_answers
from cluster.runs.context import RunContext
from cluster.runs.stages import sft
from cluster.runs.stages.base import DRAWING, SCORING, Stage, StageOutput, entry_of
from configs.schema.run import RunSettings

NAME = "baseline"
MODEL = "sft"
DRAWN_AS = "evaluate"
"""Seeds hang on this word: SFT and policy are compared on answers drawn alike."""


def baseline_stage(settings: RunSettings) -> Stage:
    """SFT's answers for these settings."""
    return Stage(
        name=NAME,
        inputs=(sft.NAME,),
        settings={
            "seed": settings.seed,
            "evaluation": settings.evaluation.model_dump(mode="json", exclude={"confidence"}),
            "max_response_tokens": settings.ppo.max_response_tokens,
            "truncate_right": settings.reference.truncate_prompt_right,
            "dtype": settings.resources.generators.dtype,
        },
        code=(entry_of(_run), *DRAWING, *SCORING),
        run=_run,
    )


def _run(context: RunContext) -> StageOutput:
    settings, layout = context.settings, context.layout
    path = layout.evaluation(context.round_number) / f"{MODEL}.parquet"
    cells = evaluation_prompts(context.world, settings.evaluation, settings.seed + 3)
    samples = judge_answers(context, MODEL, layout.sft, cells, path, stage=DRAWN_AS)
    return StageOutput((path,), {"answers": len(samples)})
