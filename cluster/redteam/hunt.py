"""The automatic red team against one victim, for the command and for a round of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from actors.redteam import best_of_n
from actors.redteam.attacker import AttackerSettings, train_attacker
from actors.redteam.drive import Victim
from actors.redteam.finds import Origin, find_of, write_finds
from actors.redteam.grammar import Grammar
from actors.redteam.labels import GoldLabeller, Labeller
from actors.redteam.search import Search
from actors.redteam.suite import load_suite
from actors.redteam.targets import Target, sandbox_targets
from cluster.context import RunContext
from cluster.digests import digest, model_digest
from cluster.redteam.plan import HuntSettings, VictimSettings
from cluster.redteam.victim import EngineVictim
from configs.exits import ConfigError

Say = Callable[[str], None]


def hunt(
    targets: Sequence[Target], grammar: Grammar, victim: Victim, labeller: Labeller, settings: HuntSettings,
    say: Say = lambda text: None,
) -> list[Search]:  # fmt: skip
    """Every search that is asked for, one after another.

    Raises:
        ConfigError: a setting out of range, or no cost model. DataError: no answer could be scored.
    """
    found = []
    for name in dict.fromkeys(settings.searches):
        if name == best_of_n.NAME:
            search = best_of_n.best_of_n(
                targets, grammar, victim, labeller,
                n=settings.tries, keep=settings.keep, retests=settings.retests, seed=settings.seed,
            )  # fmt: skip
        else:
            asked = AttackerSettings(
                steps=settings.steps,
                batch=settings.batch,
                keep=settings.keep,
                retests=settings.retests,
                seed=settings.seed,
            )
            search, _policy = train_attacker(
                targets, grammar, victim, labeller, asked,
                lambda line: say(
                    f"  attacker step {line['step']:.0f} of {settings.steps}: cost {line['cost']:+.2f}, "
                    f"{100 * line['success']:.0f} % succeed"
                ),
            )  # fmt: skip
        say(f"  {name}: {search.tried} tried, {len(search.kept)} kept")
        found.append(search)
    return found


def hunt_in_round(
    context: RunContext, policy: Path, path: Path, settings: HuntSettings, *, suite: str = "sandbox",
    kinds: Sequence[str] = ("harmful", "dual_use"),
) -> int:  # fmt: skip
    """Look for attacks on a round's policy and write them to `path`; returns how many were found.

    On the sandbox, with the round's own cost models and the run's warm engines. Only seen tasks are asked, since the finds are
    for training; which of them a round may take is `actors.redteam.finds.finds_as_prompts`'s and `may_train`'s to say.

    Raises:
        ConfigError: the run has no constraint, or a setting is out of range.
    """
    run, layout, number = context.settings, context.layout, context.round_number
    costs = {name: layout.cost(number, name) for name in run.constraints}
    if not costs:
        raise ConfigError("the red team looks for high costs, and this run has no constraint: give one, or no red team")
    context.engines.end_supervised()
    sampling = VictimSettings(
        context.tokenizer_path, run.model.max_length, run.ppo.max_response_tokens,
        temperature=run.evaluation.temperature, seed=run.seed, deadlines=run.resources.deadlines,
    )  # fmt: skip
    victim = EngineVictim(context.engines, policy, costs, sampling)
    labeller = GoldLabeller(context.world)
    targets = sandbox_targets(context.world, kinds=kinds, splits=("seen",), seed=settings.seed)
    searches = hunt(targets, Grammar(load_suite(suite, context.world)), victim, labeller, settings)
    if victim.missing:
        context.warn(f"red team: {victim.missing} of {victim.total} answers could not be drawn or scored")
    origin = Origin(f"round-{number}", model_digest(policy), costs_digest(costs), labeller.source)
    return write_finds([find_of(kept, search, origin) for search in searches for kept in search.kept], path)


def costs_digest(costs: dict[str, Path]) -> str:
    """Of one cost model its own digest, of several one over all."""
    digests = {name: model_digest(folder) for name, folder in costs.items()}
    return next(iter(digests.values())) if len(digests) == 1 else digest(digests)
