"""`steelyard redteam`: how often attacks get something harmful out of one or more models."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from actors.redteam.suite import Suite
    from actors.redteam.targets import Target
    from cluster.evaluation.redteam.models import Attacked
    from cluster.evaluation.redteam.plan import Plan
    from configs.schema.run import RunSettings


class AutoChoice(StrEnum):
    """Which automatic red team."""

    BEST_OF_N = "best_of_n"
    TRAINED = "trained"
    BOTH = "both"


DEFAULT_TOKENS = 256
"""Longest answer of a model from elsewhere; a run's own is its configuration's."""


def redteam(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="RUN, RUN:sft, RUN:policy or a model's folder; NAME=… names it."),
    ],
    suite: Annotated[
        str | None, typer.Option(help="sandbox, english, or a suite file; else what the models read.")
    ] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="Only this strategy; may be given again.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Conversations per attack.")] = 4,
    kinds: Annotated[str, typer.Option(help="Of the sandbox's tasks: harmful, dual_use.")] = "harmful",
    tasks: Annotated[str, typer.Option(help="Splits of the sandbox's tasks: seen, heldout, unknown.")] = "seen,heldout",
    requests: Annotated[
        str | None, typer.Option(help="English: a source of prompts in place of the suite's own requests; 500 at most.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Of those prompts, the ones with this tag, such as unsafe.")] = None,
    auto: Annotated[AutoChoice | None, typer.Option(help="Look for attacks too: best_of_n, trained or both.")] = None,
    tries: Annotated[int, typer.Option(min=1, help="best_of_n: attacks per request.")] = 16,
    keep: Annotated[int, typer.Option(min=1, help="Finds per request.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="trained: steps of 96 attacks.")] = 20,
    scorer: Annotated[
        str | None, typer.Option(metavar="RUN", help="Whose cost models score; else the first run's.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the answers.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer; else the run's own.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the answers and of the search.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for figures, conversations, finds and a page.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Attack models with a suite, and count what gets through; with --auto, look for attacks that work better."""
    from actors.redteam.targets import sandbox_targets
    from cluster.evaluation.redteam.models import find_models, positions_of, scorer_run
    from cluster.evaluation.redteam.plan import SEARCHES, HuntSettings, Plan, VictimSettings, labeller_for, suite_for
    from configs.exits import ConfigError

    attacked = find_models(models)
    attacks = suite_for(suite, attacked, strategy or ())
    _check_sources(attacks, requests, tag)
    world = attacked[0].world()
    notes: tuple[str, ...] = ()
    if attacks.of_world and world is not None:
        targets = sandbox_targets(world, kinds=_words(kinds), splits=_words(tasks), seed=seed)
    else:
        targets, notes = _requests(attacks, requests, tag, seed)
    name, costs = scorer_run(scorer, attacked)
    if auto is not None and not costs:
        raise ConfigError("--auto looks for high costs, and no model here has a cost model: give --scorer RUN")
    if auto is not None and out is None:
        raise ConfigError("--auto writes what it finds: give --out FOLDER")
    settings = _settings(attacked[0], positions_of(attacked[0]))
    searches = SEARCHES if auto is AutoChoice.BOTH else () if auto is None else (auto.value,)
    plan = Plan(
        models=tuple(attacked),
        suite=attacks,
        targets=tuple(targets),
        labeller=labeller_for(attacked, attacks, costs),
        scorer=name,
        costs=costs,
        victim=VictimSettings(
            tokenizer=attacked[0].folder,
            max_length=settings.model.max_length,
            max_response_tokens=max_tokens or _tokens(attacked[0]),
            temperature=temperature,
            seed=seed,
            deadlines=settings.resources.deadlines,
        ),
        samples=samples,
        hunt=None if auto is None else HuntSettings(tuple(searches), tries, keep, samples, steps, seed=seed),
        notes=notes,
    )
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if dry_run:
        conversations = len(plan.models) * len(attacks.forms) * len(targets) * samples
        typer.echo(
            f"valid — {len(attacked)} models, {len(attacks.forms)} forms, {len(targets)} requests: {conversations} conversations"
        )
        return
    _attack(plan, settings, out, as_json=as_json)


def _attack(plan: Plan, settings: RunSettings, out: Path | None, *, as_json: bool) -> None:
    import tempfile

    from rich.console import Console

    from cluster.evaluation.judging import out_folder
    from cluster.resources.connection import join_own_head

    out_folder(out)  # before an hour of attacks, not after it
    with tempfile.TemporaryDirectory(prefix="steelyard-redteam-") as storage:
        join_own_head(Path(storage))
        from cluster.commands.text.redteam import show_result
        from cluster.evaluation.redteam.session import attack_all, engine_victims, write_outcome
        from cluster.resources.connection import warm_engines
        from configs.layout import RunLayout

        with warm_engines(settings, RunLayout(Path(storage))) as (engines, _dashboard):
            outcome = attack_all(plan, engine_victims(plan, engines), lambda text: typer.echo(text, err=True))
    if as_json:
        typer.echo(json.dumps(outcome.document, allow_nan=False))
    else:
        show_result(outcome.document, Console())
    # After the table: what cannot be written has at least been shown.
    written = [] if out is None else write_outcome(outcome, out)
    for path in written:
        typer.echo(f"wrote {path}", err=True)


def _settings(model: Attacked, positions: int) -> RunSettings:
    """The run's, for its resources; of a model from elsewhere the defaults with its positions."""
    from configs.schema.run import RunSettings

    if model.settings is not None:
        return model.settings
    settings = RunSettings(name="redteam")
    return settings.model_copy(update={"model": settings.model.model_copy(update={"max_length": positions})})


def _tokens(model: Attacked) -> int:
    return DEFAULT_TOKENS if model.settings is None else model.settings.ppo.max_response_tokens


def _check_sources(suite: Suite, requests: str | None, tag: str | None) -> None:
    from configs.exits import ConfigError

    if suite.of_world and requests is not None:
        raise ConfigError(
            f"--requests: suite {suite.name} asks for the sandbox's tasks; leave it out, or take --suite english"
        )
    if tag is not None and requests is None:
        raise ConfigError("--tag chooses among the prompts of --requests: give both")


def _requests(suite: Suite, source: str | None, tag: str | None, seed: int) -> tuple[list[Target], tuple[str, ...]]:
    """The suite's own requests, or those of a source that the data readers take; and a note where some are left out."""
    from actors.redteam.targets import prompt_targets, suite_targets
    from cluster.evaluation.redteam.requests import MOST, read_requests

    if source is None:
        return suite_targets(suite), ()
    prompts = read_requests(source, seed, tag=tag)
    sample_note = f"{MOST} of {len(prompts):,} requests of {Path(source).name} are asked; --seed chooses which"
    return prompt_targets(prompts[:MOST]), (sample_note,) if len(prompts) > MOST else ()


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
