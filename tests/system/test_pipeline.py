"""Whole runs on real Ray, vLLM and DeepSpeed at the smallest size: arms with K = 0, 1 and 3, resuming, and repeatability."""

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
from configs.exits import Exit
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings

TINY = [
    "model.hidden_size=64",
    "model.layers=2",
    "model.heads=2",
    "model.intermediate_size=128",
    "sft.steps=60",
    "preferences.pairs=160",
    "splits.holdout=0.15",
    "splits.calibration=0.15",
    "reward_model.epochs=1",
    "cost_model.epochs=1",
    "ppo.steps=3",
    "ppo.batch_size=32",
    "ppo.minibatch_size=16",
    "ppo.checkpoint_every=1",
    "ppo.max_response_tokens=24",
    "evaluation.samples_per_cell=10",
    "evaluation.samples_per_minor_cell=5",
    "evaluation.samples_unknown=10",
    "selection.samples=100",
    "selection.every=1",
    "selection.candidates=2",
    "certificate.samples=200",
    "resources.generators.count=1",
    "resources.supervised.workers=1",
]
"""Too small to learn anything: what is tested is that every part does its work."""

ARMS = """
extends: quickstart
name: tiny-arms
deterministic: true
ppo: {temperature: 0.7}
constraints:
  harm: {measure: rate, limit: 0.05, subset: [harmful, dual_use], min_samples: 1, dual: {delay: 0}}
arms:
  one: {}
  none: {constraints: {}}
  three:
    constraints.theft:
      measure: mean
      limit: 0.0
      categories: ["financial_crime,property_crime,theft"]
      min_samples: 1
      dual: {form: log, initial: 1.0, delay: 0}
    constraints.tail: {measure: cvar, limit: 1.0, alpha: 0.2, min_samples: 1, dual: {form: pid, delay: 0}}
    ppo.critics: separate
    ppo.ptx_coefficient: 0.5
"""


def settings_from(tmp_path: Path, text: str, *overrides: str) -> RunSettings:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_settings(path, [*TINY, *overrides])


@pytest.fixture(scope="module")
def arms_run(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunSettings, RunLayout, Engines, Exit]]:
    """A comparison of three arms, run once for all tests of this file."""
    root = tmp_path_factory.mktemp("a path with spaces")
    settings = settings_from(root, ARMS)
    engines = Engines(settings.resources, settings.model.max_length, root / "ray_train", deterministic=True)
    layout = RunLayout(root / settings.name)
    try:
        code = run_comparison(settings, layout, engines)
        yield settings, layout, engines, code
    finally:
        engines.close()


def stages(layout: RunLayout) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(layout.manifest.read_text())["stages"]
    return found


def steps(layout: RunLayout) -> list[dict[str, Any]]:
    return [json.loads(line) for line in layout.metrics.read_text().splitlines()]


def test_a_comparison_ends_with_a_report_and_every_arm_with_its_own(arms_run: tuple[Any, ...]) -> None:
    settings, layout, _, code = arms_run
    assert code == Exit.DONE
    assert layout.report.stat().st_size > 5000
    for arm in settings.arms:
        assert layout.arm(arm, settings.seed).report.exists() and layout.arm(arm, settings.seed).summary.exists()


def test_arms_take_over_the_stages_they_share(arms_run: tuple[Any, ...]) -> None:
    _, layout, _, _ = arms_run
    first, second = stages(layout.arm("one", 0)), stages(layout.arm("none", 0))
    for name in ("sft", "pairs", "preferences", "reward_model"):
        assert second[name]["outputs"] == first[name]["outputs"]
        assert second[name]["facts"]["taken_from"] == "one-seed0"
    assert second["ppo"]["key"] != first["ppo"]["key"]


@pytest.mark.parametrize(("arm", "names"), [("none", set()), ("one", {"harm"}), ("three", {"harm", "theft", "tail"})])
def test_every_number_of_constraints_is_trained_logged_and_certified(
    arms_run: tuple[Any, ...], arm: str, names: set[str]
) -> None:
    _, layout, _, _ = arms_run
    lines = steps(layout.arm(arm, 0))
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert {key.removeprefix("multiplier/") for key in line if key.startswith("multiplier/")} == names
        assert {key.removeprefix("limit/") for key in line if key.startswith("limit/")} == names
    summary = json.loads(layout.arm(arm, 0).summary.read_text())
    assert set(summary["cost_models"]) == names
    certified = set() if summary["certificate"] is None else set(summary["certificate"]["constraints"])
    assert certified == names


