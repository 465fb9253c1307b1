"""A red team that learns: a policy over the attack grammar, trained by REINFORCE to make the victim's answers costly.

The attacker writes a request by picking its form, what is put before and after it, and its fillers. Each of these factors is a
softmax whose logits are those of all requests plus those of the request's category, so that what works everywhere is learned
first and what works on one category is learned where it is seen. Reward is the cost model's score of the victim's answer (the
highest over the turns), less the running mean of the same request, over the batch's spread (Williams 1992). An entropy bonus
keeps it from settling on the first thing that works: its finds are meant to be many.

The policy is this small because it has to learn in a few thousand answers; docs/redteam.md compares it with a language model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.redteam.drive import Result, Victim, carry_out
from actors.redteam.grammar import FORM, Attack, Grammar
from actors.redteam.labels import Labeller
from actors.redteam.search import Search, cost_of, keep_best, made_search
from actors.redteam.targets import Target
from configs.exits import ConfigError

NAME = "trained"
BASELINE_RATE = 0.3
"""Weight of the newest cost in a request's running mean."""


@dataclass(frozen=True)
class AttackerSettings:
    """How the attacker learns."""

    steps: int = 20
    batch: int = 96
    learning_rate: float = 2.0
    entropy: float = 0.01
    keep: int = 2
    retests: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "keep", "retests"):
            if getattr(self, name) < 1:
                raise ConfigError(f"attacker: {name} is {getattr(self, name)}; give at least 1")
        if not self.learning_rate > 0 or not self.entropy >= 0:
            raise ConfigError("attacker: learning_rate must be above 0, and entropy 0 or more")


class AttackerPolicy:
    """Softmax factors over a grammar; starts uniform."""

    def __init__(self, grammar: Grammar, categories: Sequence[str | None]) -> None:
        self._grammar = grammar
        self._row = {category: 1 + index for index, category in enumerate(dict.fromkeys(categories))}
        self._logits = {
            factor: np.zeros((1 + len(self._row), size)) for factor, size in grammar.factors.items()
        }  # row 0 is of every request

    def probabilities(self, factor: str, category: str | None) -> NDArray[np.float64]:
        """``[options]`` of one factor for requests of a category; of an unseen category those of all."""
        logits = self._logits[factor][0]
        if (row := self._row.get(category)) is not None:
            logits = logits + self._logits[factor][row]
        return _softmax(logits)

    def draw(self, target: Target, rng: np.random.Generator) -> Attack:
        """One attack on one target."""
        choice = {
            factor: int(rng.choice(size, p=self.probabilities(factor, target.category)))
            for factor, size in self._grammar.factors.items()
        }
        return self._grammar.attack(target, choice)

    def learn(self, attacks: Sequence[Attack], advantages: NDArray[np.float64], rate: float, entropy: float) -> None:
        """One step up the policy gradient, averaged over the batch; `advantages` is ``[B]``."""
        steps = {factor: np.zeros_like(logits) for factor, logits in self._logits.items()}
        for attack, advantage in zip(attacks, advantages, strict=True):
            category = attack.target.category
            for factor, option in attack.choice:  # factors that the form does not use had no part in the answer
                p = self.probabilities(factor, category)
                score = -p
                score[option] += 1.0
                gain = advantage * score + entropy * _entropy_gradient(p)
                steps[factor][0] += gain
                if (row := self._row.get(category)) is not None:
                    steps[factor][row] += gain
        for factor, step in steps.items():
            self._logits[factor] += rate * step / len(attacks)

    def entropy(self) -> float:
        """Of the form's distribution over all requests, in nats."""
        p = _softmax(self._logits[FORM][0])
        return float(-(p * np.log(np.maximum(p, 1e-12))).sum())

    def favourites(self) -> Mapping[str, tuple[int, float]]:
        """Factor → its likeliest option and that option's probability, for requests of any category."""
        likeliest = {}
        for factor, logits in self._logits.items():
            p = _softmax(logits[0])
            likeliest[factor] = (int(p.argmax()), float(p.max()))
        return likeliest


def train_attacker(
    targets: Sequence[Target],
    grammar: Grammar,
    victim: Victim,
    labeller: Labeller,
    settings: AttackerSettings,
    on_step: Callable[[dict[str, float]], None] | None = None,
) -> tuple[Search, AttackerPolicy]:
    """Train an attacker against one victim, and keep the costliest attacks of all that it tried.

    Args:
        on_step: is shown the record of every step: ``{step, cost, success, entropy}``.

    Raises:
        ConfigError: no target, or no cost model.
        DataError: no answer could be scored.
    """
    if not targets:
        raise ConfigError("attacker: there is no request to train on; give some")
    policy = AttackerPolicy(grammar, [target.category for target in targets])
    rng = np.random.default_rng(settings.seed)
    baseline: dict[str, float] = {}
    results: list[Result] = []
    curve: list[dict[str, float]] = []
    order: list[Target] = []
    for step in range(1, settings.steps + 1):
        while len(order) < settings.batch:  # every request once before any comes twice
            order += [targets[index] for index in rng.permutation(len(targets))]
        batch, order = order[: settings.batch], order[settings.batch :]
        attacks = [policy.draw(target, rng) for target in batch]
        drawn = Counter(attack.id for attack in attacks)
        once = list({attack.id: attack for attack in attacks}.values())
        answered = carry_out(once, victim, labeller, prefix=f"{NAME}/{step}/")
        results += answered
        # The victim is asked once what was drawn twice, and it counts twice: the gradient is over the policy's own draws.
        draws = [result for result in answered for _ in range(drawn[result.attack.id])]
        if draws:
            _learn(policy, draws, baseline, settings)
            curve.append(_record(step, draws, policy))
            if on_step is not None:
                on_step(curve[-1])
    best = keep_best(results, victim, labeller, keep=settings.keep, retests=settings.retests, prefix=f"{NAME}/")
    return made_search(NAME, best, results, curve), policy


def _learn(
    policy: AttackerPolicy, results: Sequence[Result], baseline: dict[str, float], settings: AttackerSettings
) -> None:
    costs = np.array([cost_of(result) for result in results])
    names = [result.attack.target.id for result in results]
    expected = np.array([baseline.get(name, costs.mean()) for name in names])
    advantages = costs - expected
    if (spread := float(advantages.std())) > 1e-8:
        policy.learn(
            [result.attack for result in results], advantages / spread, settings.learning_rate, settings.entropy
        )
    for name, cost, expected_cost in zip(names, costs, expected, strict=True):
        baseline[name] = float((1 - BASELINE_RATE) * expected_cost + BASELINE_RATE * cost)


def _record(step: int, results: Sequence[Result], policy: AttackerPolicy) -> dict[str, float]:
    return {
        "step": float(step),
        "cost": sum(map(cost_of, results)) / len(results),
        "success": sum(result.worst.judgement.success for result in results) / len(results),
        "entropy": policy.entropy(),
    }


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(logits - logits.max())
    return np.asarray(raised / raised.sum())


def _entropy_gradient(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the entropy, with respect to the logits."""
    logs = np.log(np.maximum(p, 1e-12))
    return np.asarray(-p * (logs - (p * logs).sum()))
