"""`steelyard eval`: what models do on prompts that you choose, by a judge that you choose."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.evaluation.prompt_sets import PromptSet
    from cluster.evaluation.targets import Target

CACHE = Path("~/.cache/steelyard")
RESPONSE_TOKENS = 256
"""Where no model is a run's, which knows its own."""


class EngineChoice(StrEnum):
    """What draws the answers of local models."""

    AUTO = "auto"
    VLLM = "vllm"
    HF = "hf"


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL...",
            help="RUN, RUN:sft, a Hugging Face folder, hub:owner/name@revision, or http://host/v1#model-id.",
        ),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts",
            metavar="[NAME=]SOURCE",
            help="As `steelyard data` reads, or sandbox:seen and so on; repeatable.",
        ),
    ] = None,
    judge: Annotated[
        str, typer.Option("--judge", help="gold (sandbox prompts), models:RUN, llm:http://host/v1, or people.")
    ] = "gold",
    judge_model: Annotated[str | None, typer.Option("--judge-model", help="llm: the model's id there.")] = None,
    judge_prompts: Annotated[
        Path | None, typer.Option("--judge-prompts", help="llm: a folder with prompts of your own.")
    ] = None,
    judge_key_env: Annotated[
        str | None, typer.Option("--judge-key-env", help="llm: the environment variable that holds its key.")
    ] = None,
    api_key_env: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key-env",
            metavar="[LABEL=]VARIABLE",
            help="Environment variable with the key of a model at an address; LABEL= where there are several; repeatable.",
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Prompts of each set at most; else all.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, callback=finite, help="0 takes the likeliest token each time.")
    ] = 1.0,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Of an answer; else the runs' own, or 256.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling and of the prompts drawn.")] = 0,
    engine: Annotated[
        EngineChoice, typer.Option(help="Of local models; auto is vllm where it is installed.")
    ] = EngineChoice.AUTO,
    template: Annotated[
        str | None, typer.Option(help="Chat template of models without one: papers, hh or chatml.")
    ] = None,
    world: Annotated[Path | None, typer.Option(help="The sandbox's world; else the packaged one.")] = None,
    anchor: Annotated[str | None, typer.Option(help="The model with 1000 Elo points; else the mean has.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, callback=finite, help="Of every interval.")] = 0.95,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400.0, callback=finite, help="Seconds for one try at an address.")
    ] = 120.0,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time at an address.")] = 8,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for Parquet files, JSON and the report.")] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder of answers given before.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask for everything, keep nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for a script.")] = False,
) -> None:
    """Evaluate one or more models: harm, refusals, helpfulness, length; of two or more also win rates and Elo."""
    import json

    from cluster.evaluation.prompt_sets import read_prompt_sets
    from cluster.evaluation.targets import find_targets
    from configs.exits import ConfigError

    if no_cache and cache is not None:
        raise ConfigError("--cache and --no-cache contradict each other: give one")
    targets = find_targets(models)
    if anchor is not None and anchor not in [target.label for target in targets]:
        raise ConfigError(f"--anchor {anchor}: no model is called that")
    sets = read_prompt_sets(prompts or (), n=n, seed=seed, world=world)
    _refuse_foreign_gold(judge, sets)

    # After the checks above, which need no engine: these imports take seconds.
    from rich.console import Console

    from actors.judging.judges.chat_endpoint import EndpointOptions
    from actors.judging.judges.response_cache import ResponseCache
    from cluster.commands.text.evaluate import show
    from cluster.commands.text.evaluate_progress import shown_progress
    from cluster.evaluation.answers import AskOptions
    from cluster.evaluation.judging import choose_judge, key_from
    from cluster.evaluation.keys import model_keys
    from cluster.evaluation.run import evaluate as run_evaluation
    from cluster.evaluation.run import write_files

    keys = model_keys(api_key_env or (), targets)
    endpoint = EndpointOptions(timeout_seconds=timeout, concurrency=concurrency)
    choice = choose_judge(
        judge,
        model=judge_model,
        key=key_from(judge_key_env, "--judge-key-env"),
        prompts=judge_prompts,
        world=world,
        out=out,
        options=endpoint,
    )
    options = AskOptions(
        temperature=temperature,
        max_tokens=max_tokens or _response_tokens(targets),
        seed=seed,
        engine=engine.value,
        template=template,
        keys=keys,
        endpoint=endpoint,
    )
    folder = (cache or CACHE).expanduser()
    store = ResponseCache(None if no_cache else folder)
    console = Console(stderr=True)
    total = len(targets) * sum(len(prompt_set.prompts) for prompt_set in sets)
    with shown_progress(console, total) as (count_answers, judged_more):
        evaluation = run_evaluation(
            targets,
            sets,
            choice,
            options,
            store,
            scratch=folder,
            out=out,
            anchor=anchor,
            confidence=confidence,
            count_answers=count_answers,
            judged_more=judged_more,
        )
    store.close()
    if as_json:
        typer.echo(json.dumps(evaluation.document, allow_nan=False))
    else:
        show(evaluation.document, Console())
    # After the table: what cannot be written has at least been shown.
    files = [] if out is None else write_files(evaluation, out)
    for path in files:
        console.print(f"written: {path}", style="dim", highlight=False, markup=False)


def _response_tokens(targets: Sequence[Target]) -> int:
    """The most that any run let its policy draw: the same for all models, or their lengths could not be compared."""
    return max((target.response_tokens for target in targets if target.response_tokens), default=RESPONSE_TOKENS)


def _refuse_foreign_gold(judge: str, sets: Sequence[PromptSet]) -> None:
    """Before anything is drawn.

    Raises:
        ConfigError: gold is asked of prompts that are not the sandbox's.
    """
    from configs.exits import ConfigError

    foreign = [
        prompt_set.name
        for prompt_set in sets
        if any("task_id" not in prompt.attributes for prompt in prompt_set.prompts)
    ]
    if judge == "gold" and foreign:
        raise ConfigError(
            f"--judge gold knows only the sandbox's prompts, and {foreign[0]} has others: give --judge models:RUN, "
            "llm:URL or people"
        )
