"""The stages of rounds after the first, under names, inputs and keys of their own.

A later round's stage is the first round's, run in the round's own context (`RunContext.in_round`): its settings, its folders,
its seed. SFT, its baseline answers and the scales of scorers from outside are done once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.run_folder.round_names import SHARED, settings_in_round, stage_name
from cluster.runs.context import RunContext
from cluster.runs.round_inputs import BASE
from cluster.runs.rounds import red_team
from cluster.runs.stages import evaluate, ppo, preferences, score_models, selection
from cluster.runs.stages.base import Stage, StageOutput
from cluster.runs.stages.on_data import certify
from cluster.runs.stages.on_data import evaluate as scored_evaluate
from cluster.runs.stages.on_data import selection as scored_selection
from configs.schema.run import RunSettings

CODE = ("cluster.run_folder.round_names",)
"""Whose functions give a round its settings and the stages of it their names."""


def later_rounds(settings: RunSettings) -> dict[int, list[Stage]]:
    """The stages of every round from 2 on, in order."""
    return {number: round_stages(settings, number) for number in range(2, settings.rounds.count + 1)}


def round_stages(settings: RunSettings, number: int) -> list[Stage]:
    """The stages of round `number` (from 2) of a run with these settings, in order."""
    round_settings, rounds = settings_in_round(settings, number), settings.rounds
    before = stage_name(selection.NAME, number - 1)
    hunted = (stage_name(red_team.NAME, number),) if rounds.red_team else ()
    earlier = [stage_name(selection.NAME, earlier_round) for earlier_round in range(1, number)]
    mixed = rounds.pairs_from == "current_and_earlier"
    share = {"share": rounds.hunt.share} if rounds.red_team else {}
    on_data = settings.data is not None  # the first round's labels are the files'
    labels = [stage_name(preferences.NAME, earlier_round) for earlier_round in range(2 if on_data else 1, number)]
    # what the score models learn from is made by this round's labelling
    taught = (stage_name(preferences.NAME, number),) if on_data else ()
    select = scored_selection.scored_selection_stage if on_data else selection.selection_stage
    judge = scored_evaluate.scored_evaluate_stage if on_data else evaluate.evaluate_stage
    certified = certify.certify_stages(round_settings) if number == rounds.count else []  # the last policy alone
    hunts = [red_team.red_team_stage(round_settings)] if rounds.red_team else []
    return [
        *(_in_round(stage, number, red_team.attacked(round_settings, number)) for stage in hunts),
        _in_round(
            preferences.pairs_stage(round_settings),
            number,
            (*(earlier if mixed else [before]), *hunted),
            {**share, "pairs_from": rounds.pairs_from, "earlier_share": rounds.earlier_share if mixed else 0.0},
        ),
        _in_round(preferences.preferences_stage(round_settings), number, tuple(labels), {"crowd_seed": settings.seed}),
        *(
            _in_round(stage, number, taught)
            for stage in score_models.stages(round_settings)
            if stage.name not in SHARED
        ),
        _in_round(
            ppo.ppo_stage(round_settings),
            number,
            (*([before] if rounds.start == "previous" else []), *hunted, *taught),
            {**share, "start": BASE if rounds.start == "base" else before},
        ),
        _in_round(select(round_settings), number),
        _in_round(judge(round_settings), number, (), {"cells_seed": settings.seed}),
        *(_in_round(stage, number) for stage in certified),
    ]


def _in_round(stage: Stage, number: int, inputs: tuple[str, ...] = (), settings: dict[str, Any] | None = None) -> Stage:
    """A stage as round `number` has it.

    Args:
        inputs: further ones, under their full names.
        settings: further ones that change what comes out.
    """

    def run(context: RunContext) -> StageOutput:
        return stage.run(context.in_round(number))

    round_inputs = tuple(stage_name(name, number) for name in stage.inputs)
    return replace(
        stage,
        name=stage_name(stage.name, number),
        inputs=tuple(dict.fromkeys((*round_inputs, *inputs))),
        settings={**stage.settings, "round": number, **(settings or {})},
        code=(*stage.code, *CODE),
        run=run,
    )
