"""The scorer's class without Ray, on tiny real models: one model, an ensemble and a watched model in one chunk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from actors.scoring.model_scorer import ModelScorer, ScorerModels
from configs.exits import DataError
from configs.schema.resources import ScorerSettings
from configs.schema.supervised import ModelSettings
from learner.models import modules as models
from learner.models.score_models.folders import (
    EnsembleBound,
    ensemble_of,
    load_whole_score_model,
    member_folder,
    save_ensemble,
)
from learner.records import RolloutChunk, RolloutMeta

TINY = ModelSettings(hidden_size=32, layers=1, heads=2, intermediate_size=32, max_length=32)
ROWS = [[2, 7, 8, 3], [2, 9, 3], [2, 8, 8, 7, 10, 3]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`sft`, a plain `reward`, and `cost`, an ensemble of three."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = models.build_tokenizer([f"word{index}" for index in range(10)], TINY.max_length)
    models.save_model(models.new_policy(TINY, tokenizer, seed=1), tokenizer, root / "sft")
    cost = root / "cost"
    for index, path in enumerate([root / "reward", *(member_folder(cost, member) for member in range(3))]):
        model = models.new_score_model_from(root / "sft")
        with torch.no_grad():
            model.score.weight.copy_(torch.randn(1, 32, generator=torch.Generator().manual_seed(index)))
        models.save_model(model, tokenizer, path)
    save_ensemble(cost, EnsembleBound(3, 2.0, "upper"))
    return root


def chunk() -> RolloutChunk:
    metas = tuple(
        RolloutMeta(f"r{index}", f"p{index}", 2, len(row) - 2, "stop", 0, "generator-0")
        for index, row in enumerate(ROWS)
    )
    return RolloutChunk(
        metas, tuple(np.array(row, dtype=np.int32) for row in ROWS), tuple(np.zeros(len(row) - 2) for row in ROWS)
    )


def plain_scores(path: Path) -> np.ndarray:
    """By plain transformers, row by row."""
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        return np.array([model(torch.tensor([row])).logits[0, 0].item() for row in ROWS])


def test_an_ensembles_score_is_its_members_upper_bound_and_a_single_models_its_own(folder) -> None:
    held = ScorerModels({"reward": folder / "reward", "cost/harm": folder / "cost", "reward_test": folder / "reward"})
    meta, scored = ModelScorer("scorer-0", ScorerSettings(tokens_per_batch=8), held).score(chunk())
    members = np.stack([plain_scores(member_folder(folder / "cost", index)) for index in range(3)])
    expected = members.mean(0) + 2.0 * members.std(0)
    np.testing.assert_allclose(meta.scores["cost/harm"], expected, atol=1e-5)
    np.testing.assert_allclose(meta.spreads["cost/harm"], members.std(0), atol=1e-5)
    np.testing.assert_allclose(meta.scores["reward"], plain_scores(folder / "reward"), atol=1e-5)
    assert set(meta.spreads) == {"cost/harm"} and meta.faults == {}
    assert meta.scores["reward_test"] == meta.scores["reward"]
    assert scored.scores["cost/harm"].dtype == np.float32 and members.std(0).min() > 0.01


def test_a_member_that_is_not_finite_spoils_its_rows_and_is_named(folder, tmp_path) -> None:
    tokenizer = models.load_tokenizer(folder / "sft")
    broken = models.load_score_model(folder / "cost")
    with torch.no_grad():
        broken.get_input_embeddings().weight[10] = float("nan")
    models.save_model(models.load_score_model(folder / "cost"), tokenizer, tmp_path / "cost")
    models.save_model(broken, tokenizer, member_folder(tmp_path / "cost", 1))
    save_ensemble(tmp_path / "cost", EnsembleBound(2, 0.0, "upper"))
    meta, _ = ModelScorer("scorer-0", ScorerSettings(), ScorerModels({"cost/harm": tmp_path / "cost"})).score(chunk())
    assert meta.faults == {"r2": "not finite: cost/harm"}, "only row 2 holds the token"


def test_a_reader_of_a_plain_model_gets_member_0(folder) -> None:
    ids, lengths = models.pad_right([np.array(row) for row in ROWS], 0)
    with torch.no_grad():
        found = models.forward_end_scores(models.load_score_model(folder / "cost"), ids, lengths)
    np.testing.assert_allclose(found.numpy(), plain_scores(folder / "cost"), atol=1e-5)
    critic = models.SharedCritic.from_score_model(folder / "cost", (models.ValueHead(score_scale=1.0),))
    assert critic.heads.weight.shape == (1, 32)


def test_an_ensembles_folder_says_what_is_wrong_with_it(folder, tmp_path) -> None:
    assert ensemble_of(folder / "reward") is None
    for content, problem in (
        ({"members": 2}, "says nothing of an ensemble"),
        ({"members": 1, "spread": 1.0, "bound": "lower"}, "is of 1 members"),
        ({"members": 2, "spread": 1.0, "bound": "middle"}, "bound 'middle'"),
    ):
        (tmp_path / "ensemble.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=problem):
            ensemble_of(tmp_path)
    tokenizer = models.load_tokenizer(folder / "sft")
    models.save_model(models.load_score_model(folder / "cost"), tokenizer, tmp_path / "short")
    save_ensemble(tmp_path / "short", EnsembleBound(2, 1.0, "upper"))
    with pytest.raises(DataError, match=r"members/1 holds no model"):
        load_whole_score_model(tmp_path / "short")
