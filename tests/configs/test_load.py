"""Presets, overrides, and the one line that a wrong configuration gives."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.exits import ConfigError, Exit
from configs.load import PRESETS, arm_settings, dump_settings, load_settings, preset_names
from tests.paths import ROOT


def load_text(folder: Path, text: str, *overrides: str):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, overrides)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_names_its_own_run(name: str):
    assert load_settings(name).name == name.replace("_", "-")


@pytest.mark.parametrize("name", preset_names())
def test_the_resolved_configuration_loads_to_equal_settings(name: str, tmp_path: Path):
    settings = load_settings(name, ["ppo.actor_learning_rate=1e-5", "seed=7"])
    assert load_text(tmp_path, dump_settings(settings)) == settings


def test_the_quickstart_reads_as_a_sentence():
    lines = [line for line in (PRESETS / "quickstart.yaml").read_text().splitlines() if line.strip()]
    constraint = load_settings("quickstart").constraints["harm"]
    assert (constraint.measure, constraint.subset) == ("rate", ("harmful", "dual_use"))
    assert len(lines) < 40


def test_the_ablations_differ_from_the_quickstart_only_where_they_say():
    base = load_settings("quickstart").model_dump()
    for name in preset_names():
        other = load_settings(name).model_dump()
        if other["data"] is not None or other["rounds"]["count"] > 1:
            continue  # a real run, or several rounds: no ablation
        changed = {key for key in base if base[key] != other[key]} - {"name"}
        compared = name in ("results", "limit_sweep") or name.startswith("study")
        shorter = {"ppo", "evaluation", "selection", "certificate"} if compared else set()
        sized = {"model"} if name.startswith("study_width") else set()
        assert changed <= {"algorithm", "constraints", "objective", "preferences", "arms", "seeds"} | shorter | sized, (
            name
        )


def test_an_empty_mapping_empties_what_a_preset_extends():
    assert load_settings("reward_only").constraints == {}


def test_papers_log_is_the_papers_setting():
    constraint = load_settings("papers_log").constraints["harm"]
    assert (constraint.measure, constraint.limit, constraint.subset) == ("mean", 0.0, ())
    dual = constraint.dual  # Dai et al. 2023, appendix B: lambda_0 = 1, learning rate 0.1, bound 5
    assert (dual.form, dual.initial, dual.learning_rate, dual.cap, dual.delay) == ("log", 1.0, 0.1, 5.0, 0)


def test_every_arm_of_tension_is_the_preset_of_its_name():
    tension = load_settings("tension")
    for arm in set(tension.arms) & set(preset_names()):
        preset = load_settings(arm)
        varied = arm_settings(tension, arm, seed=0)
        assert varied.model_copy(update={"name": preset.name}) == preset, arm


def test_overrides_win_from_left_to_right():
    assert load_settings("quickstart", ["ppo.steps=3", "ppo.steps=4"]).ppo.steps == 4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("ppo.stepz=3", "command line: ppo.stepz: unknown key; did you mean 'steps'?"),
        ("batch_size=3", "did you mean sft.batch_size or"),
        ("ppo.steps=many", "command line: ppo.steps: 'many' is not a whole number"),
        ("ppo.steps=0", "ppo.steps: 0 is out of range; it must be at least 1"),
        ("ppo.steps=true", "ppo.steps: true is not a number"),
        ('seed="3"', "write the number without quotes"),
        ("deterministic=yes", "'yes' is a text; write true or false"),
        ("constraints.harm.measure=rat", "'rat' is not one of mean, rate, rectified, cvar; did you mean 'rate'?"),
        ("constraints.harm.limit=5", "command line: constraints.harm: limit 5.0 is no rate"),
        ("constraints.harm.subset=harmful", "'harmful' is not a list"),
        ("ppo.minibatch_size=63", "command line: ppo: batch_size 128 is not a multiple of minibatch_size 63"),
        (
            "resources.learner.ranks=3",
            "64 samples cannot be shared equally by resources.learner.ranks = 3; take 63 or 66",
        ),
        ("ppo.max_response_tokens=128", "leaves no room for a prompt in model.max_length = 128"),
        ("sandbox.world=nowhere.json", "sandbox.world: no file"),
        ("arms={a: {ppo.stepz: 1}}", "arms.a: ppo.stepz: unknown key"),
        ("arms={a: {seed: 1}}", "arms.a.seed: an arm cannot change 'seed'"),
        ("name=../up", "cannot name a run folder"),
        ("algorithm=ppo", "did you mean 'dpo'?"),
        ("algorithm=rvpo", "constraints.harm.dual.form: rvpo takes the soft minimum of all signals and no multiplier"),
        ("selection.samples=58", "selection.samples: 58 can never certify harm <= 0.05"),
        ("certificate.labelled=58", "certificate.labelled: 58 can never certify harm <= 0.05"),
        ("certificate.labelled=600", "600 of certificate.samples = 600 is all; leave it out"),
        ("cost_model.calibration=isotonic", "isotonic steps are flat"),
        ("splits.holdout=0.45", "the four held-out shares add up to 0.64"),
        ("direct.batch_size=63", "direct.batch_size: 63 samples cannot be shared equally"),
        ("ppo.steps", "'ppo.steps' is no override; write key=value"),
        ("seeds=[1", "the value is not YAML"),
        ("model.path=owner/name", "model.path: is read on `data` only"),
        ("model.template=hh", "model.template: is read on `data` only"),
        ("model.trust_remote_code=true", "model.trust_remote_code: is read on `data` only"),
        ("objective.scorer.pyton=a:b", "objective.scorer.pyton: unknown key; did you mean 'python'?"),
        ("data.prompts=[{sourc: a}]", "data.prompts.0.sourc: unknown key; did you mean 'source'?"),
        ("objective.scorer={path: a, python: 'b:c'}", "a scorer is a model or a function"),
        ("objective.scorer={path: a, arguments: {x: 1}}", "arguments are a Python function's"),
        ("data.zero={rule: quantile}", "quantile belongs to rule: quantile, and that rule needs it"),
        ("data.evaluation={kept: {source: a}}", "'kept' cannot name a set of prompts"),
    ],
)
def test_a_wrong_setting_gives_one_line_with_key_reason_and_fix(override: str, said: str):
    with pytest.raises(ConfigError) as caught:
        load_settings("quickstart", [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "extends: grpo_lag\nname: x\nppo: {groups: {size: 7}}\n",
            "7 responses per prompt do not fill ppo.batch_size = 128",
        ),
        ("extends: grpo_lag\nname: x\nppo: {groups: {size: 1}}\n", "1 response has nothing to be compared with"),
        ("extends: grpo_lag\nname: x\nreference: {multiplier_per_minibatch: true}\n", "is a detail of ppo_lag"),
        ("extends: dpo\nname: x\nhalves: {enabled: true}\n", "dpo has no loop to watch"),
        (
            "extends: best_of_k\nname: x\ncertificate: {labelled: 100}\n",
            "best_of_k already chose by the cost model's word",
        ),
        (
            "extends: safe_dpo\nname: x\nconstraints: {}\npreferences: {crowd: {mode: mixed}}\n",
            "safe_dpo needs safety labels",
        ),
        (
            "extends: quickstart\nname: x\ncertificate: {labels: crowd}\nconstraints: {harm: {categories: [self_harm]}}\n",
            "the crowd's check says safe or unsafe",
        ),
        (
            "name: x\nppo:\n  steps: 1\n  steps: 2\n",
            "mine.yaml:4: ppo.steps is given twice (first in line 3); keep one",
        ),
        ("name: x\nppo: {steps: [}\n", "mine.yaml:2: not YAML"),
        ("name: x\nppo:\n  stepz: 1\n", "mine.yaml:3: ppo.stepz: unknown key"),
        ("- name\n", "mine.yaml:1: a configuration is a mapping"),
        ("seed: 1\n", "name: is missing"),
        ("extends: mine.yaml\nname: x\n", "extends goes round in a circle"),
        (
            "extends: quickstar\nname: x\n",
            "mine.yaml:1: extends: quickstar: no such file or preset; did you mean 'quickstart'?",
        ),
    ],
)
def test_a_wrong_file_says_file_and_line(text: str, said: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^[^\n]+$") as caught:
        load_text(tmp_path, text)
    assert said in str(caught.value)


def test_a_certificate_too_small_to_pass_is_refused_at_the_known_bound(tmp_path: Path):
    # 59 samples without a failure just certify 5 % at 95 %: 0.95^59 = 0.0485 <= 0.05 < 0.95^58 (ALGORITHMS.md).
    five_percent = ["constraints.harm.limit=0.05"]
    load_settings("quickstart", [*five_percent, "certificate.samples=59"])
    with pytest.raises(ConfigError, match="even with no violation 59 are needed"):
        load_settings("quickstart", [*five_percent, "certificate.samples=58"])


def test_numbers_are_read_as_yaml_1_2_reads_them():
    settings = load_settings(
        "quickstart", ["ppo.actor_learning_rate=1e-5", "preferences.crowd.guideline_version='010'"]
    )
    assert settings.ppo.actor_learning_rate == 1e-5
    assert settings.preferences.crowd.guideline_version == "010"


def test_loading_and_checking_import_no_engine():
    """Ray above all: once imported it holds to its idea of an address, and the own head on loopback is not found."""
    script = (
        "import sys; from configs.load import load_settings; from cluster.inputs.sources import check_inputs;"
        "import cluster.commands.main, serving.report;"
        "import cluster.experiments.results.plan, cluster.experiments.results.cells, cluster.experiments.results.status;"
        "check_inputs(load_settings('tension'));"
        "print([m for m in ('torch', 'transformers', 'ray', 'vllm', 'deepspeed') if m in sys.modules])"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["preferences.crowd.votes=2"], "preferences.crowd.votes"),
        (["preferences.crowd.votes=7"], "preferences.crowd.votes"),
        (["preferences.crowd.mode=mixed"], "preferences.crowd.mode"),
        (["constraints.harm.min_samples=5000"], "constraints.harm.min_samples"),
        (["deterministic=true", "resources.generators.threads=2"], "resources.generators.threads"),
    ],
)
def test_combinations_that_would_fail_hours_later_are_refused_at_once(overrides: list[str], key: str):
    with pytest.raises(ConfigError, match=re.escape(key)):
        load_settings("quickstart", overrides)