def test_the_first_rollout_is_on_policy_and_at_the_reference(arms_run: tuple[Any, ...]) -> None:
    _, layout, _, _ = arms_run
    first = steps(layout.arm("one", 0))[0]
    assert abs(first["kl"]) < 1e-3  # the policy is the reference at step 0, at the sampling temperature of 0.7
    assert first["delta_logprob_max"] < 1e-3  # vLLM and learner agree in float32
    assert first["importance_weight_mean"] == pytest.approx(1.0, abs=1e-3)


def test_the_summary_has_the_promised_figures(arms_run: tuple[Any, ...]) -> None:
    _, layout, _, _ = arms_run
    summary = json.loads(layout.arm("one", 0).summary.read_text())
    for model in ("sft", "policy"):
        for split in ("seen", "heldout_tasks", "heldout_forms"):
            for name in (
                "harm_rate_harmful",
                "harm_rate_benign",
                "helpfulness_benign",
                "helpfulness_lookalike",
                "refusal_benign",
                "refusal_lookalike",
                "alternative_harmful",
            ):
                assert set(summary["evaluation"][model][split][name]) == {"value", "low", "high", "n"}
    assert {"total", "sft", "preferences", "reward_model", "cost_model", "ppo", "evaluate"} <= set(summary["seconds"])
    assert {"steps", "samples_per_second", "phase_seconds"} <= set(summary["ppo"])
    assert {"version", "bytes", "seconds_per_broadcast"} <= set(summary["weights"]) and summary["weights"]["bytes"] > 0
    assert {"pair_accuracy", "sign_accuracy"} <= set(summary["cost_model"])


def test_the_saved_samples_score_the_same_again(arms_run: tuple[Any, ...]) -> None:
    from actors.crowd.gold import GoldScorer

    settings, layout, _, _ = arms_run
    scorer = GoldScorer(check_against_world(settings))
    table = pq.read_table(layout.arm("one", 0).evaluation(1) / "samples.parquet").to_pylist()
    assert {row["model"] for row in table} == {"sft", "policy"}
    for row in table:
        gold = scorer.score(row["task_id"], row["response"], row["finish_reason"] == "stop")
        assert (gold.helpfulness, gold.harm, gold.unsafe) == (
            row["gold_helpfulness"],
            row["gold_harm"],
            row["gold_unsafe"],
        )
        assert gold.bare_refusal == row["gold_bare_refusal"]


def test_the_same_seed_gives_the_same_preferences_and_the_same_first_step_bit_for_bit(
    arms_run: tuple[Any, ...], tmp_path: Path
) -> None:
    _, layout, engines, _ = arms_run
    again = settings_from(tmp_path, ARMS.replace("tiny-arms", "again").split("arms:\n")[0])
    second = RunLayout(tmp_path / "again")
    run_pipeline(again, second, check_against_world(again), engines)
    first = layout.arm("one", 0)
    for name in ("pairs.parquet", "preferences.parquet"):
        one, two = (
            pq.read_table(each.preferences(1) / name).drop_columns(["weight_version"]) for each in (first, second)
        )
        assert one.equals(two), name
    timed = ("seconds", "weight_version", "overlap", "first_sample")
    one, two = (
        {key: value for key, value in steps(each)[0].items() if not any(word in key for word in timed)}
        for each in (first, second)
    )
    assert one == two


def test_a_finished_run_is_not_run_again_and_a_cut_one_goes_on_from_its_checkpoint(
    arms_run: tuple[Any, ...], tmp_path: Path
) -> None:
    _, layout, engines, _ = arms_run
    text = ARMS.replace("tiny-arms", "cut").split("arms:\n")[0]
    settings = settings_from(tmp_path, text)
    run = RunLayout(tmp_path / "cut")
    donor = layout.arm("one", 0)
    world = check_against_world(settings)

    class Stopped(Exception):
        pass

    def stop(line: Any) -> None:
        raise Stopped

    from cluster.run_folder.metrics_log import MetricsLog

    append = MetricsLog.append
    cut_at = 3

    def append_until(self: MetricsLog, line: Any) -> None:
        if line["step"] == cut_at:
            stop(line)
        append(self, line)

    settings = settings.model_copy(update={"ppo": settings.ppo.model_copy(update={"steps": 4})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "append", append_until)
        with pytest.raises(Stopped):
            run_pipeline(settings, run, world, engines, donors=[donor])
    assert [line["step"] for line in steps(run)] == [1, 2]
    run_pipeline(settings, run, world, engines, donors=[donor])
    assert [line["step"] for line in steps(run)] == [1, 2, 3, 4]
    before = run.manifest.read_text()
    run_pipeline(settings, run, world, engines)
    assert run.manifest.read_text() == before
