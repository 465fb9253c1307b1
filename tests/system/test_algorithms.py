"""Every algorithm, guard and certificate option through whole runs at the smallest size, on shared earlier stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.experiments.arms import run_comparison
from cluster.inputs.world_checks import check_against_world
from cluster.resources.engines import Engines
from cluster.runs.pipeline import run_pipeline
from configs.exits import ConfigError, Exit
from configs.layout import RunLayout
from configs.load import arm_settings, load_settings
from configs.schema.run import RunSettings
from tests.system.test_pipeline import TINY

ARMS = """
extends: quickstart
name: tiny-algorithms
deterministic: true
constraints:
  harm: {min_samples: 1}
ppo: {groups: {size: 4}}
best_of_k: {k: 2}
direct: {epochs: 1, batch_size: 16}
arms:
  guarded:
    halves.enabled: true
    halves.alarm: 0.000001
    reward_model.ensemble: 2
    cost_model.ensemble: 2
    ppo.kl_budget: 1.0e-12
    certificate.labels: crowd
    certificate.labelled: 100
    constraints.harm.upper_confidence: 0.9
  reference:
    splits.by: task
    reference: {multiplier_per_minibatch: true, masks_by_token_id: true, truncate_prompt_right: true}
  grpo_lag: {algorithm: grpo_lag}
  safe_dpo: {algorithm: safe_dpo}
"""
THE_OTHERS = """
  gdpo: {algorithm: gdpo}
  rvpo: {algorithm: rvpo, constraints.harm.dual: {form: fixed}}
  dpo: {algorithm: dpo}
  best_of_k: {algorithm: best_of_k}
