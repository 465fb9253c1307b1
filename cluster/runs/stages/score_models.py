"""Stages `reward_model`, `reward_test_model` and `cost_model/<constraint>`: preference models on the SFT trunk.

A model may be an ensemble: its members train one after another, and what is judged and calibrated is their combined score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.crowd.datasets import write_cost_comparisons, write_reward_comparisons
from actors.crowd.world import HARM_KINDS
from cluster.run_folder.digests import model_digest, stable_seed
from cluster.runs.context import RunContext
from cluster.runs.signals import trains_reward
from cluster.runs.stages import preferences, sft
from cluster.runs.stages.base import TRAINING, Stage, StageOutput, entry_of
from cluster.runs.stages.on_data import data
from cluster.runs.stages.on_data import score_scales as scales
from configs.schema.run import RunSettings
from configs.schema.supervised import ScoreModelSettings
from learner.deadlines import fetch_result
from learner.models.score_models.folders import member_folder
from learner.statistics.calibration import load_calibration
from learner.statistics.cost_zero import CostZero
from learner.supervised.preference import PreferenceTask
from learner.supervised.score_models.axis_accuracy import axis_accuracies
from learner.supervised.score_models.baselines import measure_worth
from learner.supervised.score_models.declared_zero import place_zero
from learner.supervised.score_models.quality import Kind, finish_ensemble, reward_agreement

REWARD, REWARD_TEST = "reward_model", "reward_test_model"
TRAIN_HALF, TEST_HALF = 0, 1
_CODE = (*TRAINING, "learner.supervised.preference:train_preference")


@dataclass(frozen=True)
class ScoreModel:
    """One model, or ensemble, to train."""

    name: str
    kind: Kind
    data: Path
    output: Path
    settings: ScoreModelSettings
    half: int | None = None


def stages(settings: RunSettings) -> list[Stage]:
    """Every stage that trains a score model, in order; then the one that tries the scorers of the other signals."""
    rewards = [reward_stage(settings)] if trains_reward(settings) else []
    if settings.halves.enabled:
        rewards.append(reward_test_stage(settings))
    costs = [
        cost_stage(settings, name) for name, constraint in settings.constraints.items() if constraint.scorer is None
    ]
    return [*rewards, *costs, *scales.stages(settings)]


def cost_stage_name(constraint: str) -> str:
    """Stage name of one constraint's cost model."""
    return f"cost_model/{constraint}"


def labels_stage_name(settings: RunSettings) -> str:
    """The stage whose labels the score models of the first round learn from: files of pairs, or somebody's labels."""
    return preferences.NAME if settings.data is None else data.NAME


def labels_facts(context: RunContext) -> dict[str, Any]:
    """Of a run on data ``sets`` and ``harm-labels`` of this round's score models: files first, labelled pairs later."""
    return context.facts(data.NAME if context.round_number == 1 else preferences.NAME)


def reward_stage(settings: RunSettings) -> Stage:
    """The reward model for these settings; with `halves.enabled` on one half of the training conversations."""
    return Stage(
        name=REWARD,
        inputs=(sft.NAME, labels_stage_name(settings)),
        settings={**_settings(settings, settings.reward_model), "half": _half(settings, TRAIN_HALF)},
        code=(entry_of(_train_reward), *_CODE),
        run=_train_reward,
    )


def reward_test_stage(settings: RunSettings) -> Stage:
    """The reward model on the other half (paper A), which watches the first and from which nothing learns."""
    return Stage(
        name=REWARD_TEST,
        inputs=(sft.NAME, labels_stage_name(settings), REWARD),
        settings={**_settings(settings, _single(settings.reward_model)), "half": TEST_HALF},
        code=(entry_of(_train_reward_test), *_CODE),
        run=_train_reward_test,
    )


def cost_stage(settings: RunSettings, constraint: str) -> Stage:
    """One constraint's cost model for these settings."""
    categories = list(settings.constraints[constraint].categories)
    return Stage(
        name=cost_stage_name(constraint),
        inputs=(sft.NAME, labels_stage_name(settings)),
        settings={**_settings(settings, settings.cost_model), "categories": categories, **_zero(settings)},
        code=(entry_of(_train_cost), *_CODE),
        run=lambda context: _train_cost(context, constraint),
    )


def _settings(settings: RunSettings, model: ScoreModelSettings) -> dict[str, Any]:
    return {
        "seed": settings.seed,
        "model": model.model_dump(mode="json"),
        "workers": settings.resources.supervised.workers,
        "deterministic": settings.deterministic,
    }


def _zero(settings: RunSettings) -> dict[str, Any]:
    return {} if settings.data is None else {"zero": settings.data.zero.model_dump(mode="json")}


def _half(settings: RunSettings, half: int) -> int | None:
    return half if settings.halves.enabled else None


def _single(settings: ScoreModelSettings) -> ScoreModelSettings:
    return settings.model_copy(update={"ensemble": 1})


# --- what each stage does ---------------------------------------------------------------------------------------------


def _train_reward(context: RunContext) -> StageOutput:
    path, counts = _reward_comparisons(context, "reward.parquet")
    output = context.layout.reward(context.round_number)
    half = _half(context.settings, TRAIN_HALF)
    trained = train_model(
        context, ScoreModel(REWARD, "reward", path, output, context.settings.reward_model, half), counts
    )
    if context.settings.data is not None:
        return trained
    return StageOutput(trained.paths, {**trained.facts, "axes": axis_accuracies(output, path, HARM_KINDS)})


