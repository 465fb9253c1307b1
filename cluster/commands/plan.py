"""`steelyard plan`: what a run would need and take, before it costs anything. Imports no engine, except to calibrate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import AsJson, Overrides, finite
from cluster.resources.planning.sizes import shape_of
from configs.exits import ClusterError, ConfigError
from configs.load import load_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.resources.planning.plan import Plan, Question
    from cluster.resources.planning.rates import Rates

GB = 1e9


def plan(
    config: Annotated[str | None, typer.Argument(help="A YAML file, or the name of a preset.")] = None,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Equal nodes.")] = 1,
    gpu: Annotated[
        str, typer.Option("--gpu", help="Kind and number in a node: h100:8, a100:8, h200:8, l40s:4; cpu:2 for cores.")
    ] = "h100:8",
    params: Annotated[
        str | None, typer.Option("--params", help="Plan for a model of this size instead, such as 7b.")
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0, callback=finite, help="Of one GPU (or core) and hour.")
    ] = None,
    prompt_tokens: Annotated[
        float | None,
        typer.Option(
            "--prompt-tokens",
            min=1,
            callback=finite,
            help="Mean of the prompts; else the world's own, or half of what may be.",
        ),
    ] = None,
    response_tokens: Annotated[
        float | None,
        typer.Option("--response-tokens", min=1, callback=finite, help="Mean of the responses; else half of the most."),
    ] = None,
    host_memory: Annotated[
        float | None, typer.Option("--host-memory", min=1, callback=finite, help="GB of one node.")
    ] = None,
    network: Annotated[
        float | None, typer.Option("--network", min=0.01, callback=finite, help="GB/s of one node.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Rates that were measured; else the newest in .steelyard/.")
    ] = None,
    assumed: Annotated[bool, typer.Option("--assumed", help="Pass over any calibration.")] = False,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure CONFIG's own actors on the cluster for some minutes, and keep it."),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Calibrate on this Ray cluster; auto inside a job. Else on our own head."),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Print the table of 7B, 13B and 70B on 8 to 512 GPUs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what CONFIG needs and takes on a cluster, what bounds it, and what would be better; exit 6 if it cannot fit."""
    if table:
        from cluster.resources.planning.paper import paper_table

        typer.echo(paper_table())
        return
    if config is None:
        raise ConfigError("give a configuration: a YAML file or the name of a preset (steelyard config list)")
    settings = load_settings(config, overrides or ())
    from cluster.resources.planning.hardware import read_cluster

    cluster = read_cluster(
        gpu,
        nodes,
        host_memory=None if host_memory is None else host_memory * GB,
        network=None if network is None else network * GB,
    )
    from cluster.resources.planning.plan import Question, check_devices, make_plan
    from cluster.resources.planning.workload import read_workload

    check_devices(settings.resources, cluster)
    shape = shape_of(settings, params)
    if prompt_tokens is None and settings.data is None and params is None:
        prompt_tokens = _sandbox_prompt(settings)
    work = read_workload(settings, prompt_tokens=prompt_tokens, response_tokens=response_tokens)
    kind = cluster.hardware.kind
    rates = None if calibrate else _rates(kind, calibration, assumed=assumed)
    question = Question(settings.resources, shape, work, cluster, rates)
    if calibrate:
        question = _calibrated(settings, question, calibration, address)
    _tell(settings, make_plan(question), price=price, as_json=as_json)


def _sandbox_prompt(settings: RunSettings) -> float:
    from actors.crowd.world_reader import load_world
    from cluster.inputs.world_checks import mean_prompt_tokens

    return mean_prompt_tokens(load_world(settings.sandbox.world))  # `shape_of` has checked it


def _rates(kind: str, rates_file: Path | None, *, assumed: bool) -> Rates | None:
    from cluster.resources.planning.rates import load_rates, usual_place

    if assumed:
        return None
    if rates_file is not None:
        return load_rates(rates_file, kind)
    usual = usual_place(kind, _state())
    return load_rates(usual, kind) if usual.is_file() else None


def _state() -> Path:
    return Path.cwd() / ".steelyard"


def _calibrated(settings: RunSettings, question: Question, rates_file: Path | None, address: str | None) -> Question:
    """Measure on a cluster, this machine's own head if none is named, write it down, and plan with it."""
    import os
    from dataclasses import replace

    from cluster.commands.common import storage_of
    from cluster.resources.connection import join_own_head
    from cluster.resources.planning.rates import save_rates, usual_place

    if address is None:
        join_own_head(storage_of(settings))
    elif address != "auto":
        os.environ["RAY_ADDRESS"] = address
    from cluster.resources.planning.calibrate import calibrate_here

    rates = calibrate_here(settings, question, say=lambda text: typer.echo(text, err=True))
    path = rates_file or usual_place(question.cluster.hardware.kind, _state())
    save_rates(rates, path)
    typer.echo(f"calibration written to {path}", err=True)
    return replace(question, rates=rates)


def _tell(settings: RunSettings, plan: Plan, *, price: float | None, as_json: bool) -> None:
    from cluster.resources.planning.plan import document
    from cluster.resources.planning.render import refusal, render
    from cluster.resources.planning.search import better_split

    better = better_split(settings, plan)
    if as_json:
        typer.echo(json.dumps(document(plan, price=price, better=better.document() if better else None)))
    else:
        from rich.console import Console

        Console().print(render(plan, better, price=price))
    if not plan.fits:
        raise ClusterError(refusal(plan, better))
