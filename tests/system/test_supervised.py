"""SFT and preference training on real Ray Train and DeepSpeed, on a tiny model that can learn the task."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cluster.run_folder.digests import model_digest
from cluster.runs.stages.score_models import ScoreModel, train_model
from configs.exits import DataError
from configs.schema.resources import DeadlineSettings, SupervisedSettings
from configs.schema.run import RunSettings
from configs.schema.supervised import (
    CostModelSettings,
    ModelSettings,
    OptimiserSettings,
    ScoreModelSettings,
    SftSettings,
)
from learner.models.modules import build_tokenizer, load_tokenizer, new_policy, pad_right, save_model
from learner.models.score_models.folders import load_pair_scores, load_whole_score_model, member_folder
from learner.statistics.calibration import load_calibration
from learner.supervised.mailbox import TaskProgress
from learner.supervised.preference import PreferenceTask
from learner.supervised.score_models.quality import Kind, reward_agreement
from learner.supervised.session import SupervisedSession, TrainFailure
from learner.supervised.sft import SftTask

pytestmark = pytest.mark.usefixtures("ray_session")

IDS = pa.list_(pa.int32())
MODEL = ModelSettings(hidden_size=64, layers=1, heads=2, intermediate_size=64, max_length=32)
GOOD, BAD = 6, 7
"""Token ids of the words whose presence decides what is better."""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """An untrained policy and its tokenizer."""
    path = tmp_path_factory.mktemp("supervised") / "start"
    tokenizer = build_tokenizer(["good", "bad", *(f"word{index}" for index in range(20))], MODEL.max_length)
    save_model(new_policy(MODEL, tokenizer, seed=0), tokenizer, path)
    return path


@pytest.fixture(scope="module")
def demonstrations(start) -> Path:
    """The response is always "good" and the end token; prompts differ in length."""
    rng, eos = np.random.default_rng(0), load_tokenizer(start).eos_token_id
    prompts = [[2, *rng.integers(8, 28, rng.integers(1, 20)).tolist()] for _ in range(200)]
    table = {
        "input_ids": pa.array([[*prompt, GOOD, eos] for prompt in prompts], IDS),
        "prompt_length": pa.array([len(prompt) for prompt in prompts], pa.int32()),
        "holdout": [index % 10 == 0 for index in range(200)],
    }
    parquet.write_table(pa.table(table), start.parent / "sft.parquet")
    return start.parent / "sft.parquet"


@pytest.fixture(scope="module")
def pairs(start) -> Path:
    """The response "good" is better, safe and preferred; "bad" is unsafe; some labels are unknown."""
    rng, n = np.random.default_rng(1), 240
    prompts = [[2, *rng.integers(8, 28, rng.integers(1, 20)).tolist()] for _ in range(n)]
    lengths = pa.array([len(prompt) for prompt in prompts], pa.int32())
    table = {
        "better_ids": pa.array([[*prompt, GOOD, 3] for prompt in prompts], IDS),
        "better_prompt_length": lengths,
        "worse_ids": pa.array([[*prompt, BAD, 3] for prompt in prompts], IDS),
        "worse_prompt_length": lengths,
        "split": [{0: "holdout", 1: "calibration"}.get(index % 5, "train") for index in range(n)],
        "half": [index % 2 for index in range(n)],
        "safer_sign": [0 if index % 7 == 0 else -1 for index in range(n)],
        "less_safe_sign": [1] * n,
        "rank_weight": [0 if index % 6 == 0 else 1 for index in range(n)],
    }
    parquet.write_table(pa.table(table), start.parent / "pairs.parquet")
    return start.parent / "pairs.parquet"


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> Iterator[tuple[SupervisedSession, SupervisedSession]]:
    """Of one deterministic worker and of two; both start at once, for starting is mostly waiting."""
    storage = tmp_path_factory.mktemp("train")
    with (
        SupervisedSession(SupervisedSettings(workers=1), DeadlineSettings(), storage, deterministic=True) as one,
        SupervisedSession(SupervisedSettings(workers=2), DeadlineSettings(), storage) as two,
    ):
        one.start()
        two.start()
        yield one, two


@pytest.fixture
def session(sessions) -> SupervisedSession:
    return sessions[0]


def sft_task(start: Path, data: Path, output: Path, **changes) -> SftTask:
    optimiser = OptimiserSettings(learning_rate=changes.pop("learning_rate", 1e-2), warmup_steps=3)
    settings = SftSettings(steps=changes.pop("steps", 20), batch_size=32, optimiser=optimiser)
    return SftTask("sft", data, start, output, settings, seed=changes.pop("seed", 1))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def test_sft_learns_reports_and_saves_a_policy_for_plain_transformers(session, start, demonstrations, tmp_path):
    seen: list[TaskProgress] = []
    metrics = session.run(sft_task(start, demonstrations, tmp_path / "sft"), seen.append)
    assert seen[-1].fraction == 1.0 and seen[-1].task == "sft" and seen[-1].steps == 20
    assert metrics["loss"] < 0.2 and metrics["holdout_loss"] < 0.2 and metrics["rows"] == 180
    training = json.loads((tmp_path / "sft" / "training.json").read_text())
    assert len(training["curves"]["loss"]) == 20 and training["curves"]["loss"][0] > 2.0
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    assert policy(torch.tensor([[2, 9, 11]])).logits[0, -1].argmax() == GOOD
    before, after = weights(start), weights(tmp_path / "sft")
    assert before.keys() == after.keys() and not any(torch.equal(before[name], after[name]) for name in before)


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_does_not(
    session, start, demonstrations, tmp_path
):
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        session.run(sft_task(start, demonstrations, tmp_path / name, steps=4, seed=seed))
    first, again, other = (weights(tmp_path / name) for name in ("first", "again", "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def preference_task(kind: Kind, start: Path, data: Path, output: Path, **changes) -> PreferenceTask:
    chosen = {name: changes.pop(name) for name in ("ensemble", "ensemble_spread") if name in changes}
    made = CostModelSettings if kind == "cost" else ScoreModelSettings
    settings = made(epochs=3, batch_size=32, optimiser=OptimiserSettings(learning_rate=1e-2), **chosen)
    return PreferenceTask(f"{kind} model", kind, data, start, output, settings, **({"seed": 3} | changes))


def test_a_reward_model_ranks_held_out_pairs_and_says_its_scores_spread(session, start, pairs, tmp_path):
    metrics = session.run(preference_task("reward", start, pairs, tmp_path / "reward"))
    assert metrics["pair_accuracy"] > 0.95 and metrics["holdout_pairs"] == 48 and metrics["pairs"] == 144
    normaliser = json.loads((tmp_path / "reward" / "normaliser.json").read_text())
    assert normaliser["n"] == 288 and normaliser["std"] > 0.1
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    table = parquet.read_table(pairs).to_pydict()
    rows = [row for row in range(240) if table["split"][row] == "train"]
    ids = [table[side][row] for side in ("better_ids", "worse_ids") for row in rows]
    with torch.no_grad():
        scores = torch.stack([model(torch.tensor([row])).logits[0, 0] for row in ids])
    assert normaliser["mean"] == pytest.approx(scores.mean().item(), abs=1e-4)
    assert normaliser["std"] == pytest.approx(scores.std(correction=0).item(), abs=1e-4)
    assert not (tmp_path / "reward" / "calibration.json").exists()


def test_a_cost_model_knows_the_signs_and_is_calibrated(session, start, pairs, tmp_path):
    metrics = session.run(preference_task("cost", start, pairs, tmp_path / "cost"))
    assert metrics["pair_accuracy"] > 0.95 and metrics["sign_accuracy"] > 0.95 and metrics["calibrated"] == 1.0
    calibration = load_calibration(tmp_path / "cost")
    assert calibration is not None and calibration.platt.slope == metrics["calibration_slope"] > 0
    table = parquet.read_table(pairs).to_pydict()
    known = sum(1 + (table["safer_sign"][row] != 0) for row in range(240) if table["split"][row] == "calibration")
    assert calibration.platt.n == calibration.isotonic.n == known


def test_a_stage_trains_members_that_differ_and_score_together_as_the_scorer_will(session, start, pairs, tmp_path):
    warnings: list[str] = []
    context = SimpleNamespace(
        settings=RunSettings(name="x", seed=3, constraints={"harm": {"limit": 0.1}}),
        layout=SimpleNamespace(sft=start),
        engines=SimpleNamespace(train=lambda task, _: session.run(task)),
        status=None,
        warn=warnings.append,
    )
    settings = preference_task("cost", start, pairs, tmp_path, ensemble=2, ensemble_spread=1.5).settings
    folder = tmp_path / "cost"
    output = train_model(context, ScoreModel("cost_model/harm", "cost", pairs, folder, settings), {"used": 240})
    facts = output.facts
    assert output.paths == (folder,) and not warnings
    assert facts["pair_accuracy"] > 0.95 and facts["calibrated"] == 1.0 and facts["ensemble_spread"] > 1e-3
    assert facts["digest"] == model_digest(folder) and facts["comparisons"] == {"used": 240}
    assert sum(each["n"] for each in facts["reliability"]) == facts["signed_holdout_responses"]
    first, second = weights(folder), weights(member_folder(folder, 1))
    assert not torch.equal(first["score.weight"], second["score.weight"])
    seeds = [json.loads((member_folder(folder, index) / "training.json").read_text())["seed"] for index in range(2)]
    assert seeds[0] == 3 != seeds[1]
    table = parquet.read_table(pairs).to_pydict()
    ids, lengths = pad_right([np.array(row) for row in table["worse_ids"][:20]], 0)
    scores, deviation = load_whole_score_model(folder).score(ids, lengths)
    # What was calibrated is what the loop will see.
    np.testing.assert_allclose(scores, load_pair_scores(folder)[1, :20], atol=1e-3)
    assert deviation is not None and deviation.min() >= 0


def test_two_halves_learn_from_different_pairs_and_agree_on_the_holdout(session, start, pairs, tmp_path):
    for half in (0, 1):
        metrics = session.run(preference_task("reward", start, pairs, tmp_path / str(half), half=half))
        assert metrics["pairs"] == 72 and metrics["holdout_pairs"] == 48
    agreement = reward_agreement(tmp_path / "0", tmp_path / "1", pairs)
    assert agreement["agreement"] > 0.9 and agreement["agreement_pairs"] == 48
    assert not torch.equal(weights(tmp_path / "0")["score.weight"], weights(tmp_path / "1")["score.weight"])


def test_bad_data_and_a_loss_that_is_not_finite_are_named_and_the_session_goes_on(
    session, start, demonstrations, tmp_path
):
    with pytest.raises(DataError, match=r"task 'sft' failed: .*absent.parquet cannot be read"):
        session.run(sft_task(start, tmp_path / "absent.parquet", tmp_path / "never"))
    broken = tmp_path / "broken"
    tokenizer, policy = load_tokenizer(start), AutoModelForCausalLM.from_pretrained(start)
    with torch.no_grad():
        policy.get_input_embeddings().weight[20] = float("nan")
    save_model(policy, tokenizer, broken)
    with pytest.raises(TrainFailure, match=r"task 'sft' failed: the loss of step 1 of 20 is nan; rows \["):
        session.run(sft_task(broken, demonstrations, tmp_path / "never"))
    assert not (tmp_path / "never").exists()
    assert session.run(sft_task(start, demonstrations, tmp_path / "after", steps=2))["steps"] == 2


def test_two_workers_learn_what_one_does(sessions, start, demonstrations, tmp_path):
    """Gradients are sums over the whole batch, so the weights agree but for rounding."""
    for session, name in zip(sessions, ("one", "two"), strict=True):
        session.run(sft_task(start, demonstrations, tmp_path / name, steps=6, learning_rate=1e-3))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-4, rtol=0)
    curves = [json.loads((tmp_path / name / "training.json").read_text())["curves"] for name in ("one", "two")]
    # Adam forgives a gradient of the wrong scale; its norm before clipping does not.
    assert curves[0]["gradient_norm"] == pytest.approx(curves[1]["gradient_norm"], rel=1e-3)
    assert curves[0]["loss"] == pytest.approx(curves[1]["loss"], rel=1e-4)


def test_a_killed_worker_ends_the_task_with_its_name(sessions, start, demonstrations, tmp_path):
    """The last test: it kills workers of both sessions."""

    def kill(progress: TaskProgress) -> None:
        for pid in worker_pids():
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(TrainFailure, match="task 'sft' failed"):
        sessions[1].run(sft_task(start, demonstrations, tmp_path / "never", steps=100_000), kill)
    assert not (tmp_path / "never").exists()


def worker_pids() -> list[int]:
    """Process ids of this Ray session's training workers."""
    from ray._private.state import actors

    return [
        actor["Pid"]
        for actor in actors().values()
        if actor["State"] == "ALIVE" and "RayTrainWorker" in actor["ActorClassName"]
    ]
