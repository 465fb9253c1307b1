"""The learner group on real Ray and DeepSpeed: ranks and ZeRO stages agree, resume is exact, errors name the sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import ray
import torch

from configs.schema.ppo import PpoSettings
from configs.schema.resources import DeadlineSettings, LearnerSettings
from configs.schema.signals import ConstraintSettings
from configs.schema.supervised import ReferenceSettings
from learner.algorithms.experience import BadBatch
from learner.deadlines import RemoteFailure
from learner.models.modules import load_policy, load_tokenizer
from learner.ranks.checkpoint import CheckpointError
from learner.ranks.group import LearnerGroup
from learner.ranks.rank import LoadRequest
from learner.ranks.rollout_files import rollout_file
from learner.records import SignalTerms, StepResult
from tests.learner.tiny_learner import MadeUpBatch, made_up_batch

CONSTRAINTS = {"harm": ConstraintSettings(limit=0.05), "bias": ConstraintSettings(measure="mean", limit=0.0)}
TERMS = SignalTerms({"harm": 1.0, "bias": 0.5}, {"harm": {"slope": 1.0, "intercept": 0.0}, "bias": {}})
PPO = PpoSettings(steps=10, batch_size=32, minibatch_size=16, epochs=2, actor_learning_rate=1e-3)
DEADLINES = DeadlineSettings(start_seconds=120, learn_seconds=60, broadcast_seconds=20)


@pytest.fixture(scope="module")
def batch(ray_session: None) -> MadeUpBatch:
    """Samples in the object store; words of the tiny tokenizer."""
    return made_up_batch(32, vocabulary=150, wrap=ray.put)


@pytest.fixture(scope="module")
def groups(ray_session: None) -> Iterator[dict[str, LearnerGroup]]:
    """One rank, two ranks, and two ranks under ZeRO 3, started together for the module."""

    def start(name: str, ranks: int, stage: int) -> LearnerGroup:
        settings = LearnerSettings(ranks=ranks, zero_stage=stage, cpus=0.1)
        return LearnerGroup.start(settings, DEADLINES, deterministic=True, name=f"learner-{name}")

    kinds = {"one": (1, 0), "two": (2, 0), "zero3": (2, 3)}
    with ThreadPoolExecutor() as threads:
        starting = {name: threads.submit(start, name, *kind) for name, kind in kinds.items()}
        started = {name: group.result() for name, group in starting.items()}
    yield started
    for group in started.values():
        group.shutdown()


def _load(group: LearnerGroup, models: Any, **changes: Any) -> None:
    costs = {"harm": models.cost, "bias": models.cost}
    request = LoadRequest(models.policy, models.reward, costs, PPO, CONSTRAINTS, cost_means={"harm": 0.5})
    group.load(replace(request, **changes))


def _steps(group: LearnerGroup, batch: MadeUpBatch, steps: range, folder: Path | None = None) -> list[StepResult]:
    return [group.step(batch.rows, TERMS, step, rollouts=folder) for step in steps]


def _weights(group: LearnerGroup, folder: Path) -> torch.Tensor:
    group.save_policy(folder)
    return torch.cat([one.detach().flatten() for one in load_policy(folder).parameters()])


def test_one_rank_two_ranks_and_zero_3_learn_the_same(
    groups: dict[str, LearnerGroup], tiny_models: Any, batch: MadeUpBatch, tmp_path: Path
) -> None:
    results, weights = {}, {}
    for name, group in groups.items():
        _load(group, tiny_models)
        results[name] = _steps(group, batch, range(1, 3), tmp_path / "rollouts" / name)
        weights[name] = _weights(group, tmp_path / name)
    start = torch.cat([one.detach().flatten() for one in load_policy(tiny_models.policy).parameters()])
    assert float((weights["one"] - start).abs().max()) > 1e-3
    for name in ("two", "zero3"):
        for mine, theirs in zip(results["one"], results[name], strict=True):
            assert mine.metrics == pytest.approx(theirs.metrics, rel=2e-3, abs=2e-4)
        # AdamW's first steps are about +-lr whatever the gradient's size: rounding flips a tiny one. Compare the bulk.
        gap = (weights["one"] - weights[name]).abs()
        assert float(gap.quantile(0.99)) < 1e-5 and float(gap.max()) < 5e-3
    files = [rollout_file(tmp_path / "rollouts" / "two", 1, rank) for rank in range(2)]
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    assert sorted(row["request_id"] for row in rows) == sorted(row.request_id for row in batch.rows)
    assert results["two"][1].weight_version == 2
    assert set(results["two"][1].phase_seconds) == {"fetch", "experience", "update", "write"}


def test_with_one_minibatch_the_first_gradient_is_the_same_for_any_number_of_ranks(
    groups: dict[str, LearnerGroup], tiny_models: Any, batch: MadeUpBatch
) -> None:
    ppo = PPO.model_copy(update={"minibatch_size": 32, "epochs": 1, "critics": "separate"})
    metrics = {}
    for name, group in groups.items():
        _load(group, tiny_models, ppo=ppo)
        metrics[name] = _steps(group, batch, range(1, 2))[0].metrics
    for name in ("two", "zero3"):
        assert metrics["one"] == pytest.approx(metrics[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("algorithm", ["grpo_lag", "gdpo", "rvpo"])
def test_groups_that_lie_on_two_ranks_learn_as_on_one_and_need_no_critic(
    algorithm: str, groups: dict[str, LearnerGroup], tiny_models: Any, tmp_path: Path
) -> None:
    batch = made_up_batch(32, vocabulary=150, group_size=4, wrap=ray.put)
    ppo = PPO.model_copy(update={"minibatch_size": 32, "epochs": 1})
    results = {}
    for name in groups if algorithm == "gdpo" else ("one", "two"):
        _load(groups[name], tiny_models, ppo=ppo, algorithm=algorithm, reward_model_path=None)
        results[name] = _steps(groups[name], batch, range(1, 2), tmp_path / name)[0]
        assert results[name].metrics == pytest.approx(results["one"].metrics, rel=1e-4, abs=1e-5)
        assert results[name].notes == results["one"].notes and "delta_logprob_worst" in results[name].notes
    assert "gradient_norm/critic" not in results["two"].metrics
    columns = parquet.read_schema(rollout_file(tmp_path / "two", 1, 1)).names
    assert "advantages/cost/harm" in columns and not [name for name in columns if name.startswith("values/")]
    if algorithm == "gdpo":
        groups["two"].save_checkpoint(tmp_path / "step-00001", 1, {})
        assert groups["two"].load_checkpoint(tmp_path / "step-00001")["step"] == 1


def test_masks_by_token_id_leave_the_unknown_token_out(
    groups: dict[str, LearnerGroup], tiny_models: Any, batch: MadeUpBatch
) -> None:
    unknown = load_tokenizer(tiny_models.policy).unk_token_id
    chunk = batch.rollouts[batch.rows[0].rollout]
    rows = [ids.copy() for ids in chunk.token_ids]
    rows[0][-1] = rows[1][-1] = unknown
    marked = ray.put(replace(chunk, token_ids=tuple(rows)))
    dealt = [replace(row, rollout=marked) if row.rollout == batch.rows[0].rollout else row for row in batch.rows]
    tokens = []
    for reference in (ReferenceSettings(), ReferenceSettings(masks_by_token_id=True)):
        _load(groups["one"], tiny_models, reference=reference)
        tokens.append(groups["one"].step(dealt, TERMS, 1).metrics["tokens"])
    assert tokens[0] - tokens[1] == 2.0


def test_a_resumed_step_is_the_uninterrupted_one_bit_for_bit(
    groups: dict[str, LearnerGroup], tiny_models: Any, batch: MadeUpBatch, tmp_path: Path
) -> None:
    for name in ("one", "two", "zero3"):
        group = groups[name]
        _load(group, tiny_models)
        _steps(group, batch, range(1, 2))
        group.save_checkpoint(tmp_path / name / "step-00001", 1, {"multipliers": {"harm": 1.25}})
        uninterrupted = _steps(group, batch, range(2, 4))
        expected = _weights(group, tmp_path / name / "uninterrupted")
        _load(group, tiny_models, seed=0)
        state = group.load_checkpoint(tmp_path / name / "step-00001")
        assert state == {"multipliers": {"harm": 1.25}, "step": 1, "weight_version": 1}
        resumed = _steps(group, batch, range(2, 4))
        assert [one.metrics for one in resumed] == [one.metrics for one in uninterrupted]
        assert resumed[-1].weight_version == 3
        assert torch.equal(_weights(group, tmp_path / name / "resumed"), expected)


def test_a_checkpoint_of_another_group_or_with_damage_is_refused(
    groups: dict[str, LearnerGroup], tiny_models: Any, tmp_path: Path
) -> None:
    path = tmp_path / "step-00000"
    _load(groups["one"], tiny_models)
    _load(groups["two"], tiny_models)
    groups["one"].save_checkpoint(path, 0, {})
    with pytest.raises(RemoteFailure, match=r"CheckpointError.*this group is"):
        groups["two"].load_checkpoint(path)
    file = path / "rank-0.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RemoteFailure, match=r"rank-0\.pt does not match its checksum") as caught:
        groups["one"].load_checkpoint(path)
    assert isinstance(caught.value.__cause__, CheckpointError)
    assert json.loads((path / "manifest.json").read_text())["facts"]["ranks"] == 1


def test_a_sample_with_a_score_that_is_not_finite_stops_both_ranks_by_name_and_they_go_on(
    groups: dict[str, LearnerGroup], tiny_models: Any, batch: MadeUpBatch
) -> None:
    group = groups["two"]
    _load(group, tiny_models)
    row = batch.rows[0]
    scores = batch.scores[row.scores[0]]
    harm = scores.scores["cost/harm"].copy()
    harm[row.row] = np.nan
    poisoned = ray.put(replace(scores, scores={**scores.scores, "cost/harm": harm}))
    rows = [replace(one, scores=(poisoned,)) if one.scores == row.scores else one for one in batch.rows]
    with pytest.raises(RemoteFailure, match=r"r0000 has no finite cost/harm|another learner rank"):
        group.step(rows, TERMS, 1)
    assert _steps(group, batch, range(1, 2))[0].weight_version == 1
    with pytest.raises(BadBatch, match=r"twice"):
        group.step([*batch.rows, row], TERMS, 1)


@pytest.mark.parametrize("name", ["one", "zero3"])
def test_weights_that_are_not_finite_stop_the_update_by_name(
    name: str, groups: dict[str, LearnerGroup], tiny_models: Any, batch: MadeUpBatch
) -> None:
    group = groups[name]
    _load(group, tiny_models, reward_normaliser=(0.0, 1e-38))  # the reward's advantages overflow
    with pytest.raises(RemoteFailure, match=r"NonFiniteUpdate.*request r00"):
        _steps(group, batch, range(1, 2))
    _load(group, tiny_models)
    assert np.isfinite(_steps(group, batch, range(1, 2))[0].metrics["actor_loss"])
