"""Rounds: collect, label, reward and cost models, loop, evaluation, again and again, each from the policy of the one before."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.schema.base import Count, CountOrZero, Settings


class RoundHuntSettings(Settings):
    """The red team between two rounds."""

    share: float = Field(default=0.1, gt=0, le=0.5)
    """Of the next round's prompts (pairs and loop) that are its finds; fewer where it found fewer."""
    searches: tuple[Literal["best_of_n", "trained"], ...] = Field(default=("best_of_n",), min_length=1)
    tries: Count = 16
    """`best_of_n`: attacks per request."""
    keep: Count = 2
    """Finds per request and search."""
    retests: Count = 4
    """Fresh conversations whose mean cost a find is judged by."""
    steps: Count = 20
    """`trained`: steps of the attacker."""
    batch: Count = 96
    """`trained`: attacks per step."""


class RoundsSettings(Settings):
    """How often everything after SFT is done, and what a later round takes from the earlier ones."""

    count: Count = 1
    """Rounds in all; 1 is a single pass."""
    start: Literal["base", "previous"] = "previous"
    """Where the policy and its KL reference start in rounds after the first: the SFT policy, or the promoted policy of the
    round before."""
    pairs_from: Literal["current", "current_and_earlier"] = "current"
    """Who answers the prompts that are labelled in rounds after the first: the promoted policy of the round before, or
    also those before it and the SFT policy."""
    earlier_share: float = Field(default=0.3, gt=0, lt=1)
    """`current_and_earlier` only: the share of training pairs that earlier policies answer, in turns."""
    red_team: bool = False
    """Look for attacks on each round's policy and put those found among the next round's prompts."""
    hunt: RoundHuntSettings = RoundHuntSettings()
    overrides: dict[CountOrZero, dict[str, object]] = {}
    """Round (from 2) to `key: value` overrides (dotted keys) of `ppo`, `selection` and existing constraints; each round's apply
    to the configuration itself, not to the round before."""
