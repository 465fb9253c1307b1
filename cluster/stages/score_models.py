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
from cluster.context import RunContext
from cluster.digests import model_digest
from cluster.seeds import stable_seed
from cluster.stages import preferences, sft
from cluster.stages.base import Stage, StageOutput
from configs.schema.run import RunSettings
from configs.schema.supervised import ScoreModelSettings
from learner.deadlines import fetch_result
from learner.preference import PreferenceTask
from learner.score_folders import member_folder
from learner.score_quality import Kind, finish_ensemble, reward_agreement
from learner.statistics.calibration import load_calibration

REWARD, REWARD_TEST = "reward_model", "reward_test_model"
TRAIN_HALF, TEST_HALF = 0, 1
_CODE = (
    *sft.TRAINERS,
    "learner/preference.py",
    "learner/score_folders.py",
    "learner/score_quality.py",
    "learner/statistics/calibration.py",
    "learner/statistics/intervals.py",
    "actors/crowd/datasets.py",
    "cluster/stages/score_models.py",
)


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
    """Every stage that trains a score model, in order."""
    rewards = [reward_stage(settings), *([reward_test_stage(settings)] if settings.halves.enabled else [])]
    return [*rewards, *(cost_stage(settings, name) for name in settings.constraints)]


def cost_stage_name(constraint: str) -> str:
    """Stage name of one constraint's cost model."""
    return f"cost_model/{constraint}"


def reward_stage(settings: RunSettings) -> Stage:
    """The reward model for these settings; with `halves.enabled` on one half of the training conversations."""
    return Stage(
        name=REWARD,
        inputs=(sft.NAME, preferences.NAME),
        settings={**_settings(settings, settings.reward_model), "half": _half(settings, TRAIN_HALF)},
        code=_CODE,
        run=_train_reward,
    )


def reward_test_stage(settings: RunSettings) -> Stage:
    """The reward model on the other half (paper A), which watches the first and from which nothing learns."""
    return Stage(
        name=REWARD_TEST,
        inputs=(sft.NAME, preferences.NAME, REWARD),
        settings={**_settings(settings, _single(settings.reward_model)), "half": TEST_HALF},
        code=_CODE,
        run=_train_reward_test,
    )


def cost_stage(settings: RunSettings, constraint: str) -> Stage:
    """One constraint's cost model for these settings."""
    categories = list(settings.constraints[constraint].categories)
    return Stage(
        name=cost_stage_name(constraint),
        inputs=(sft.NAME, preferences.NAME),
        settings={**_settings(settings, settings.cost_model), "categories": categories},
        code=_CODE,
        run=lambda context: _train_cost(context, constraint),
    )


def _settings(settings: RunSettings, model: ScoreModelSettings) -> dict[str, Any]:
    return {
        "seed": settings.seed,
        "model": model.model_dump(mode="json"),
        "workers": settings.resources.supervised.workers,
        "deterministic": settings.deterministic,
    }


def _half(settings: RunSettings, half: int) -> int | None:
    return half if settings.halves.enabled else None


def _single(settings: ScoreModelSettings) -> ScoreModelSettings:
    return settings.model_copy(update={"ensemble": 1})


# --- what each stage does ---------------------------------------------------------------------------------------------


def _train_reward(context: RunContext) -> StageOutput:
    data, counts = _reward_comparisons(context, "reward.parquet")
    output = context.layout.reward(context.round_number)
    half = _half(context.settings, TRAIN_HALF)
    return train_model(context, ScoreModel(REWARD, "reward", data, output, context.settings.reward_model, half), counts)


def _train_reward_test(context: RunContext) -> StageOutput:
    data, counts = _reward_comparisons(context, "reward-test.parquet")
    output = context.layout.reward_test(context.round_number)
    settings = _single(context.settings.reward_model)
    trained = train_model(context, ScoreModel(REWARD_TEST, "reward", data, output, settings, TEST_HALF), counts)
    agreement = reward_agreement(context.layout.reward(context.round_number), output, data)
    return StageOutput(trained.paths, trained.facts | agreement)


def _train_cost(context: RunContext, constraint: str) -> StageOutput:
    data = context.layout.data / f"cost-{constraint}.parquet"
    categories = list(context.settings.constraints[constraint].categories)
    call = write_cost_comparisons.remote(_labelled(context), str(data), categories)
    counts = _wait(context, call, "write_cost_comparisons")
    output = context.layout.cost(context.round_number, constraint)
    return train_model(
        context, ScoreModel(cost_stage_name(constraint), "cost", data, output, context.settings.cost_model), counts
    )


def train_model(context: RunContext, model: ScoreModel, counts: Mapping[str, int]) -> StageOutput:
    """Train the model, or every member of it; facts are of the score that the loop will see."""
    members = [_train_member(context, model, index) for index in range(model.settings.ensemble)]
    metrics = members[0]
    if len(members) > 1:
        metrics = finish_ensemble(model.output, model.kind, model.data, model.settings, members, model.half)
    refused = json.loads((model.output / "training.json").read_text()).get("calibration_refused")
    if refused is not None:
        context.warn(f"{model.name}: no calibration could be fitted ({refused}); its raw score is taken as log-odds")
    return StageOutput(
        (model.output,),
        {
            "comparisons": dict(counts),
            "digest": model_digest(model.output),
            "reliability": _reliability(model.output),
            **metrics,
        },
    )


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
        {"predicted": each.mean_probability, "observed": each.unsafe_share, "n": each.n}
        for each in (calibration.reliability if calibration else ())
        if each.n
    ]


def _reward_comparisons(context: RunContext, name: str) -> tuple[Path, dict[str, int]]:
    data = context.layout.data / name
    call = write_reward_comparisons.remote(_labelled(context), str(data))
    return data, _wait(context, call, "write_reward_comparisons")


def _labelled(context: RunContext) -> str:
    return str(context.layout.preferences(context.round_number) / "preferences.parquet")


def _wait(context: RunContext, call: Any, what: str) -> dict[str, int]:
    counts: dict[str, int] = fetch_result(
        call, deadline_seconds=context.settings.resources.deadlines.score_seconds, what=what
    )
    return counts
