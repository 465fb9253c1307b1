"""How a later round is told from the first: names of stages, prefixes of ids, seeds, settings. Of round 1 all is as given."""

from __future__ import annotations

import re

from cluster.run_folder.digests import stable_seed
from configs.load import round_settings
from configs.schema.run import RunSettings

SHARED = frozenset({"data", "sft", "baseline", "scales"})
"""Stages that run once, whatever the number of rounds."""
_OF_A_ROUND = re.compile(r"round-(\d+)/(.+)")


def stage_name(stage: str, number: int) -> str:
    """Name of a stage in round `number`: ``round-2/ppo``; the first round's and the shared ones keep theirs."""
    return stage if number == 1 or stage in SHARED else f"round-{number}/{stage}"


def split_name(name: str) -> tuple[str, int]:
    """The stage and its round (1 of a shared one): the opposite of `stage_name`."""
    match = _OF_A_ROUND.fullmatch(name)
    return (match[2], int(match[1])) if match else (name, 1)


def id_prefix(number: int) -> str:
    """What ids of prompts and requests begin with in round `number`, so that no two rounds share one."""
    return "" if number == 1 else f"r{number}-"


def settings_in_round(settings: RunSettings, number: int) -> RunSettings:
    """The settings of round `number`: its overrides, and a seed of its own, since a later round draws everything again.

    Raises:
        ConfigError: as `round_settings`.
    """
    if number == 1:
        return settings
    seed = stable_seed(settings.seed, "round", number)
    return round_settings(settings, number).model_copy(update={"seed": seed})