def _train_reward_test(context: RunContext) -> StageOutput:
    path, counts = _reward_comparisons(context, "reward-test.parquet")
    output = context.layout.reward_test(context.round_number)
    settings = _single(context.settings.reward_model)
    trained = train_model(context, ScoreModel(REWARD_TEST, "reward", path, output, settings, TEST_HALF), counts)
    agreement = reward_agreement(context.layout.reward(context.round_number), output, path)
    return StageOutput(trained.paths, trained.facts | agreement)


def _train_cost(context: RunContext, constraint: str) -> StageOutput:
    path = context.layout.data_of(context.round_number) / f"cost-{constraint}.parquet"
    if context.settings.data is None:
        categories = list(context.settings.constraints[constraint].categories)
        call = write_cost_comparisons.remote(_labelled(context), str(path), categories)
        counts = _wait(context, call, "write_cost_comparisons")
    else:
        counts = _written(context, f"cost-{constraint}")
    output = context.layout.cost(context.round_number, constraint)
    model = ScoreModel(cost_stage_name(constraint), "cost", path, output, context.settings.cost_model)
    return train_model(context, model, counts, constraint)


def train_model(
    context: RunContext, model: ScoreModel, counts: Mapping[str, int], constraint: str | None = None
) -> StageOutput:
    """Train the model, or every member of it; facts are of the score that the loop will see."""
    members = [_train_member(context, model, index) for index in range(model.settings.ensemble)]
    metrics = members[0]
    if len(members) > 1:
        metrics = finish_ensemble(model.output, model.kind, model.data, model.settings, members, model.half)
    more: dict[str, Any] = {}
    if context.settings.data is not None:
        metrics, more = judge_on_data(context, model, metrics, constraint)
    refused = json.loads((model.output / "training.json").read_text()).get("calibration_refused")
    if refused is not None and "zero" not in more:
        context.warn(f"{model.name}: no calibration could be fitted ({refused}); its raw score is taken as log-odds")
    return StageOutput(
        (model.output,),
        {
            "comparisons": dict(counts),
            "digest": model_digest(model.output),
            "reliability": _reliability(model.output),
            **metrics,
            **more,
        },
    )


def judge_on_data(
    context: RunContext, model: ScoreModel, metrics: dict[str, float], constraint: str | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """What real labels say of the trained model: its worth, and of a cost that no safety label trained its zero.

    Returns:
        The metrics of the score that the loop will see, and the facts ``worth`` and, of such a cost, ``zero``.
    """
    settings = context.settings
    assert settings.data is not None
    worth = measure_worth(model.output, model.kind, model.data, model.half)
    if worth.doubtful:
        context.warn(f"{model.name}: {worth.sentence}")
    more: dict[str, Any] = {"worth": worth.document()}
    if constraint is not None and not labels_facts(context)["harm-labels"][constraint]["signed"]:
        zero, metrics = place_zero(model.output, model.data, settings.data.zero, metrics, settings.seed)
        context.warn(_zero_warning(settings, constraint, zero))
        more["zero"] = zero.document()
    return metrics, more


def _zero_warning(settings: RunSettings, constraint: str, zero: CostZero) -> str:
    text = (
        f"cost of {constraint} is {zero.warning}; its zero is {zero.method} "
        f"({zero.value:.2f} [{zero.low:.2f}, {zero.high:.2f}] of the raw score)"
    )
    if settings.constraints[constraint].measure != "rate":
        return text
    return f"{text}; data.zero.as_safety_label takes what is above it for unsafe all the same"


def _train_member(context: RunContext, model: ScoreModel, index: int) -> dict[str, float]:
    """Member 0 has the run's seed, as a single model has; it comes first, for saving it replaces the whole folder."""
    seed = context.settings.seed
    task = PreferenceTask(
        name=f"{model.name} {index + 1} of {model.settings.ensemble}" if model.settings.ensemble > 1 else model.name,
        kind=model.kind,
        data=model.data,
        policy=context.layout.sft,
        output=member_folder(model.output, index),
        settings=model.settings,
        seed=seed if index == 0 else stable_seed(seed, model.name, "member", index),
        half=model.half,
    )
    return context.engines.train(task, context.status)


def _reliability(folder: Path) -> list[dict[str, Any]]:
    """Bins of the cost model's reliability diagram that hold anything."""
    calibration = load_calibration(folder)
    return [
        {
            "predicted": reliability_bin.mean_probability,
            "observed": reliability_bin.unsafe_share,
            "n": reliability_bin.n,
        }
        for reliability_bin in (calibration.reliability if calibration else ())
        if reliability_bin.n
    ]


def _reward_comparisons(context: RunContext, name: str) -> tuple[Path, dict[str, int]]:
    if context.settings.data is not None:
        return context.layout.data_of(context.round_number) / "reward.parquet", _written(context, "reward")
    path = context.layout.data_of(context.round_number) / name
    share = context.settings.reward_model.harmlessness_share
    call = write_reward_comparisons.remote(_labelled(context), str(path), share)
    return path, _wait(context, call, "write_reward_comparisons")


def _written(context: RunContext, name: str) -> dict[str, int]:
    """Rows of a training set, by their purpose."""
    report = labels_facts(context)["sets"][name]
    return {"pairs": report["written"], "cut": report["cut"], **report["purposes"]}


def _labelled(context: RunContext) -> str:
    return str(context.layout.training_pairs(context.round_number))


def _wait(context: RunContext, call: Any, operation: str) -> dict[str, int]:
    counts: dict[str, int] = fetch_result(
        call, deadline_seconds=context.settings.resources.deadlines.score_seconds, operation=operation
    )
    return counts
