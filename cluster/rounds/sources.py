"""Which policy a round starts from, and whose answers it has labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.context import RunContext
from configs.layout import RunLayout
from learner.records import Prompt

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
    seen = given = 0
    for prompt in prompts:
        if mixed and prompt.attributes.get("purpose") == "train":
            seen += 1
            if int(seen * rounds.earlier_share) > given:
                shares.setdefault(current - 1 - given % current, []).append(prompt)
                given += 1
                continue
        shares[current].append(prompt)
    return [
        Source(policy_name(number), policy_folder(context.layout, number), tuple(some))
        for number, some in sorted(shares.items(), reverse=True)
    ]
