"""Whole runs whose reward and costs no model of the run gives: functions, one of which fails, and a foreign model."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from actors.crowd.vocabulary import world_words
from actors.crowd.world_reader import load_world
from actors.scoring.examples import length_penalty
from cluster.inputs.sources import check_inputs
from cluster.resources.engines import Engines
from cluster.runs.pipeline import run_pipeline
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings
from configs.schema.supervised import ModelSettings
from learner.models import modules as models
from learner.models.modules import load_score_model, load_tokenizer
from tests.system.test_pipeline import TINY

RULES = '''
"""A rule that knows no answer to some conversations; imported wherever scorers run."""


def knows(text):
    return sum(map(ord, text)) % 7 != 0


def long_words(conversations, *, least):
    texts = [turns[-1]["content"] for turns in conversations]
    if not all(map(knows, texts)):
        raise LookupError("no opinion")
    return [float(sum(len(word) >= least for word in text.split())) - 2.0 for text in texts]
'''

RUN = """
extends: quickstart
name: outside
objective:
  scorer: {python: "actors.scoring.examples:length_penalty", arguments: {per_word: 0.1}}
constraints:
  harm:
    measure: mean
    limit: 0.0
    min_samples: 1
    scorer: {python: "rules_of_test_scorers:long_words", arguments: {least: 7}, batch_size: 8}
  judged: {measure: cvar, alpha: 0.5, limit: 1.0, min_samples: 1, scorer: {path: "FOREIGN"}}
ppo: {critics: separate}
best_of_k: {k: 2}
"""
SMALLER = [
    "ppo.steps=2",
    "preferences.pairs=40",
    "selection.candidates=1",
    "selection.samples=60",
    "certificate.samples=60",
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
"""One fixture runs nearly all of it."""


@dataclass
class Run:
    """A finished run."""

    layout: RunLayout
    settings: RunSettings
    foreign: Path
    summary: dict[str, Any]

    @property
    def rollouts(self) -> list[dict[str, Any]]:
        return [
            row for path in sorted(self.layout.rollouts.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
        ]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.layout.metrics.read_text().splitlines()]

    @property
    def stages(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.layout.manifest.read_text())["stages"]
        return found


@pytest.fixture(scope="module")
def engines_and_run(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engines, Run]]:
    """One run of the loop for every test of this file."""
    root = tmp_path_factory.mktemp("outside")
    (root / "rules_of_test_scorers.py").write_text(RULES)
    (root / "run.yaml").write_text(RUN.replace("FOREIGN", str(foreign_model(root))))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])))
        settings = load_settings(root / "run.yaml", [*TINY, *SMALLER])
        engines = Engines(settings.resources, settings.model.max_length, root / "ray_train")
        layout = RunLayout(root / "outside")
        try:
            run_pipeline(settings, layout, check_inputs(settings), engines)
            yield engines, Run(layout, settings, root / "foreign", json.loads(layout.summary.read_text()))
        finally:
            engines.close()


def foreign_model(root: Path) -> Path:
    """A score model over the same words under other ids, so its tokenizer is not the policy's."""
    sizes = ModelSettings(hidden_size=32, layers=1, heads=2, intermediate_size=64, max_length=128)
    tokenizer = models.build_tokenizer(["judge", *reversed(world_words(load_world(None)))], sizes.max_length)
    models.save_model(models.new_policy(sizes, tokenizer, seed=5), tokenizer, root / "trunk")
    model = models.new_score_model_from(root / "trunk")
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(1, 32, generator=torch.Generator().manual_seed(5)))
    models.save_model(model, tokenizer, root / "foreign")
    return root / "foreign"


def responses(run: Run) -> list[tuple[dict[str, Any], str, str]]:
    """Every learned-from row with the text of its prompt's tokens and of its response without the end token."""
    tokenizer = load_tokenizer(run.layout.data / "tokenizer")
    found = []
    for row in run.rollouts:
        words = tokenizer.convert_ids_to_tokens(row["token_ids"])
        end = len(words) - (row["finish_reason"] == "stop")
        found.append((row, " ".join(words[: row["prompt_length"]]), " ".join(words[row["prompt_length"] : end])))
    return found


def test_no_score_model_is_trained_and_the_loop_learns(engines_and_run: tuple[Engines, Run]) -> None:
    _, run = engines_and_run
    assert set(run.stages) == {"sft", "pairs", "preferences", "baseline", "scales", "ppo", "selection", "evaluate"}
    assert not run.layout.reward(1).exists() and not run.layout.cost(1, "harm").exists()
    assert [line["step"] for line in run.lines] == [1, 2]
    assert all(line["measure/harm"] is not None and line["measure/judged"] is not None for line in run.lines)
    assert (run.layout.policy(1) / "config.json").is_file() and run.layout.report.stat().st_size > 5000


