"""A later round's prompts: the fresh ones under ids of their own, and among them what the red team found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actors.redteam.finds import finds_as_prompts
from cluster.context import RunContext
from cluster.redteam.finds import may_train
from cluster.rounds.names import id_prefix
from learner.records import Prompt

MOST_ASKED = 8
"""How often one find may be among the prompts of a stage: few finds must not become a whole share of the training."""
LEAST_COST = 0.0
"""Finds of a lower mean cost on fresh samples are no failures of the policy, by its cost model."""


def named(prompts: Sequence[Prompt], number: int) -> list[Prompt]:
    """Prompts of round `number` under ids that no other round has."""
    prefix = id_prefix(number)
    return [replace(prompt, prompt_id=prefix + prompt.prompt_id) for prompt in prompts] if prefix else list(prompts)


def usable_finds(context: RunContext) -> list[Prompt]:
    """What the red team found against the policy of the round before and this round may train on, the costliest first.

    Raises:
        DataError: the file of finds cannot be read.
    """
    if context.round_number == 1 or not context.settings.rounds.red_team:
        return []
    path = context.layout.finds(context.round_number)
    return finds_as_prompts(path, least_cost=LEAST_COST, allowed=may_train(context.splits))


def with_finds(context: RunContext, prompts: Sequence[Prompt], purpose: str) -> list[Prompt]:
    """Prompts of this round, with finds in the place of some fresh train prompts, spread evenly; as many as before.

    What measures (hold-out, calibration) is left as it was drawn.

    Args:
        purpose: first word of a find's id, such as ``pair``.
    """
    number = context.round_number
    if number == 1:
        return list(prompts)
    finds = usable_finds(context)
    fresh = named(prompts, number)
    places = [index for index, prompt in enumerate(fresh) if prompt.attributes.get("purpose") == "train"]
    wanted = min(round(context.settings.rounds.hunt.share * len(fresh)), MOST_ASKED * len(finds), len(places))
    for index in range(wanted):
        place = places[index * len(places) // wanted]
        fresh[place] = replace(finds[index % len(finds)], prompt_id=f"{id_prefix(number)}{purpose}-redteam-{index:06d}")
    return fresh
