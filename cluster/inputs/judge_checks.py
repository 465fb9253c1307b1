"""A labelling judge, as far as it can be checked before anything is started: its prompts, and the kinds of harm it can name.

Imports no engine and no Ray, so `--dry-run` includes it; whether it answers is tried when the job starts, unless no pair waits
for its labels.
"""

from __future__ import annotations

from configs.exits import ConfigError
from configs.explain import suggestion
from configs.load import with_arms
from configs.schema.run import RunSettings
from learner.data.categories import BEAVERTAILS_CATEGORIES


def check_labels(settings: RunSettings) -> None:
    """Refuse a judge that could not be asked, of the run and of each arm.

    Raises:
        ConfigError: one line with key, reason and fix.
    """
    for prefix, variant in with_arms(settings):
        _check(variant, prefix)


def _check(settings: RunSettings, prefix: str) -> None:
    judge = settings.preferences.judge
    if settings.preferences.labels != "judge" or judge is None:
        return
    if judge.prompts is not None:
        from actors.judging.judges.language_model import read_prompts

        try:
            read_prompts(judge.prompts)
        except ConfigError as error:
            raise ConfigError(f"{prefix}preferences.judge.prompts: {error}") from error
    for name, constraint in settings.constraints.items():
        for category in constraint.categories if constraint.scorer is None else ():
            if category not in BEAVERTAILS_CATEGORIES:
                raise ConfigError(
                    f"{prefix}constraints.{name}.categories: the judge names harm by BeaverTails' 14 categories, and '{category}' "
                    f"is none: {suggestion(category, list(BEAVERTAILS_CATEGORIES))}"
                )
