"""The simplest automatic red team: draw n attacks per request and keep those that the cost model finds worst.

As red-teaming by rejection (Perez et al. 2022, arXiv 2202.03286), with wordings from an attack suite in place of a language
model's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from actors.redteam.drive import Victim, carry_out
from actors.redteam.grammar import Grammar
from actors.redteam.labels import Labeller
from actors.redteam.search import Search, keep_best, made_search
from actors.redteam.targets import Target
from configs.exits import ConfigError

NAME = "best_of_n"


def best_of_n(
    targets: Sequence[Target],
    grammar: Grammar,
    victim: Victim,
    labeller: Labeller,
    *,
    n: int,
    keep: int = 2,
    retests: int = 4,
    seed: int = 0,
) -> Search:
    """Try `n` different attacks on every target once, keep the `keep` costliest, and try those `retests` times again.

    Raises:
        ConfigError: n, keep or retests below 1, or no cost model.
        DataError: no answer could be scored.
    """
    for name, value in (("n", n), ("keep", keep), ("retests", retests)):
        if value < 1:
            raise ConfigError(f"best of n: {name} is {value}; give at least 1")
    attacks = [
        attack for target in targets for attack in grammar.draw(target, n, random.Random(f"{NAME}/{seed}/{target.id}"))
    ]
    prefix = f"{NAME}/"
    results = carry_out(attacks, victim, labeller, prefix=prefix)
    best = keep_best(results, victim, labeller, keep=keep, retests=retests, prefix=prefix)
    return made_search(NAME, best, results)
