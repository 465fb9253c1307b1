"""The red team between two rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.redteam.finds import Origin, find_of, write_finds
from actors.redteam.grammar import Grammar
from actors.redteam.labels import GoldLabeller
from actors.redteam.suite_reader import load_suite
from actors.redteam.targets import sandbox_targets
from cluster.evaluation.redteam.hunt import costs_digest, hunt
from cluster.evaluation.redteam.plan import HuntSettings, VictimSettings
from cluster.evaluation.redteam.victim import EngineVictim
from cluster.run_folder.digests import model_digest
from cluster.runs.context import RunContext
from configs.exits import ConfigError


def hunt_in_round(
    context: RunContext,
    policy: Path,
    path: Path,
    settings: HuntSettings,
    *,
    suite: str = "sandbox",
    kinds: Sequence[str] = ("harmful", "dual_use"),
) -> int:
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
        context.tokenizer_path,
        run.model.max_length,
        run.ppo.max_response_tokens,
        temperature=run.evaluation.temperature,
        seed=run.seed,
        deadlines=run.resources.deadlines,
    )
    victim = EngineVictim(context.engines, policy, costs, sampling)
    labeller = GoldLabeller(context.world)
    targets = sandbox_targets(context.world, kinds=kinds, splits=("seen",), seed=settings.seed)
    searches = hunt(targets, Grammar(load_suite(suite, context.world)), victim, labeller, settings)
    if victim.missing:
        context.warn(f"red team: {victim.missing} of {victim.total} answers could not be drawn or scored")
    origin = Origin(f"round-{number}", model_digest(policy), costs_digest(costs), labeller.source)
    return write_finds([find_of(attack, search, origin) for search in searches for attack in search.kept], path)
