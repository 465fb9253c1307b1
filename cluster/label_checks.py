"""A labelling judge, as far as it can be checked before anything is started: its prompts, and the kinds of harm it can name.

Imports no engine and no Ray, so `--dry-run` includes it; whether it answers is tried when the job starts, unless no pair waits
for its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.manifest import Manifest
from cluster.rounds.names import split_name
from configs.exits import ConfigError
from configs.explain import suggestion
from configs.load import with_arms
from configs.schema.run import RunSettings
from learner.data.categories import BEAVERTAILS_CATEGORIES

if TYPE_CHECKING:
    from cluster.stages.base import Stage

STAGE = "preferences"
"""Whose output the labels are, in every round; `cluster.stages.preferences`, which runs it, imports Ray."""


def check_labels(settings: RunSettings) -> None:
    """Refuse a judge that could not be asked, of the run and of each arm.

    Raises:
        ConfigError: one line with key, reason and fix.
    """
    for prefix, one in with_arms(settings):
        _check(one, prefix)


def complete_labels(stages: Sequence[Stage], manifest: Manifest, *, of_another: bool = False) -> dict[str, bool]:
    """Every stage `preferences`, and whether it has its labels and what they are of stands, all under the present keys.

    Reads no model: one that was damaged is found when its stage is reached.

    Args:
        stages: of all rounds, in order.
        of_another: the manifest is of a run whose shared stages are taken over; the others are done anew.
    """
    stale: set[str] = set()
    for stage in stages:
        known = not stale.intersection(stage.inputs) and stage.name in manifest and (stage.shared or not of_another)
        if not known or manifest[stage.name].key != stage.key(manifest):
            stale.add(stage.name)
    names = [stage.name for stage in stages if split_name(stage.name)[0] == STAGE]
    return {name: name not in stale and manifest.complete(name, manifest[name].key) is not None for name in names}


def _check(settings: RunSettings, prefix: str) -> None:
    judge = settings.preferences.judge
    if settings.preferences.labels != "judge" or judge is None:
        return
    if judge.prompts is not None:
        from actors.judging.llm_judge import read_prompts

        try:
            read_prompts(judge.prompts)
        except ConfigError as error:
            raise ConfigError(f"{prefix}preferences.judge.prompts: {error}") from error
    for name, one in settings.constraints.items():
        for category in one.categories if one.scorer is None else ():
            if category not in BEAVERTAILS_CATEGORIES:
                raise ConfigError(
                    f"{prefix}constraints.{name}.categories: the judge names harm by BeaverTails' 14 categories, and '{category}' "
                    f"is none: {suggestion(category, list(BEAVERTAILS_CATEGORIES))}"
                )
