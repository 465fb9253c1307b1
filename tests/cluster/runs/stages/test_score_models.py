"""Which score models a run trains, and what makes their stages run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.run_folder.manifest import Manifest, StageRecord
from cluster.runs.stages import score_models
from configs.schema.run import RunSettings

CONSTRAINTS = {"harm": {"limit": 0.1}, "hate": {"limit": 0.1, "categories": ["hate"]}}


def settings(**changes: Any) -> RunSettings:
    return RunSettings(**({"name": "x", "constraints": CONSTRAINTS} | changes))


def keys(folder: Path, **changes: Any) -> dict[str, str]:
    """Stage name → key, over fixed inputs."""
    manifest = Manifest(folder / "manifest.json")
    for name in ("sft", "preferences", score_models.REWARD):
        manifest.record(StageRecord(name, "k", {}, {name: "d"}, 1.0))
    return {stage.name: stage.key(manifest) for stage in score_models.stages(settings(**changes))}


def test_a_run_has_one_reward_model_one_cost_model_per_constraint_and_with_halves_a_test_model() -> None:
    names = [stage.name for stage in score_models.stages(settings())]
    assert names == ["reward_model", "cost_model/harm", "cost_model/hate"]
    stages = score_models.stages(settings(halves={"enabled": True}))
    assert [stage.name for stage in stages][:2] == ["reward_model", "reward_test_model"]
    assert score_models.REWARD in stages[1].inputs, "their agreement is measured"


def test_what_changes_a_model_changes_its_key_and_nothing_elses(tmp_path: Path) -> None:
    plain = keys(tmp_path)
    for changes, again in (
        ({"halves": {"enabled": True}}, {"reward_model"}),
        ({"reward_model": {"epochs": 3, "ensemble": 3}}, {"reward_model"}),
        ({"cost_model": {"calibration": "isotonic"}}, {"cost_model/harm", "cost_model/hate"}),
        ({"cost_model": {"ensemble": 2}}, {"cost_model/harm", "cost_model/hate"}),
        ({"halves": {"alarm": 0.1}}, set()),
    ):
        found = keys(tmp_path, **changes)
        assert {name for name in plain if found[name] != plain[name]} == again, changes


def test_an_ensemble_of_reward_models_is_watched_by_a_single_one(tmp_path: Path) -> None:
    one, many = (
        keys(tmp_path, halves={"enabled": True}, reward_model={"epochs": 3, "ensemble": size}) for size in (1, 3)
    )
    assert one["reward_test_model"] == many["reward_test_model"] and one["reward_model"] != many["reward_model"]
