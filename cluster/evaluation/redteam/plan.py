"""What a red team is to do, checked before any engine starts. Nothing here imports Ray: the head must be joined first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.redteam import attacker, best_of_n
from actors.redteam.labels import CostLabeller, GoldLabeller, HeuristicLabeller, Labeller
from actors.redteam.suite import Suite
from actors.redteam.suite_reader import load_suite
from actors.redteam.targets import Target
from cluster.evaluation.redteam.models import Attacked
from configs.exits import ConfigError
from configs.explain import suggestion
from configs.schema.resources import DeadlineSettings

SEARCHES = (best_of_n.NAME, attacker.NAME)


@dataclass(frozen=True)
class VictimSettings:
    """How a victim answers."""

    tokenizer: Path
    """Hugging Face folder."""
    max_length: int
    """Tokens of prompt and answer together."""
    max_response_tokens: int
    temperature: float = 1.0
    seed: int = 0
    deadlines: DeadlineSettings = field(default_factory=DeadlineSettings)

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise ConfigError(f"--temperature {self.temperature:g}: give a number from 0 on, such as 1")
        if self.max_response_tokens >= self.max_length:
            raise ConfigError(
                f"answers of {self.max_response_tokens} tokens leave no room for a question within {self.max_length}: "
                "lower --max-tokens"
            )


@dataclass(frozen=True)
class HuntSettings:
    """How hard the automatic red team looks."""

    searches: tuple[str, ...] = (best_of_n.NAME,)
    tries: int = 16
    """Best of n: attacks per request."""
    keep: int = 2
    """Finds per request and search."""
    retests: int = 4
    steps: int = 20
    batch: int = 96
    """The attacker's steps, and the attacks of each."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.searches:
            if name not in SEARCHES:
                raise ConfigError(f"no automatic red team '{name}'; {suggestion(name, list(SEARCHES))}")


@dataclass(frozen=True)
class Plan:
    """One red team over one or more models."""

    models: tuple[Attacked, ...]
    suite: Suite
    targets: tuple[Target, ...]
    labeller: Labeller
    scorer: str
    """Name of the run whose cost models score; empty: none does."""
    costs: Mapping[str, Path]
    victim: VictimSettings
    samples: int
    hunt: HuntSettings | None
    confidence: float = 0.95
    notes: tuple[str, ...] = ()
    """What is left out, for the reader of the figures."""


def labeller_for(models: Sequence[Attacked], suite: Suite, costs: Mapping[str, Path]) -> Labeller:
    """Gold where the suite is about the models' world; else the cost model; else the first words."""
    world = models[0].world()
    if suite.of_world and world is not None:
        return GoldLabeller(world)
    return CostLabeller() if costs else HeuristicLabeller()


def suite_for(name: str | None, models: Sequence[Attacked], strategies: Sequence[str]) -> Suite:
    """The suite that is asked for; else the one in the models' own language.

    Raises:
        ConfigError, DataError: as `load_suite`; or a suite in English for models that know the sandbox's words alone.
    """
    world = models[0].world()
    suite = load_suite(name or ("english" if world is None else "sandbox"), world)
    if world is not None and not suite.of_world:
        raise ConfigError(
            f"suite {suite.name} is in English, and {models[0].label} knows the sandbox's words alone: take sandbox"
        )
    return suite.only(strategies)
