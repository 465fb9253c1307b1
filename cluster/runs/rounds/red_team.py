"""Stage `red_team` of a later round: attacks on the policy of the round before, found with that round's cost models."""

from __future__ import annotations

from collections import Counter
from typing import Any

from actors.redteam.finds import read_finds
from cluster.evaluation.redteam.plan import HuntSettings
from cluster.run_folder.round_names import stage_name
from cluster.runs.context import RunContext
from cluster.runs.round_inputs import usable_finds
from cluster.runs.rounds.hunt import hunt_in_round
from cluster.runs.stages import score_models, selection, sft
from cluster.runs.stages.base import DRAWING, SCORING, Stage, StageOutput, entry_of
from configs.schema.run import RunSettings

NAME = "red_team"


def red_team_stage(settings: RunSettings) -> Stage:
    """The hunt before a round with these settings; `attacked` are its further inputs."""
    return Stage(
        name=NAME,
        inputs=(sft.NAME,),
        settings={
            "seed": settings.seed,
            "hunt": settings.rounds.hunt.model_dump(mode="json", exclude={"share"}),
            "constraints": sorted(settings.constraints),
            "splits": settings.splits.model_dump(mode="json"),
            "temperature": settings.evaluation.temperature,
            "max_response_tokens": settings.ppo.max_response_tokens,
            "dtype": settings.resources.generators.dtype,
        },
        code=(entry_of(_run), *DRAWING, *SCORING),
        run=_run,
    )


def attacked(settings: RunSettings, number: int) -> tuple[str, ...]:
    """Stages of the round before `number` that the hunt reads: the policy, and the cost models that it is to fool."""
    before = [selection.NAME, *(score_models.cost_stage_name(name) for name in settings.constraints)]
    return tuple(stage_name(name, number - 1) for name in before)


def _run(context: RunContext) -> StageOutput:
    number, layout = context.round_number, context.layout
    path = layout.finds(number)
    options = context.settings.rounds.hunt
    hunt = HuntSettings(
        searches=options.searches,
        tries=options.tries,
        keep=options.keep,
        retests=options.retests,
        steps=options.steps,
        batch=options.batch,
        seed=context.settings.seed,
    )
    hunt_in_round(context.in_round(number - 1), layout.policy(number - 1), path, hunt)
    finds, usable = read_finds(path), usable_finds(context)
    if not usable:
        context.warn(
            f"round {number}: the red team found no prompt that its cost models call unsafe and this round may train on; "
            "its prompts are all fresh"
        )
    facts: dict[str, Any] = {
        "found": len(finds),
        "usable": len(usable),
        "success": sum(find.success for find in finds) / len(finds) if finds else None,
        "cost": sum(find.cost for find in finds) / len(finds) if finds else None,
        "searches": dict(Counter(find.search for find in finds)),
    }
    return StageOutput((path,), facts)
