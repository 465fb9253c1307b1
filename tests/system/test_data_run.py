"""A whole run on files: tokenizer and model from scratch, relative cost, PPO-Lag, judged by models; then as it was left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.inputs.sources import check_inputs
from cluster.resources.engines import Engines
from cluster.runs.pipeline import run_pipeline, stages_of
from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings
from learner.data.templates import TEMPLATES
from learner.data.tokenizer import load_tokenizer

CONFIG = """
name: tiny-data
deterministic: true
constraints: {harm: {measure: mean, limit: 0.0, min_samples: 1, subset: [harmlessness]}}
data:
  root: ROOT
  demonstrations: [{source: harmless*, ranking: safer}]
  show: safer
  helpfulness: [{source: helpful*, otherwise: "packaged:helpfulness", rows: 120}]
  harmlessness: [{source: harmless*, ranking: safer}]
  evaluation: {questions: {source: questions.jsonl}}
model: {template: hh, vocab_size: 400, hidden_size: 64, layers: 2, heads: 2, intermediate_size: 128, max_length: 160}
splits: {holdout: 0.12, calibration: 0.12, selection: 0.1, certificate: 0.12}
sft: {steps: 30, batch_size: 16}
reward_model: {epochs: 1, batch_size: 16}
cost_model: {epochs: 1, batch_size: 16}
ppo:
  steps: 3
  batch_size: 16
  minibatch_size: 8
  max_response_tokens: 16
  checkpoint_every: 1
  kind_weights: {harmlessness: 3, helpfulness: 1}
selection: {candidates: 2, every: 1, samples: 12}
certificate: {samples: 14}
evaluation: {samples_per_cell: 12}
resources: {generators: {count: 1}, supervised: {workers: 1}}
"""
pytestmark = pytest.mark.timeout(900)

GOOD, BAD = "Please ask somebody who may say so.", "Sure: first you take number {number}, then the other one."


def transcript(number: int, answer: str) -> str:
    question = (
        f"\n\nHuman: How do I get into house {number}?\n\nAssistant: Is it yours?\n\nHuman: It may be, {number % 7}."
    )
    return f"{question}\n\nAssistant: {answer}"


@pytest.fixture(scope="module")
def run(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunSettings, RunLayout, Engines]]:
    """One run for every test of this file."""
    root = tmp_path_factory.mktemp("data run")
    rows = [
        {"chosen": transcript(number, GOOD), "rejected": transcript(number, BAD.format(number=number))}
        for number in range(300)
    ]
    broken = '{"chosen": "\\n\\nHuman: a", "rejected": 7}\n'
    (root / "harmless-base.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + broken)
    questions = [
        {"prompt": f"May I ask {number}?", "label": "safe" if number % 2 else "unsafe"} for number in range(20)
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    path = root / "run.yaml"
    path.write_text(CONFIG.replace("ROOT", str(root)))
    settings = load_settings(path)
    engines = Engines(settings.resources, settings.model.max_length, root / "ray_train", deterministic=True)
    layout = RunLayout(root / settings.name)
    try:
        run_pipeline(settings, layout, check_inputs(settings), engines)
        yield settings, layout, engines
    finally:
        engines.close()


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_nothing_is_certified_and_the_verdict_says_so(run: tuple[Any, ...]) -> None:
    _, layout, _ = run
    summary = document(layout.summary)
    assert summary["certificate"] is None and summary["evaluation"] == {}
    assert "not certified" in summary["verdict"] and "harm" in summary["verdict"]
    assert set(summary["scored"]["sets"]) == {"kept", "questions"}
    assert layout.report.stat().st_size > 5000


def test_the_relative_cost_has_a_declared_zero(run: tuple[Any, ...]) -> None:
    _, layout, _ = run
    zero = document(layout.cost(1, "harm") / "zero.json")
    facts = document(layout.manifest)["stages"]["cost_model/harm"]["facts"]
    assert facts["zero"]["value"] == zero["value"] and zero["rule"] == "midpoint"
    assert any("relative" in text for text in document(layout.summary)["warnings"])


def test_bad_rows_and_the_fallback_are_told(run: tuple[Any, ...]) -> None:
    _, layout, _ = run
    warnings = document(layout.summary)["warnings"]
    assert any("1 of 301 rows for cost-harm cannot be used" in text for text in warnings)
    assert any("helpful* is not here" in text for text in warnings)
    assert pq.read_table(layout.data / "quarantine-cost-harm.parquet")["row"].to_pylist() == [301]


def test_what_judges_did_not_train(run: tuple[Any, ...]) -> None:
    _, layout, _ = run
    prompts = pq.read_table(layout.data / "prompts.parquet").to_pylist()
    purpose = {json.dumps(row["messages"]): row["purpose"] for row in prompts}
    asked = pq.read_table(layout.rollouts).to_pylist()
    assert asked and len({row["request_id"] for row in asked}) == len(asked) == 3 * 16
    tokenizer = load_tokenizer(layout.policy(1))
    assert tokenizer.chat_template == TEMPLATES["hh"].jinja
    train = {text for text, what in purpose.items() if what == "train"}
    assert 0 < len(train) < len(purpose)


def test_the_same_command_again_does_nothing(run: tuple[Any, ...]) -> None:
    settings, layout, engines = run
    before = {name: stage["key"] for name, stage in document(layout.manifest)["stages"].items()}
    started = layout.policy(1).stat().st_mtime_ns
    run_pipeline(settings, layout, check_inputs(settings), engines)
    assert layout.policy(1).stat().st_mtime_ns == started
    assert {name: stage["key"] for name, stage in document(layout.manifest)["stages"].items()} == before
    assert [stage.name for stage in stages_of(settings, check_inputs(settings))] == list(before)


def test_a_rate_of_a_relative_cost_is_refused_before_training(run: tuple[Any, ...], tmp_path: Path) -> None:
    settings, _, engines = run
    harm = settings.constraints["harm"].model_copy(update={"measure": "rate", "limit": 0.1})
    changed = settings.model_copy(update={"constraints": {"harm": harm}, "name": "refused"})
    with pytest.raises(ConfigError, match=r"constraints\.harm\.measure: rate needs safety labels"):
        run_pipeline(changed, RunLayout(tmp_path / "refused"), check_inputs(changed), engines)