"""
pytestmark = pytest.mark.timeout(900)
"""A fixture runs all of an arm list."""

WITHOUT_A_LOOP = ("dpo", "safe_dpo", "best_of_k")


@pytest.fixture(scope="module")
def run(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunSettings, RunLayout, Engines]]:
    """One comparison of some, for most tests of this file."""
    root = tmp_path_factory.mktemp("algorithms")
    settings = settings_of(root, ARMS)
    engines = Engines(settings.resources, settings.model.max_length, root / "ray_train", deterministic=True)
    layout = RunLayout(root / settings.name)
    try:
        assert run_comparison(settings, layout, engines) == Exit.DONE
        yield settings, layout, engines
    finally:
        engines.close()


@pytest.fixture(scope="module")
def every_arm(run: tuple[RunSettings, RunLayout, Engines]) -> tuple[RunSettings, RunLayout, Engines]:
    """The same comparison with the other algorithms too; what is there is not run again."""
    _, layout, engines = run
    settings = settings_of(layout.root.parent, ARMS + THE_OTHERS.lstrip("\n"))
    assert run_comparison(settings, layout, engines) == Exit.DONE
    return settings, layout, engines


def settings_of(root: Path, text: str) -> RunSettings:
    path = root / "run.yaml"
    path.write_text(text)
    return load_settings(path, [*TINY, "reward_model.epochs=1"])


def summary_of(layout: RunLayout, arm: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(layout.arm(arm, 0).summary.read_text())
    return found


def steps(layout: RunLayout, arm: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in layout.arm(arm, 0).metrics.read_text().splitlines()]


@pytest.mark.parametrize("arm", ["guarded", "reference", "grpo_lag", "safe_dpo"])
def test_an_algorithm_ends_judged_and_certified(run: tuple[Any, ...], arm: str) -> None:
    judged_and_certified(run, arm)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["gdpo", "rvpo", "dpo", "best_of_k"])
def test_so_does_every_other(every_arm: tuple[Any, ...], arm: str) -> None:
    judged_and_certified(every_arm, arm)


def judged_and_certified(run: tuple[Any, ...], arm: str) -> None:
    settings, layout, _ = run
    summary = summary_of(layout, arm)
    assert summary["algorithm"] == arm_settings(settings, arm, 0).algorithm
    assert set(summary["certificate"]["constraints"]) == {"harm"}
    assert summary["evaluation"]["policy"]["seen"]["harm_rate_harmful"]["n"] == 10
    assert layout.arm(arm, 0).report.stat().st_size > 5000
    assert (summary["ppo"] is None) == (arm in WITHOUT_A_LOOP)


def test_a_group_algorithm_asks_each_prompt_as_often_as_a_group_is_large(run: tuple[Any, ...]) -> None:
    asked_in_groups(run, "grpo_lag")


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["gdpo", "rvpo"])
def test_so_do_the_other_group_algorithms(every_arm: tuple[Any, ...], arm: str) -> None:
    asked_in_groups(every_arm, arm)


def asked_in_groups(run: tuple[Any, ...], arm: str) -> None:
    _, layout, _ = run
    table = pq.read_table(layout.arm(arm, 0).rollouts, columns=["step", "prompt_id", "request_id"]).to_pylist()
    first = [row for row in table if row["step"] == 1]
    asked = {row["prompt_id"]: sum(each["prompt_id"] == row["prompt_id"] for each in first) for row in first}
    assert set(asked.values()) == {4} and len(asked) == 32 // 4
    assert len({row["request_id"] for row in table}) == len(table)
    assert not any(name.startswith("critic_loss") for name in steps(layout, arm)[0])


def test_the_promoted_snapshot_is_one_that_was_judged(run: tuple[Any, ...]) -> None:
    _, layout, _ = run
    selection = summary_of(layout, "grpo_lag")["selection"]
    judged = [each["step"] for each in selection["candidates"]]
    assert judged == [2, 3] and selection["promoted_step"] in judged
    arm = layout.arm("grpo_lag", 0)
    promoted = arm.candidates(1) / f"step-{selection['promoted_step']:05d}"
    name = "model.safetensors"
    assert (arm.policy(1) / name).read_bytes() == (promoted / name).read_bytes()
    calibrated = (arm.cost(1, "harm") / "calibration.json").exists()  # refused where so small a model ranks at random
    assert set(selection["drift"]) == ({"harm"} if calibrated else set())
    assert all(each["n"] > 0 for each in selection["drift"].values())


def test_the_manifest_says_that_splits_are_disjoint(run: tuple[Any, ...]) -> None:
    _, layout, _ = run
    for arm, by in (("safe_dpo", "conversation"), ("reference", "task")):
        splits = json.loads(layout.arm(arm, 0).manifest.read_text())["header"]["splits"]
        assert splits["disjoint"] is True and splits["by"] == by and len(splits["purposes"]) == 5


def test_with_splits_by_task_no_task_serves_two_purposes(run: tuple[Any, ...]) -> None:
    _, layout, _ = run
    arm = layout.arm("reference", 0)
    certified = pq.read_table(arm.evaluation(1) / "certificate.parquet", columns=["task_id"])["task_id"].to_pylist()
    labelled = pq.read_table(arm.preferences(1) / "preferences.parquet", columns=["task_id"])["task_id"].to_pylist()
    assert certified and labelled and not set(certified) & set(labelled)


def test_the_guards_speak_up(run: tuple[Any, ...]) -> None:
    _, layout, _ = run
    summary = summary_of(layout, "guarded")
    ppo, lines = summary["ppo"], steps(layout, "guarded")
    assert ppo["kl_budget_spent"] and ppo["steps"] == len(lines) < 3
    assert "watched/reward_test" in lines[0] and {"train_rise", "test_rise", "gap"} <= set(ppo["halves"])
    assert any("kl_budget" in text for text in summary["warnings"])
    certificate = summary["certificate"]["constraints"]["harm"]
    arm = layout.arm("guarded", 0)
    calibrated = (arm.cost(1, "harm") / "calibration.json").exists()
    assert certificate["labels_source"] == "crowd" and certificate["labelled"] == (100 if calibrated else None)
    assert certificate["n"] == 100, (
        "few violations among the labelled: the cost model's word is not taken for the others"
    )
    for folder in (arm.reward(1), arm.cost(1, "harm")):
        assert (folder / "members" / "1" / "model.safetensors").exists()


def test_the_reference_moves_its_multiplier_before_every_minibatch(run: tuple[Any, ...]) -> None:
    settings, layout, _ = run
    dual, scale = arm_settings(settings, "reference", 0).constraints["harm"].dual, 0.5
    first = steps(layout, "reference")[0]
    moves = 2 * (32 // 16)
    gap = (first["measure/harm"] - first["limit/harm"]) / scale
    assert first["multiplier/harm"] == pytest.approx(min(dual.initial + moves * dual.learning_rate * gap, dual.cap))


def test_a_limit_chosen_for_another_cost_model_is_refused_before_the_loop(run: tuple[Any, ...], tmp_path: Path) -> None:
    settings, layout, engines = run
    harm = settings.constraints["harm"].model_copy(update={"measure": "mean", "limit": 0.0, "chosen_for": "0" * 64})
    foreign = arm_settings(settings, "grpo_lag", 0).model_copy(
        update={"name": "foreign", "constraints": {"harm": harm}}
    )
    donors = [layout.arm("grpo_lag", 0)]
    with pytest.raises(ConfigError, match=r"constraints\.harm\.chosen_for: .*steelyard threshold"):
        run_pipeline(foreign, RunLayout(tmp_path / "foreign"), check_against_world(foreign), engines, donors=donors)
    assert not (tmp_path / "foreign" / "metrics.jsonl").exists()
