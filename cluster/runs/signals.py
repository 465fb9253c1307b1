"""Who gives each signal its scores: a model that the run trains, or a scorer from outside.

`objective.scorer` and ``constraints.<name>.scorer`` name scorers from outside; every other signal is a model of this run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.scoring.sources import ForeignModel, PythonSignal, SignalSource
from cluster.runs.context import RunContext
from configs.layout import RunLayout
from configs.schema.data import SignalScorerSettings
from configs.schema.run import RunSettings
from learner.algorithms.experience import REWARD, cost_signal
from learner.statistics.calibration import CalibrationDocument, load_calibration


@dataclass(frozen=True)
class SignalSources:
    """Who scores what, in the configuration's order."""

    reward: SignalSource | None
    costs: Mapping[str, SignalSource]
    """By constraint."""

    @property
    def own_reward(self) -> Path | None:
        """The reward model, where this run trained it."""
        return self.reward if isinstance(self.reward, Path) else None

    @property
    def own_costs(self) -> dict[str, Path]:
        """The cost models that this run trained."""
        return {name: source for name, source in self.costs.items() if isinstance(source, Path)}

    @property
    def outside(self) -> SignalSources:
        """Those that it did not."""
        costs = {name: source for name, source in self.costs.items() if not isinstance(source, Path)}
        return SignalSources(None if isinstance(self.reward, Path) else self.reward, costs)


def scorers_from_outside(settings: RunSettings) -> dict[str, SignalScorerSettings]:
    """Signal (``reward``, ``cost/<name>``) to its scorer; signals of the run's own models are not among them."""
    reward = {} if settings.objective.scorer is None else {REWARD: settings.objective.scorer}
    return reward | {
        cost_signal(name): constraint.scorer
        for name, constraint in settings.constraints.items()
        if constraint.scorer is not None
    }


def trains_reward(settings: RunSettings) -> bool:
    """Whether a reward model is trained; on data only where there are pairs for one."""
    if settings.objective.scorer is not None:
        return False
    return settings.data is None or bool(settings.data.helpfulness)


def key_of(signal: str) -> str:
    """The dotted key of a signal's scorer, for messages."""
    return "objective.scorer" if signal == REWARD else f"constraints.{signal.removeprefix('cost/')}.scorer"


def scorer_label(scorer: SignalScorerSettings) -> str:
    """What people call it: ``python my_rules:brevity``, or ``model owner/name``."""
    return f"python {scorer.python}" if scorer.python is not None else f"model {scorer.path}"


def scorers_folder(layout: RunLayout) -> Path:
    """What stage `scales` leaves: foreign models, and ``scales.json``."""
    return layout.data / "scorers"


def foreign_folder(layout: RunLayout, signal: str) -> Path:
    """Where every node finds a signal's foreign model."""
    return scorers_folder(layout) / signal.replace("/", "-")


def signal_sources(context: RunContext) -> SignalSources:
    """Of every signal of the run; of a foreign model, once stage `scales` has fetched it."""
    settings, layout, number = context.settings, context.layout, context.round_number
    outside = {signal: _source(context, signal, scorer) for signal, scorer in scorers_from_outside(settings).items()}
    trained_reward = layout.reward(number) if trains_reward(settings) else None
    costs = {
        name: outside[signal] if (signal := cost_signal(name)) in outside else layout.cost(number, name)
        for name in settings.constraints
    }
    return SignalSources(outside.get(REWARD, trained_reward), costs)


def calibration_of(context: RunContext, constraint: str) -> CalibrationDocument | None:
    """How a constraint's cost becomes a probability: of the run's own cost model, or of a foreign one that brought it.

    Raises:
        DataError: it cannot be read.
    """
    scorer = context.settings.constraints[constraint].scorer
    if scorer is None:
        return load_calibration(context.layout.cost(context.round_number, constraint))
    # Also of a function, which has no folder and so no calibration; never of a model that an earlier configuration trained.
    return load_calibration(foreign_folder(context.layout, cost_signal(constraint)))


def _source(context: RunContext, signal: str, scorer: SignalScorerSettings) -> SignalSource:
    if scorer.python is None:
        return ForeignModel(foreign_folder(context.layout, signal), scorer.template)
    return PythonSignal(scorer.python, dict(scorer.arguments), scorer.batch_size, scorer.deadline_seconds)
