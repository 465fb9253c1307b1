"""Stage `data`: a run's sources become its tokenizer, the model it starts from, training sets, and prompts by purpose."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.training_sets.on_data import SetRequest, train_tokenizer, write_training_set
from cluster.inputs.sources import FileInputs
from cluster.runs.answers.judge_by_models import refuse_too_few_for_certificate, refuse_too_few_kept
from cluster.runs.context import RunContext
from cluster.runs.stages.base import Stage, StageOutput, entry_of, link_tree
from configs.exits import ConfigError
from configs.schema.run import RunSettings
from learner.data.sources import FoundSource
from learner.data.splits import Shares
from learner.data.tokenise import TokenLimits
from learner.data.tokenizer import load_tokenizer
from learner.deadlines import fetch_result
from learner.model_files.folders import folder_fingerprint
from learner.models.pretrained import prepare_model

NAME = "data"
INITIAL, PROMPTS, DEMONSTRATIONS = "initial", "prompts.parquet", "sft.parquet"
"""What it leaves in the run's data folder: the model that SFT starts from, and files of token ids."""


def data_stage(settings: RunSettings, inputs: FileInputs) -> Stage:
    """The stage for these settings and sources."""
    return Stage(
        name=NAME,
        inputs=(),
        settings={
            "sources": inputs.digest(),
            "seed": settings.seed,
            "model": settings.model.model_dump(mode="json"),
            "weights": _weights_digest(settings),
            "max_response_tokens": settings.ppo.max_response_tokens,
            "splits": settings.splits.model_dump(mode="json", exclude={"by"}),
            "categories": {name: list(constraint.categories) for name, constraint in settings.constraints.items()},
            "as_safety_label": inputs.settings.zero.as_safety_label,
            "measures": {name: constraint.measure for name, constraint in settings.constraints.items()},
        },
        code=(entry_of(_run),),
        run=_run,
    )


def _weights_digest(settings: RunSettings) -> str | None:
    """Of a pretrained model in a folder here; of the hub, name and revision stand for it."""
    path = Path(settings.model.path).expanduser() if settings.model.path else None
    return folder_fingerprint(path) if path is not None and path.is_dir() else None


def shares_of(settings: RunSettings) -> Shares:
    """Which share of the prompts is kept for what."""
    assert settings.data is not None
    splits = settings.splits
    return Shares(splits.holdout, splits.calibration, splits.selection, splits.certificate, by=settings.data.unit)


def evaluation_file(context: RunContext, name: str) -> Path:
    """The prompts of one set of `data.evaluation`."""
    return context.layout.data / f"evaluation-{name}.parquet"


def _run(context: RunContext) -> StageOutput:
    inputs = context.files
    context.engines.start_supervised()  # the trainers come up while files are read
    _warn_of_fallbacks(context, inputs)
    context.layout.data.mkdir(parents=True, exist_ok=True)
    requests = dict(_requests(context, inputs))
    context.status.update(step=0, steps=len(requests) + 1)
    model = _start(context, inputs)
    reports = _write_sets(context, requests)
    labels = {
        name: reports[f"cost-{name}"]["labels"] for name in context.settings.constraints if f"cost-{name}" in reports
    }
    refuse_rate_on_relative_cost(context.settings, labels)
    refuse_too_few_kept(context)
    refuse_too_few_for_certificate(context)
    outputs = [context.layout.data / INITIAL, context.tokenizer_path, *(request.path for request in requests.values())]
    return StageOutput(tuple(outputs), {"model": model, "sets": reports, "harm-labels": labels})


def _start(context: RunContext, inputs: FileInputs) -> dict[str, Any]:
    """The model's folder and the tokenizer's: a pretrained one made ready, or new ones."""
    settings, target = context.settings, context.layout.data / INITIAL
    if settings.model.path is None:
        texts = (*inputs.demonstrations, *inputs.helpfulness, *inputs.harmlessness)
        facts: dict[str, Any] = _wait(
            context, train_tokenizer.remote(texts, settings.model, settings.seed, str(target)), "train_tokenizer"
        )
    else:
        facts = prepare_model(settings.model, target).document()
    shutil.rmtree(context.tokenizer_path, ignore_errors=True)
    load_tokenizer(target).save_pretrained(str(context.tokenizer_path))
    return facts


def _requests(context: RunContext, inputs: FileInputs) -> Iterator[tuple[str, SetRequest]]:
    """Every file to make, by the name of its report."""
    settings, data = context.settings, context.layout.data
    limits = TokenLimits(settings.model.max_length, settings.model.max_length - settings.ppo.max_response_tokens)

    def request(kind: Any, sources: tuple[FoundSource, ...], file: str, **more: Any) -> SetRequest:
        path = data / file
        return SetRequest(kind, sources, path, context.tokenizer_path, limits, shares_of(settings), **more)

    if inputs.demonstrations:
        yield (
            "demonstrations",
            request("demonstrations", inputs.demonstrations, DEMONSTRATIONS, show=inputs.settings.show),
        )
    if settings.objective.scorer is None and inputs.helpfulness:
        yield "reward", request("reward", inputs.helpfulness, "reward.parquet")
    for name, constraint in settings.constraints.items():
        if constraint.scorer is None:
            file = f"cost-{name}.parquet"
            yield f"cost-{name}", request("cost", inputs.harmlessness, file, categories=constraint.categories)
    yield "prompts", request("prompts", inputs.prompts, PROMPTS)
    for name, source in inputs.evaluation.items():
        yield f"evaluation-{name}", request("prompts", (source,), evaluation_file(context, name).name)


def _write_sets(context: RunContext, requests: Mapping[str, SetRequest]) -> dict[str, dict[str, Any]]:
    calls = {name: write_training_set.remote(request) for name, request in requests.items()}
    reports = {}
    for number, (name, call) in enumerate(calls.items(), start=1):
        reports[name] = _wait(context, call, f"write_training_set({name})")
        context.status.update(step=number + 1, steps=len(requests) + 1)
        if reports[name]["quarantined"]:
            context.warn(
                f"data: {reports[name]['quarantined']} of {reports[name]['rows']} rows for {name} cannot be used; they are "
                f"in data/quarantine-{requests[name].path.name} with their reasons"
            )
    return reports


def refuse_rate_on_relative_cost(settings: RunSettings, labels: Mapping[str, Mapping[str, int]]) -> None:
    """A share of unsafe answers means nothing for a cost that no safety label trained.

    Raises:
        ConfigError: a constraint measures the rate of such a cost, and `data.zero.as_safety_label` is off.
    """
    assert settings.data is not None
    for name, counts in labels.items():
        relative = not counts["signed"]
        if relative and settings.constraints[name].measure == "rate" and not settings.data.zero.as_safety_label:
            raise ConfigError(
                f"constraints.{name}.measure: rate needs safety labels, and none of the {counts['pairs']} pairs of "
                "data.harmlessness has one: its cost is relative; take mean, or set data.zero.as_safety_label: true"
            )


def _warn_of_fallbacks(context: RunContext, inputs: FileInputs) -> None:
    for source in inputs.all_sources:
        if source.replaced:
            context.warn(
                f"data: {source.settings.source} is not here, and {source.settings.otherwise} is taken instead"
            )


def _wait(context: RunContext, call: Any, operation: str) -> Any:
    deadline = context.settings.resources.deadlines.train_seconds
    return fetch_result(call, deadline_seconds=deadline, operation=operation)


def copy_unlearnt(context: RunContext) -> Path:
    """The SFT policy of a run without demonstrations: the model as it was given."""
    link_tree(context.layout.data / INITIAL, context.layout.sft)
    return context.layout.sft