def test_the_scores_that_were_learned_from_are_the_functions_and_the_foreign_models(
    engines_and_run: tuple[Engines, Run],
) -> None:
    _, run = engines_and_run
    model, tokenizer = load_score_model(run.foreign), load_tokenizer(run.foreign)
    rows = responses(run)
    assert len(rows) > 20
    for row, prompt, response in rows:
        turns = [{"role": "assistant", "content": response}]
        assert row["reward"] == pytest.approx(length_penalty([turns], per_word=0.1)[0], abs=1e-6)
        assert row["cost/harm"] == sum(len(word) >= 7 for word in response.split()) - 2.0
        words = [*prompt.split(), *response.split(), *(["<eos>"] if row["finish_reason"] == "stop" else [])]
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(words)])
        with torch.no_grad():
            expected = models.forward_end_scores(model, ids, torch.tensor([len(words)])).item()
        assert row["cost/judged"] == pytest.approx(expected, abs=1e-4)
    assert len({row["cost/judged"] for row, _, _ in rows}) > 10


def test_conversations_that_a_function_fails_on_are_set_aside_and_counted_and_never_zero(
    engines_and_run: tuple[Engines, Run],
) -> None:
    from rules_of_test_scorers import knows  # type: ignore[import-not-found]

    _, run = engines_and_run
    aside = sum(line["quarantined"] for line in run.lines)
    faults: Counter[str] = Counter()
    for line in run.lines:
        faults.update({key: n for key, n in line.items() if key.startswith("scorer_faults/")})
    # So small a policy also draws special tokens, which the foreign model's tokenizer does not take as text.
    raised, refused = "scorer_faults/cost/harm/raised", "scorer_faults/cost/judged/refused"
    assert set(faults) <= {raised, refused} and faults[raised] > 0, "about one answer in seven raises"
    assert max(faults.values()) <= aside <= faults.total()
    assert {f"scorer_faults/{name}": n for name, n in run.summary["ppo"]["scorer_faults"].items()} == faults
    assert run.summary["ppo"]["quarantined"] == aside
    rows = responses(run)
    assert all(knows(response) for _, _, response in rows), "nothing is learned from an unknown cost"
    assert len(rows) + aside == 2 * run.settings.ppo.batch_size
    warnings = " | ".join(run.summary["warnings"])
    assert f"(signal/reason count): cost/harm/raised {faults[raised]}" in warnings
    assert "scales: " in warnings and "samples were set aside (" in warnings


def test_scales_come_from_sfts_answers_and_the_summary_names_the_scorers(engines_and_run: tuple[Engines, Run]) -> None:
    _, run = engines_and_run
    signals = run.stages["scales"]["facts"]["signals"]
    assert set(signals) == {"reward", "cost/harm", "cost/judged"}
    assert signals["cost/judged"]["reads"] == "text" and signals["cost/judged"]["layout"] == "plain"
    for figures, signal in ((run.summary["reward_model"], "reward"), (run.summary["cost_models"]["harm"], "cost/harm")):
        assert figures["scorer"] == signals[signal]["scorer"] and figures["pair_accuracy"] is None
        assert figures["score_mean"] == signals[signal]["score_mean"]
    assert signals["reward"]["scorer"] == "python actors.scoring.examples:length_penalty"
    assert signals["reward"]["score_std"] > 0 and 128 < signals["reward"]["n"] <= 256
    first = [row["values/reward"] for row in run.rollouts if row["step"] == 1]
    assert np.abs(np.concatenate(first)).max() < 0.2, "a fresh reward critic starts at the mean, which is 0"


def test_best_of_k_asks_the_same_scorers_and_a_finished_run_is_not_run_again(
    engines_and_run: tuple[Engines, Run], tmp_path: Path
) -> None:
    engines, run = engines_and_run
    before = run.layout.manifest.read_text()
    run_pipeline(run.settings, run.layout, check_inputs(run.settings), engines)
    assert run.layout.manifest.read_text() == before
    settings = run.settings.model_copy(update={"algorithm": "best_of_k", "name": "best"})
    layout = RunLayout(tmp_path / "best")
    run_pipeline(settings, layout, check_inputs(settings), engines, donors=[run.layout])
    found = json.loads(layout.manifest.read_text())["stages"]
    assert found["scales"]["facts"]["taken_from"] == "outside" and "ppo" not in found
    assert json.loads(layout.summary.read_text())["cost_models"]["harm"]["scorer"].startswith("python rules_of_test")
