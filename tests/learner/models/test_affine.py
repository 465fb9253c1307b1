"""``affine.json``: a score in other units or with another zero, for whoever scores and for critics that start from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.run_folder.digests import model_digest
from configs.exits import DataError
from configs.schema.signals import ConstraintSettings
from configs.schema.supervised import ModelSettings
from learner.models import modules as models
from learner.models.score_models.folders import (
    Affine,
    EnsembleBound,
    affine_of,
    load_whole_score_model,
    member_folder,
    save_affine,
    save_ensemble,
)
from learner.ranks.critics import new_critic

TINY = ModelSettings(hidden_size=32, layers=1, heads=2, intermediate_size=32, max_length=32)
ROWS = [np.array([2, 7, 8, 3]), np.array([2, 9, 3]), np.array([2, 8, 8, 7, 10, 3])]
CONSTRAINTS = {"harm": ConstraintSettings(measure="mean", limit=0.0, scale=2.0)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`sft`, and `score`, an ensemble of two."""
    tokenizer = models.build_tokenizer([f"word{index}" for index in range(10)], TINY.max_length)
    models.save_model(models.new_policy(TINY, tokenizer, seed=1), tokenizer, tmp_path / "sft")
    for index in range(2):
        model = models.new_score_model_from(tmp_path / "sft")
        with torch.no_grad():
            model.score.weight.copy_(torch.randn(1, 32, generator=torch.Generator().manual_seed(index)))
        models.save_model(model, tokenizer, member_folder(tmp_path / "score", index))
    return tmp_path


def scores(folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
    return load_whole_score_model(folder).score(*models.pad_right(ROWS, 0))


def end_values(critic: models.SharedCritic) -> np.ndarray:
    ids, lengths = models.pad_right(ROWS, 0)
    with torch.no_grad():
        values = critic(ids)
    return values[range(len(ROWS)), lengths - 1].numpy()


def test_scores_and_spreads_move_after_the_ensembles_bound(root: Path) -> None:
    save_ensemble(root / "score", EnsembleBound(2, 1.0, "upper"))
    raw, spread = scores(root / "score")
    before = model_digest(root / "score")
    save_affine(root / "score", 0.5, -2.0)
    moved, moved_spread = scores(root / "score")
    assert spread is not None and moved_spread is not None and spread.max() > 0.01
    np.testing.assert_allclose(moved, 0.5 * raw - 2.0, atol=1e-6)
    np.testing.assert_allclose(moved_spread, 0.5 * spread, atol=1e-6)
    assert moved.dtype == np.float32 and model_digest(root / "score") != before


def test_a_folder_without_one_scores_bit_for_bit_as_before(root: Path) -> None:
    raw, _ = scores(root / "score")
    assert affine_of(root / "score") is None
    save_affine(root / "score", 3.0, 1.0)
    (root / "score" / "affine.json").unlink()
    np.testing.assert_array_equal(scores(root / "score")[0], raw)


def test_critics_start_at_the_moved_score(root: Path) -> None:
    save_affine(root / "score", 0.5, -2.0)
    moved, _ = scores(root / "score")
    reward = new_critic(("reward",), root / "score", {}, (0.3, 1.7), {}, {})
    np.testing.assert_allclose(end_values(reward)[:, 0], (moved - 0.3) / 1.7, atol=1e-5)
    cost = new_critic(("cost/harm",), None, {"harm": root / "score"}, (0.0, 1.0), CONSTRAINTS, {})
    np.testing.assert_allclose(end_values(cost)[:, 0], moved / 2.0, atol=1e-5)


def test_a_critic_without_a_model_of_its_own_starts_on_the_policy_at_the_mean(root: Path) -> None:
    shared = new_critic(
        ("reward", "cost/harm"),
        None,
        {},
        (0.0, 1.0),
        CONSTRAINTS,
        {"harm": -0.25},
        policy_path=root / "sft",
        reward_start=1.5,
    )
    np.testing.assert_array_equal(end_values(shared), np.array([[1.5, -0.25]] * 3, dtype=np.float32))
    policy = models.load_policy(root / "sft")
    for name, parameter in policy.base_model.named_parameters():
        assert torch.equal(shared.trunk.get_parameter(name), parameter), name
    values = shared(*[torch.tensor([[2, 7, 8, 3]])])
    values.sum().backward()
    assert shared.heads.weight.grad is not None and shared.heads.weight.grad.abs().max() > 0, "a fresh head must learn"


def test_a_shared_critic_takes_the_trunk_of_the_first_signal_that_has_a_model(root: Path) -> None:
    shared = new_critic(
        ("reward", "cost/harm"), None, {"harm": root / "score"}, (0.0, 1.0), CONSTRAINTS, {}, policy_path=root / "sft"
    )
    raw, _ = scores(root / "score")
    np.testing.assert_allclose(end_values(shared)[:, 1], raw / 2.0, atol=1e-5)
    assert (end_values(shared)[:, 0] == 0).all()
    separate = new_critic(
        ("reward",), None, {"harm": root / "score"}, (0.0, 1.0), CONSTRAINTS, {}, policy_path=root / "sft"
    )
    trunk = models.load_policy(root / "sft").base_model
    assert torch.equal(next(separate.trunk.parameters()), next(trunk.parameters()))


@pytest.mark.parametrize(("scale", "offset"), [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_numbers_of_no_use_are_refused_when_written_and_when_read(root: Path, scale: float, offset: float) -> None:
    with pytest.raises(DataError, match="is of no use"):
        save_affine(root / "score", scale, offset)
    assert affine_of(root / "score") is None
    text = (
        str(Affine(scale, offset))
        .replace("Affine(scale=", '{"scale": ')
        .replace("offset=", '"offset": ')
        .replace(")", "}")
    )
    (root / "score" / "affine.json").write_text(text)
    with pytest.raises(DataError, match=r"affine\.json"):
        affine_of(root / "score")


def test_a_damaged_document_is_named(root: Path) -> None:
    for text in ("{", "[]", '{"scale": 1}', '{"scale": "x", "offset": 0}'):
        (root / "score" / "affine.json").write_text(text)
        with pytest.raises(DataError, match="gives no scale and offset"):
            load_whole_score_model(root / "score")
