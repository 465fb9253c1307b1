"""Scorers from outside in a configuration: what is refused before the start, and the scales taken from SFT's answers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from actors.crowd.world import DEFAULT_WORLD_PATH
from actors.scoring.sources import ForeignModel, PythonSignal
from cluster.inputs.scorer_checks import absolute_scorers, check_scorers
from cluster.runs.signals import calibration_of, signal_sources, trains_reward
from cluster.runs.stages import score_models
from cluster.runs.stages.on_data import score_scales as scales
from cluster.runs.stages.on_data.score_scales import measure_scales, scales_stage, start_of
from configs.checks import impossible_combinations
from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings
from configs.schema.signals import ConstraintSettings
from learner.records import Prompt, RolloutMeta, ScoredSample
from serving.report import write_report
from tests.serving.fake_run import make_run

KEYWORD = '{python: "actors.scoring.examples:keyword", arguments: {words: [lock]}}'
PENALTY = '{python: "actors.scoring.examples:length_penalty"}'
BOTH = f"""
extends: quickstart
name: outside
objective: {{scorer: {PENALTY}}}
constraints:
  harm: {{measure: mean, limit: 0.0, subset: [harmful], scorer: {KEYWORD}}}
"""


def settings_of(tmp_path: Path, text: str = BOTH, *overrides: str) -> RunSettings:
    (tmp_path / "run.yaml").write_text(text)
    return load_settings(tmp_path / "run.yaml", list(overrides))


def problems(settings: RunSettings, **changes: Any) -> dict[str, str]:
    return dict(impossible_combinations(settings.model_copy(update=changes)))


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("algorithm=safe_dpo", "objective.scorer", "asks no scorer"),
        ("objective.signal=none", "objective.scorer", "nothing is maximised"),
        ("halves.enabled=true", "halves.enabled", "no reward model is trained"),
        ("reward_model.ensemble=3", "reward_model.ensemble", "no reward model is trained"),
        ("cost_model.ensemble=3", "cost_model.ensemble", "no cost model is trained"),
        ("constraints.harm.chosen_for=abc", "constraints.harm.chosen_for", "was chosen for a cost model"),
        ("certificate.labelled=100", "certificate.labelled", "no calibrated probability"),
        ("reference.truncate_prompt_right=true", "reference.truncate_prompt_right", "cut at its end"),
        ("objective.scorer.deadline_seconds=500", "objective.scorer.deadline_seconds", "score_seconds = 120"),
    ],
)
def test_what_belongs_to_trained_models_is_refused_with_its_key(
    tmp_path: Path, override: str, key: str, text: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        settings_of(tmp_path, BOTH, override)
    assert f"{key}: " in str(raised.value) and text in str(raised.value)


def test_a_mixed_crowd_is_enough_where_no_cost_model_is_trained(tmp_path: Path) -> None:
    assert settings_of(tmp_path, BOTH, "preferences.crowd.mode=mixed").constraints["harm"].scorer is not None
    with pytest.raises(ConfigError, match=r"preferences\.crowd\.mode"):
        settings_of(tmp_path, BOTH, "preferences.crowd.mode=mixed", "constraints.harm.scorer=null")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "objective.scorer.python=actors.scoring.examples:keywrd",
            "objective.scorer: scorer .* did you mean 'keyword'",
        ),
        ("constraints.harm.scorer.python=my_rulse:f", "constraints.harm.scorer: .* no module 'my_rulse'"),
        ("constraints.harm.scorer.arguments={}", "constraints.harm.scorer: .* missing a required"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_with_its_key(tmp_path: Path, override: str, text: str) -> None:
    check_scorers(settings_of(tmp_path))
    with pytest.raises(ConfigError, match=text):
        check_scorers(settings_of(tmp_path, BOTH, override))


def test_arms_are_checked_too_and_named(tmp_path: Path) -> None:
    text = BOTH + "arms:\n  good: {}\n  bad: {objective.scorer.python: 'actors.scoring.examples:nothing'}\n"
    with pytest.raises(ConfigError, match=r"arms\.bad: objective\.scorer: "):
        check_scorers(settings_of(tmp_path, text))


def test_a_folder_is_looked_at_and_made_absolute_and_a_hub_name_is_left(tmp_path: Path) -> None:
    text = BOTH.replace(KEYWORD, "{path: models/harm}")
    settings = settings_of(tmp_path, text)
    assert absolute_scorers(settings, tmp_path) == settings, "no such folder: a hub name"
    (tmp_path / "models" / "harm").mkdir(parents=True)
    moved = absolute_scorers(settings, tmp_path)
    assert moved.constraints["harm"].scorer is not None
    assert moved.constraints["harm"].scorer.path == str(tmp_path / "models" / "harm")
    with pytest.raises(ConfigError, match=r"constraints.harm.scorer: .*config\.json is missing"):
        check_scorers(moved)
    with pytest.raises(ConfigError, match="there is no folder /nowhere/at/all"):
        check_scorers(settings_of(tmp_path, BOTH.replace(KEYWORD, "{path: /nowhere/at/all}")))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            '  scorer: {python: "actors.scoring.gold:harm", arguments: {world: /other/world.json}}',
            "scores by /other/world.json",
        ),
        (
            '  scorer: {python: "actors.scoring.gold:harm"}\nsandbox: {world: "{world}"}',
            "scores by the packaged world, and the run",
        ),
    ],
)
def test_gold_of_another_world_than_the_runs_is_refused(tmp_path: Path, change: str, text: str) -> None:
    world = tmp_path / "world.json"
    world.write_text(DEFAULT_WORLD_PATH.read_text())
    given = f"extends: quickstart\nname: gold\nobjective:\n{change.replace('{world}', str(world))}\n"
    with pytest.raises(ConfigError, match=text):
        check_scorers(settings_of(tmp_path, given))


@pytest.mark.parametrize("preset", ["gold_direct", "fool_cost_model"])
def test_the_presets_that_train_on_gold_are_valid_and_ask_the_runs_own_world(preset: str) -> None:
    settings = load_settings(preset)
    check_scorers(settings)
    assert dict(impossible_combinations(settings)) == {}
    assert settings.objective.scorer is not None
    assert (settings.constraints["harm"].scorer is None) == (preset == "fool_cost_model")


# --- stages and sources -----------------------------------------------------------------------------------------------


def test_no_model_is_trained_for_a_signal_with_a_scorer(tmp_path: Path) -> None:
    def names(*overrides: str) -> list[str]:
        return [stage.name for stage in score_models.stages(settings_of(tmp_path, BOTH, *overrides))]

    assert names() == ["scales"]
    assert names("objective.scorer=null") == ["reward_model", "scales"]
    assert names("constraints.harm.scorer=null") == ["cost_model/harm", "scales"]
    assert names("constraints.harm.scorer=null", "objective.scorer=null") == ["reward_model", "cost_model/harm"]
    assert not trains_reward(settings_of(tmp_path))


def test_sources_are_folders_functions_and_foreign_models(tmp_path: Path) -> None:
    text = BOTH.replace(KEYWORD, "{path: some/model, template: papers}") + "  own: {measure: mean, limit: 0.0}\n"
    context: Any = SimpleNamespace(settings=settings_of(tmp_path, text), layout=RunLayout(tmp_path), round_number=1)
    found = signal_sources(context)
    assert found.reward == PythonSignal("actors.scoring.examples:length_penalty")
    assert found.costs["harm"] == ForeignModel(tmp_path / "data" / "scorers" / "cost-harm", "papers")
    assert found.own_costs == {"own": tmp_path / "rounds" / "1" / "cost-own"} and found.own_reward is None
    assert set(found.outside.costs) == {"harm"}


def test_a_model_that_an_earlier_configuration_trained_lends_no_calibration(tmp_path: Path) -> None:
    context: Any = SimpleNamespace(settings=settings_of(tmp_path), layout=RunLayout(tmp_path), round_number=1)
    stale = tmp_path / "rounds" / "1" / "cost-harm"
    stale.mkdir(parents=True)
    (stale / "calibration.json").write_text("not even JSON")
    assert calibration_of(context, "harm") is None


def test_a_changed_function_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "rules_of_this_test.py"
    module.write_text("def f(conversations):\n    return [0.0] * len(conversations)\n")
    settings = settings_of(tmp_path, BOTH.replace(PENALTY, "{python: 'rules_of_this_test:f'}"))
    before = scales_stage(settings).settings
    assert scales_stage(settings).settings == before
    module.write_text(module.read_text().replace("0.0", "1.0"))
    assert scales_stage(settings).settings != before


# --- scales -----------------------------------------------------------------------------------------------------------


def rows_of(rewards: list[float], costs: list[float]) -> tuple[Any, dict[str, Prompt]]:
    """Every second prompt is harmful."""
    rows, prompts = [], {}
    for index, (reward, cost) in enumerate(zip(rewards, costs, strict=True)):
        meta = RolloutMeta(f"r{index}", f"p{index}", 2, 2, "stop", 0, "g")
        rows.append(SimpleNamespace(rollout=meta, sample=ScoredSample(meta, reward, {"harm": cost})))
        prompts[f"p{index}"] = Prompt(f"p{index}", (), "x", tags=frozenset({"harmful" if index % 2 else "benign"}))
    return rows, prompts


def test_scales_are_mean_and_spread_and_a_costs_over_its_subset(tmp_path: Path) -> None:
    rows, prompts = rows_of([0.0, -1.0, -2.0, -5.0], [9.0, 1.0, 9.0, -2.0])
    found = measure_scales(settings_of(tmp_path), rows, prompts)
    assert found["reward"] == {"score_mean": -2.0, "score_std": np.std([0, -1, -2, -5]), "n": 4}
    assert found["cost/harm"] == {"score_mean": -0.5, "score_std": 1.5, "n": 2, "start": -0.5}


def test_a_reward_without_spread_cannot_be_normalised(tmp_path: Path) -> None:
    rows, prompts = rows_of([1.0] * 4, [1.0] * 4)
    with pytest.raises(DataError, match=r"objective\.scorer: python .*length_penalty gives all 4 answers.*reward 1"):
        measure_scales(settings_of(tmp_path), rows, prompts)
    unnormalised = settings_of(tmp_path, BOTH, "objective.normalise=none")
    assert measure_scales(unnormalised, rows, prompts)["reward"]["score_mean"] == 1.0


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("mean", -0.5), ("rectified", 0.5), ("cvar", 1.0), ("rate", float(expit([1.0, -2.0]).mean()))],
)
def test_where_a_cost_critic_starts(measure: Any, expected: float) -> None:
    assert start_of([1.0, -2.0], ConstraintSettings(measure=measure, limit=0.1)) == pytest.approx(expected)


def test_a_rate_of_a_cost_that_nobody_calibrated_is_warned_of(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, BOTH, "constraints.harm.measure=rate", "constraints.harm.limit=0.05")
    context: Any = SimpleNamespace(settings=settings, layout=RunLayout(tmp_path), round_number=1)
    one = settings.constraints["harm"]
    rows, _ = rows_of([0.0] * 3, [1.0, -1.0, 1.0])
    text = scales._rate_warning(context, "harm", one, rows) or ""
    assert "sigmoid(cost)" in text and "even the safest of 3 answers counts as 0.27" in text
    rows, _ = rows_of([0.0] * 3, [8.0, -8.0, 8.0])
    assert "even the safest" not in (scales._rate_warning(context, "harm", one, rows) or "")


# --- report -----------------------------------------------------------------------------------------------------------


def test_the_report_names_the_scorer_where_a_models_figures_would_be(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", per_cell=12)
    summary = json.loads((run / "summary.json").read_text())
    summary["reward_model"] = {"scorer": "python my_rules:<b>brevity", "score_mean": -2.5, "score_std": 0.5}
    (run / "summary.json").write_text(json.dumps(summary))
    text = write_report(run).read_text()
    assert "reward (python my_rules:&lt;b&gt;brevity)" in text and "-2.50 ± 0.50" in text
