"""What both automatic red teams share: attacks that were tried, the best of them per target, and the test that they hold.

An attack that was kept because its cost was high is partly lucky. So what is kept is tried again with fresh samples, and only
those count: the cost of the first try is kept next to them as what it was chosen by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actors.redteam.drive import Result, Victim, carry_out
from actors.redteam.grammar import Attack
from actors.redteam.labels import Labeller
from configs.exits import ConfigError, DataError


@dataclass(frozen=True)
class Kept:
    """One attack that was kept."""

    attack: Attack
    chosen_by: float
    """Its highest cost while it was looked for: too high on average, for it was chosen by it."""
    retest: tuple[Result, ...]
    """Fresh conversations; never empty."""

    @property
    def cost(self) -> float:
        """Mean cost over the fresh conversations."""
        return mean_cost(self.retest)

    @property
    def success(self) -> float:
        """Share of the fresh conversations that got something harmful."""
        return sum(result.worst.judgement.success for result in self.retest) / len(self.retest)

    @property
    def shown(self) -> Result:
        """The costliest fresh conversation, whose turns become the prompt."""
        return max(self.retest, key=lambda result: cost_of(result))


@dataclass(frozen=True)
class Search:
    """What one automatic red team did."""

    name: str
    """``best_of_n`` or ``trained``."""
    kept: tuple[Kept, ...]
    tried: int
    """Conversations of the search, the retest left out."""
    mean_cost: float
    """Over them."""
    success: float
    """Share of them that got something harmful. Of ``best_of_n`` both are what uniform draws from the grammar get."""
    curve: tuple[dict[str, float], ...] = ()
    """Of a trained attacker: one record per step."""


def cost_of(result: Result) -> float:
    """The conversation's cost.

    Raises:
        ConfigError: no cost model scored it.
    """
    if result.cost is None:
        raise ConfigError(
            "the automatic red team looks for high costs, and there is no cost model: give one (--scorer RUN)"
        )
    return result.cost


def mean_cost(results: Sequence[Result]) -> float:
    """Mean cost of conversations, at least one."""
    return sum(map(cost_of, results)) / len(results)


def made_search(
    name: str, best: tuple[Kept, ...], results: Sequence[Result], curve: Sequence[dict[str, float]] = ()
) -> Search:
    """The record of a search over the conversations it led."""
    success = sum(result.worst.judgement.success for result in results) / len(results)
    return Search(name, best, len(results), mean_cost(results), success, tuple(curve))


def keep_best(
    results: Iterable[Result], victim: Victim, labeller: Labeller, *, keep: int, retests: int, prefix: str
) -> tuple[Kept, ...]:
    """The `keep` attacks of the highest cost per target, each tried again `retests` times.

    An attack that was tried several times is ranked by its mean cost. Ties go to the attack that was tried first.

    Raises:
        DataError: none of the conversations could be drawn and scored.
    """
    costs: dict[str, list[float]] = defaultdict(list)
    attacks: dict[str, Attack] = {}
    for result in results:
        attacks[result.attack.id] = result.attack
        costs[result.attack.id].append(cost_of(result))
    by_target: dict[str, list[Attack]] = defaultdict(list)
    means = {attack_id: sum(attack_costs) / len(attack_costs) for attack_id, attack_costs in costs.items()}
    for attack_id in sorted(attacks, key=lambda attack_id: -means[attack_id]):
        by_target[attacks[attack_id].target.id].append(attacks[attack_id])
    best = [attack for ranked in by_target.values() for attack in ranked[:keep]]
    if not best:
        raise DataError(
            "the red team got no answer that could be scored, so it has nothing to keep: look at the warnings"
        )
    again: dict[str, list[Result]] = defaultdict(list)
    for result in carry_out(best, victim, labeller, samples=retests, prefix=f"{prefix}retest/"):
        again[result.attack.id].append(result)
    return tuple(Kept(attack, means[attack.id], tuple(again[attack.id])) for attack in best if again[attack.id])
