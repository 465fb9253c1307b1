"""Scorers from outside, as far as they can be checked before anything is started: functions are imported, folders looked at.

Imports no engine and no Ray, so `--dry-run` includes it; what the hub has is asked when the run gets there.
"""

from __future__ import annotations

from pathlib import Path

from actors.scoring.functions import check_call, load_function
from configs.checks import scorers_of
from configs.exits import ConfigError
from configs.load import with_arms
from configs.schema.data import SignalScorerSettings
from configs.schema.run import RunSettings

GOLD = "actors.scoring.gold:"


def check_scorers(settings: RunSettings) -> None:
    """Refuse functions and folders that are not there, of the run and of each arm. Importing a function runs its module.

    Raises:
        ConfigError: one line with key, reason and fix.
    """
    for prefix, variant in with_arms(settings):
        _check_all(variant, prefix)


def absolute_scorers(settings: RunSettings, folder: Path) -> RunSettings:
    """The settings with scorers' local folders below `folder` where they were relative, for a job that runs elsewhere."""

    def moved(scorer: SignalScorerSettings | None) -> SignalScorerSettings | None:
        if scorer is None or scorer.path is None:
            return scorer
        place = Path(scorer.path).expanduser()
        return scorer.model_copy(update={"path": str(folder / place)}) if (folder / place).is_dir() else scorer

    constraints = {
        name: constraint.model_copy(update={"scorer": moved(constraint.scorer)})
        for name, constraint in settings.constraints.items()
    }
    objective = settings.objective.model_copy(update={"scorer": moved(settings.objective.scorer)})
    return settings.model_copy(update={"objective": objective, "constraints": constraints})


def _check_all(settings: RunSettings, prefix: str) -> None:
    for key, scorer in scorers_of(settings).items():
        try:
            if scorer.python is not None:
                _check_gold(settings, scorer)
                check_call(load_function(scorer.python), scorer.arguments, scorer.python)
            else:
                check_model_name(scorer.path or "", scorer.revision)
        except ConfigError as error:
            raise ConfigError(f"{prefix}{key}: {error}") from error


def _check_gold(settings: RunSettings, scorer: SignalScorerSettings) -> None:
    """The truth of another world than the run's would score every answer wrongly, and say nothing."""
    if not (scorer.python or "").startswith(GOLD):
        return
    if settings.data is not None:
        raise ConfigError(
            f"{scorer.python} knows the sandbox's questions only, and this run is on data: take another scorer"
        )
    scorer_world, run_world = scorer.arguments.get("world"), settings.sandbox.world
    if (None if scorer_world is None else Path(str(scorer_world)).resolve()) != (
        None if run_world is None else run_world.resolve()
    ):
        raise ConfigError(
            f"{scorer.python} scores by {scorer_world or 'the packaged world'}, and the run's is {run_world or 'the packaged one'}: set "
            "arguments.world and sandbox.world to the same file"
        )


def check_model_name(path: str, revision: str | None) -> None:
    """A folder that is here must hold a model; another name must be one that the hub could have.

    Raises:
        ConfigError: one line without the key.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{path} holds no model (config.json is missing): give a Hugging Face folder")
        if revision is not None:
            raise ConfigError(f"{path} is a folder here, and only the hub has revisions: leave revision out")
    elif path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise ConfigError(f"there is no folder {path}, and the hub has no such names: check the path")
