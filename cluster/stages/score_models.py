"""Stages `reward_model` and `cost_model/<constraint>`: preference models on the SFT trunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from actors.crowd.datasets import write_cost_comparisons, write_reward_comparisons
from cluster.context import RunContext
from cluster.stages import preferences, sft
from cluster.stages.base import Stage, StageOutput
from configs.schema.run import RunSettings
from configs.schema.supervised import ScoreModelSettings
from learner.deadlines import fetch_result
from learner.preference import PreferenceTask

REWARD = "reward_model"
_CODE = (
    *sft.TRAINERS,
    "learner/preference.py",
    "learner/statistics/calibration.py",
    "actors/crowd/datasets.py",
)


def cost_stage_name(constraint: str) -> str:
    """Stage name of one constraint's cost model."""
    return f"cost_model/{constraint}"


def reward_stage(settings: RunSettings) -> Stage:
    """The reward model for these settings."""
    return Stage(
        name=REWARD,
        inputs=(sft.NAME, preferences.NAME),
        settings=_settings(settings, settings.reward_model),
        code=_CODE,
        run=_train_reward,
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
        "holdout_share": settings.preferences.holdout_share,
        "workers": settings.resources.supervised.workers,
        "deterministic": settings.deterministic,
    }


def _train_reward(context: RunContext) -> StageOutput:
    data = context.layout.data / "reward.parquet"
    call = write_reward_comparisons.remote(_labelled(context), str(data), context.settings.preferences.holdout_share)
    counts = _wait(context, call, "write_reward_comparisons")
    output = context.layout.reward(context.round_number)
    return _train(context, REWARD, "reward", data, output, context.settings.reward_model, counts)


def _train_cost(context: RunContext, constraint: str) -> StageOutput:
    data = context.layout.data / f"cost-{constraint}.parquet"
    categories = list(context.settings.constraints[constraint].categories)
    share = context.settings.preferences.holdout_share
    call = write_cost_comparisons.remote(_labelled(context), str(data), share, categories)
    counts = _wait(context, call, "write_cost_comparisons")
    output = context.layout.cost(context.round_number, constraint)
    return _train(context, cost_stage_name(constraint), "cost", data, output, context.settings.cost_model, counts)


def _train(
    context: RunContext,
    name: str,
    kind: Literal["reward", "cost"],
    data: Path,
    output: Path,
    settings: ScoreModelSettings,
    counts: dict[str, int],
) -> StageOutput:
    task = PreferenceTask(
        name=name,
        kind=kind,
        data=data,
        policy=context.layout.sft,
        output=output,
        settings=settings,
        seed=context.settings.seed,
    )
    metrics = context.engines.train(task, context.status)
    training = json.loads((output / "training.json").read_text())
    if "calibration_refused" in training:
        context.warn(
            f"{name}: no calibration could be fitted ({training['calibration_refused']}); its raw score is taken as log-odds"
        )
    return StageOutput((output,), {"comparisons": counts, "reliability": training.get("reliability", []), **metrics})


def _labelled(context: RunContext) -> str:
    return str(context.layout.preferences(context.round_number) / "preferences.parquet")


def _wait(context: RunContext, call: Any, what: str) -> dict[str, int]:
    counts: dict[str, int] = fetch_result(
        call, deadline_seconds=context.settings.resources.deadlines.score_seconds, what=what
    )
    return counts
