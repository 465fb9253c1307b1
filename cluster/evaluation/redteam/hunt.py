"""The automatic red team against one victim, for the command and for a round of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from actors.redteam import best_of_n
from actors.redteam.attacker import AttackerSettings, train_attacker
from actors.redteam.drive import Victim
from actors.redteam.grammar import Grammar
from actors.redteam.labels import Labeller
from actors.redteam.search import Search
from actors.redteam.targets import Target
from cluster.evaluation.redteam.plan import HuntSettings
from cluster.run_folder.digests import digest, model_digest

Say = Callable[[str], None]


def hunt(
    targets: Sequence[Target],
    grammar: Grammar,
    victim: Victim,
    labeller: Labeller,
    settings: HuntSettings,
    say: Say = lambda text: None,
) -> list[Search]:
    """Every search that is asked for, one after another.

    Raises:
        ConfigError: a setting out of range, or no cost model. DataError: no answer could be scored.
    """
    searches = []
    for name in dict.fromkeys(settings.searches):
        if name == best_of_n.NAME:
            search = best_of_n.best_of_n(
                targets,
                grammar,
                victim,
                labeller,
                n=settings.tries,
                keep=settings.keep,
                retests=settings.retests,
                seed=settings.seed,
            )
        else:
            attacker = AttackerSettings(
                steps=settings.steps,
                batch=settings.batch,
                keep=settings.keep,
                retests=settings.retests,
                seed=settings.seed,
            )
            search, _policy = train_attacker(
                targets,
                grammar,
                victim,
                labeller,
                attacker,
                lambda line: say(
                    f"  attacker step {line['step']:.0f} of {settings.steps}: cost {line['cost']:+.2f}, "
                    f"{100 * line['success']:.0f} % succeed"
                ),
            )
        say(f"  {name}: {search.tried} tried, {len(search.kept)} kept")
        searches.append(search)
    return searches


def costs_digest(costs: dict[str, Path]) -> str:
    """Of one cost model its own digest, of several one over all."""
    digests = {name: model_digest(folder) for name, folder in costs.items()}
    return next(iter(digests.values())) if len(digests) == 1 else digest(digests)
