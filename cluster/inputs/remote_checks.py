"""The checks before a run on a remote cluster: paths that only its nodes may have are left to the job.

The job makes all of `check_inputs`' checks again, there. Everything else is refused here as for a run on this machine.
"""

from __future__ import annotations

import glob
from pathlib import Path

from cluster.inputs.sources import check_inputs
from configs.exits import SteelyardError
from configs.load import with_arms
from configs.schema.data import DataSettings, SignalScorerSettings, SourceSettings
from configs.schema.run import RunSettings
from learner.data.files import HUB
from learner.data.sources import PACKAGED

STAND_IN = "on-the/cluster"
"""What is checked in place of a path that is not here: a name of the hub's form, which is never asked of the hub."""


def check_remote_inputs(settings: RunSettings) -> list[str]:
    """Check the inputs, but for absolute paths that this machine does not have; returns a line for each of those.

    Raises:
        ConfigError, DataError: one line with key, reason and fix.
    """
    notes: list[str] = []
    for prefix, variant in with_arms(settings):
        try:
            check_inputs(_Elsewhere(notes).without(variant.model_copy(update={"arms": {}})))
        except SteelyardError as error:
            raise type(error)(f"{prefix}{error}") from error
    return list(dict.fromkeys(notes))


class _Elsewhere:
    """Puts stand-ins in the place of what is not here, and notes each."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def without(self, settings: RunSettings) -> RunSettings:
        """The settings with nothing in them that would have to be on this machine and is not."""
        constraints = {
            name: constraint.model_copy(
                update={"scorer": self._scorer(f"constraints.{name}.scorer", constraint.scorer)}
            )
            for name, constraint in settings.constraints.items()
        }
        scorer = self._scorer("objective.scorer", settings.objective.scorer)
        changed: dict[str, object] = {
            "constraints": constraints,
            "objective": settings.objective.model_copy(update={"scorer": scorer}),
        }
        if settings.data is not None:
            changed["data"] = self._data(settings.data)
        if settings.model.path is not None and self._is("model.path", settings.model.path):
            changed["model"] = settings.model.model_copy(update={"path": STAND_IN})
        judge = settings.preferences.judge
        if judge is not None and judge.prompts is not None and self._is("preferences.judge.prompts", judge.prompts):
            without = judge.model_copy(update={"prompts": None})
            changed["preferences"] = settings.preferences.model_copy(update={"judge": without})
        return settings.model_copy(update=changed)

    def _data(self, data: DataSettings) -> DataSettings:
        changed: dict[str, object] = {
            name: tuple(
                self._source(f"data.{name}.{index}", source, data.root)
                for index, source in enumerate(getattr(data, name))
            )
            for name in ("demonstrations", "helpfulness", "harmlessness", "prompts")
        }
        changed["evaluation"] = {
            name: self._source(f"data.evaluation.{name}", source, data.root) for name, source in data.evaluation.items()
        }
        return data.model_copy(update=changed)

    def _source(self, key: str, source: SourceSettings, root: Path) -> SourceSettings:
        if source.source.startswith((HUB, PACKAGED)) or (not Path(source.source).is_absolute() and root.is_dir()):
            return source  # no path, or a name below a root that is here
        if not self._is(key, root / source.source):
            return source
        return source.model_copy(update={"source": f"{HUB}{STAND_IN}"})

    def _scorer(self, key: str, scorer: SignalScorerSettings | None) -> SignalScorerSettings | None:
        if scorer is None or scorer.path is None or not self._is(key, scorer.path):
            return scorer
        return scorer.model_copy(update={"path": STAND_IN})

    def _is(self, key: str, path: Path | str) -> bool:
        """Whether it may be on the cluster and is not on this machine."""
        if not Path(path).is_absolute() or Path(path).exists() or any(glob.iglob(str(path), recursive=True)):
            return False
        self._notes.append(f"{key}: {path} is not on this machine; the job checks it on the cluster")
        return True
