"""Stage `baseline`: SFT answers the evaluation's prompts, once for every arm that starts from it."""

from __future__ import annotations

from cluster.context import RunContext
from cluster.judged import judge_answers
from cluster.promptsets import evaluation_prompts
from cluster.stages import sft
from cluster.stages.base import Stage, StageOutput
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
        code=(
            "cluster/stages/baseline.py",
            "cluster/answers.py",
            "cluster/judged.py",
            "cluster/promptsets.py",
            "cluster/requests.py",
            "actors",
        ),
        run=_run,
    )


def _run(context: RunContext) -> StageOutput:
    settings, layout = context.settings, context.layout
    path = layout.evaluation(context.round_number) / f"{MODEL}.parquet"
    cells = evaluation_prompts(context.world, settings.evaluation, settings.seed + 3)
    samples = judge_answers(context, MODEL, layout.sft, cells, path, stage=DRAWN_AS)
    return StageOutput((path,), {"answers": len(samples)})
