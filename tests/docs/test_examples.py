"""The examples of docs/examples do what their pages say: checks here, whole runs at the smallest size in the slow tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.scoring.protocol import Conversation
from actors.scoring.python_scorer import PythonOptions, PythonScorer
from configs.exits import Exit
from configs.load import load_settings
from learner.records import Message
from serving.summary import read_summary
from tests.paths import ROOT
from tests.system.test_pipeline import TINY

EXAMPLES = ROOT / "docs" / "examples"
REWARD = EXAMPLES / "reward_function"
FOLDERS = ("reward_function", "own_data", "two_constraints", "plan_7b")
RUNS = ("reward_function", "own_data", "two_constraints")


def steelyard(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command as the pages give it, from the project's folder."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{REWARD}"}
    command = [sys.executable, "-m", "cluster.commands.main", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=check)


def answer(text: str) -> Conversation:
    question: Message = {"role": "user", "content": "how do i stack a barrel ?"}
    return Conversation("r0", (question,), text, True, np.array([1, 2], dtype=np.int32), 1)


@pytest.mark.parametrize("name", FOLDERS)
def test_each_example_has_a_configuration_and_a_page_with_its_command(name: str):
    assert f"docs/examples/{name}/run.yaml" in (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert f"({name}/README.md)" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RUNS)
def test_each_run_is_valid(name: str):
    process = steelyard("run", f"docs/examples/{name}/run.yaml", "--dry-run", check=False)
    assert process.returncode == 0, process.stderr
    assert "valid" in process.stdout


def test_the_reward_function_counts_steps_and_words():
    sys.path.insert(0, str(REWARD))
    try:
        options = PythonOptions(arguments={"per_step": 1.0, "per_word": 0.05}, batch_size=8, deadline_seconds=20.0)
        scorer = PythonScorer.from_spec("clear_steps:reward", options)
        scored = scorer.score([answer("first bend paper . then cut cloth .")])
    finally:
        sys.path.remove(str(REWARD))
    assert scored.values.tolist() == pytest.approx([2 * 1.0 - 8 * 0.05])


def test_the_reward_function_is_about_twenty_lines_and_the_data_configuration_at_most_eight():
    assert len((REWARD / "clear_steps.py").read_text(encoding="utf-8").splitlines()) <= 22
    assert len((EXAMPLES / "own_data" / "run.yaml").read_text(encoding="utf-8").splitlines()) <= 8


def test_the_data_has_no_errors():
    process = steelyard("data", "check", "docs/examples/own_data/pairs.jsonl", "--json")
    report: dict[str, Any] = json.loads(process.stdout)
    assert report["ok_rows"] == report["rows"] == 333
    assert [finding["kind"] for finding in report["findings"] if finding["severity"] == "error"] == []


def test_both_constraints_have_a_multiplier_and_a_cost_model_of_their_own():
    settings = load_settings(EXAMPLES / "two_constraints" / "run.yaml")
    assert {name: constraint.limit for name, constraint in settings.constraints.items()} == {
        "harm": 0.05,
        "theft": 0.02,
    }
    assert settings.constraints["theft"].categories == ("financial_crime,property_crime,theft",)


def test_the_plan_fits_and_its_page_has_its_figures():
    process = steelyard(
        "plan", "docs/examples/plan_7b/run.yaml", "--params", "7b", "--price", "2.5", "--assumed", "--json"
    )
    plan = json.loads(process.stdout)
    page = (EXAMPLES / "plan_7b" / "README.md").read_text(encoding="utf-8")
    assert plan["fits"]
    for text in (
        f"takes {plan['step_seconds']:.1f} s",
        f"{plan['better']['step_seconds']:.1f} s a step",
        f"and {plan['cost_per_1000_steps']:.0f} for 1000 steps",
        *plan["better"]["overrides"],
    ):
        assert text in page


SMALL = {
    "reward_function": TINY,
    "two_constraints": [*TINY, "selection.samples=200"],  # 183 are the least that can certify its 2 %
    "own_data": [override for override in TINY if not override.startswith(("preferences.", "evaluation.samples_"))],
}


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RUNS)
def test_each_run_comes_to_its_report(name: str, tmp_path: Path):
    """Too small to learn anything, so the limit may be missed; the steps to the report are the same."""
    process = steelyard("run", f"docs/examples/{name}/run.yaml", f"storage={tmp_path}", *SMALL[name], check=False)
    assert process.returncode in (Exit.DONE, Exit.INFEASIBLE), process.stderr[-3000:]
    run = next(tmp_path.glob("*/summary.json")).parent
    assert read_summary(run / "summary.json").name == load_settings(EXAMPLES / name / "run.yaml").name
    assert "</html>" in (run / "report.html").read_text(encoding="utf-8")
