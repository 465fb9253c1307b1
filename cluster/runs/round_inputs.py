"""A later round's prompts: the fresh ones under ids of their own, and among them what the red team found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actors.redteam.finds import finds_as_prompts
from cluster.evaluation.redteam.finds import may_train
from cluster.run_folder.round_names import id_prefix
from cluster.runs.context import RunContext
from configs.layout import RunLayout
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
    replaced = min(round(context.settings.rounds.hunt.share * len(fresh)), MOST_ASKED * len(finds), len(places))
    for index in range(replaced):
        place = places[index * len(places) // replaced]
        fresh[place] = replace(finds[index % len(finds)], prompt_id=f"{id_prefix(number)}{purpose}-redteam-{index:06d}")
    return fresh


BASE = "sft"


@dataclass(frozen=True)
class Source:
    """A policy and the prompts that it answers."""

    name: str
    """``sft``, or ``round-1`` and so on."""
    folder: Path
    prompts: tuple[Prompt, ...]


def policy_name(number: int) -> str:
    """What the policy that came out of a round is called; 0 is the SFT policy."""
    return BASE if number == 0 else f"round-{number}"


def policy_folder(layout: RunLayout, number: int) -> Path:
    """The promoted policy of a round; 0 is the SFT policy."""
    return layout.sft if number == 0 else layout.policy(number)


def start_round(context: RunContext) -> int:
    """The round whose policy this one starts from, as policy and as KL reference; 0 is the SFT policy."""
    if context.round_number == 1 or context.settings.rounds.start == "base":
        return 0
    return context.round_number - 1


def start_policy(context: RunContext) -> Path:
    """The folder of the policy that this round starts from."""
    if context.round_number == 1:
        return context.layout.sft
    return policy_folder(context.layout, start_round(context))


def pair_sources(context: RunContext, prompts: Sequence[Prompt]) -> list[Source]:
    """Who answers which prompts: the current policy, and by choice earlier ones a share of the train prompts in turns.

    Hold-out and calibration are the current policy's alone: they are to say how the models fare on it.
    """
    current, rounds = context.round_number - 1, context.settings.rounds
    shares: dict[int, list[Prompt]] = {current: []}
    mixed = current > 0 and rounds.pairs_from == "current_and_earlier"
    train_prompts = to_earlier = 0
    for prompt in prompts:
        if mixed and prompt.attributes.get("purpose") == "train":
            train_prompts += 1
            if int(train_prompts * rounds.earlier_share) > to_earlier:
                shares.setdefault(current - 1 - to_earlier % current, []).append(prompt)
                to_earlier += 1
                continue
        shares[current].append(prompt)
    return [
        Source(policy_name(number), policy_folder(context.layout, number), tuple(answered))
        for number, answered in sorted(shares.items(), reverse=True)
    ]
