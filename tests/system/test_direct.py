"""`dpo` and `safe_dpo` on real Ray Train and DeepSpeed, on a tiny model that can learn which word is better."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from configs.exits import DataError
from configs.schema.resources import DeadlineSettings, SupervisedSettings
from configs.schema.supervised import DirectSettings, ModelSettings, OptimiserSettings
from learner.models.modules import build_tokenizer, new_policy, save_model
from learner.supervised.direct import DirectTask
from learner.supervised.session import SupervisedSession

pytestmark = pytest.mark.usefixtures("ray_session")

IDS = pa.list_(pa.int32())
MODEL = ModelSettings(hidden_size=64, layers=1, heads=2, intermediate_size=64, max_length=32)
GOOD, BAD, END = 6, 7, 3
"""Token ids: the better and the worse word, and the end token."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy with its tokenizer: start and reference of every task."""
    path = tmp_path_factory.mktemp("direct") / "start"
    tokenizer = build_tokenizer(["good", "bad", *(f"word{index}" for index in range(20))], MODEL.max_length)
    save_model(new_policy(MODEL, tokenizer, seed=0), tokenizer, path)
    return path


@pytest.fixture(scope="module")
def pairs(start: Path) -> Path:
    """The word "good" is better after any prompt; responses differ in length; half of the pairs are safe against unsafe."""
    rng, n = np.random.default_rng(1), 200
    prompts = [[2, *rng.integers(8, 28, rng.integers(1, 12)).tolist()] for _ in range(n)]
    lengths = pa.array([len(prompt) for prompt in prompts], pa.int32())
    table = {
        "better_ids": pa.array(
            [[*prompt, GOOD, *([8] * (index % 3)), END] for index, prompt in enumerate(prompts)], IDS
        ),
        "better_prompt_length": lengths,
        "worse_ids": pa.array([[*prompt, BAD, END] for prompt in prompts], IDS),
        "worse_prompt_length": lengths,
        "margin_weight": pa.array([index % 2 for index in range(n)], pa.float32()),
        "split": ["holdout" if index % 5 == 0 else "train" for index in range(n)],
    }
    parquet.write_table(pa.table(table), start.parent / "pairs.parquet")
    return start.parent / "pairs.parquet"


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SupervisedSession, SupervisedSession]]:
    """Of one deterministic worker and of two; both start at once, for starting is mostly waiting."""
    storage = tmp_path_factory.mktemp("train")
    with (
        SupervisedSession(SupervisedSettings(workers=1), DeadlineSettings(), storage, deterministic=True) as one,
        SupervisedSession(SupervisedSettings(workers=2), DeadlineSettings(), storage) as two,
    ):
        one.start()
        two.start()
        yield one, two


def task(kind: Literal["dpo", "safe_dpo"], start: Path, data: Path, output: Path, rate: float = 1e-2) -> DirectTask:
    settings = DirectSettings(
        beta=0.5, epochs=2, batch_size=32, margin=2.0, optimiser=OptimiserSettings(learning_rate=rate)
    )
    return DirectTask(kind, kind, data, start, output, settings, seed=3)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def test_dpo_starts_at_its_reference_learns_and_saves_a_policy_for_plain_transformers(sessions, start, pairs, tmp_path):
    metrics = sessions[0].run(task("dpo", start, pairs, tmp_path / "dpo"))
    assert metrics["accuracy"] > 0.95 and metrics["holdout_pairs"] == 40 and metrics["pairs"] == 160
    assert metrics["reward_margin"] > 0.5 and metrics["log_ratio"] > 0.5
    training = json.loads((tmp_path / "dpo" / "training.json").read_text())
    assert training["kind"] == "dpo" and len(training["curves"]["loss"]) == 10
    assert training["curves"]["loss"][0] == pytest.approx(math.log(2), abs=1e-4), "the policy is its own reference"
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo")
    logits = policy(torch.tensor([[2, 9, 11]])).logits[0, -1]
    assert logits[GOOD] > logits[BAD] + 1


def test_the_margin_pushes_further_and_shows_in_the_first_loss(sessions, start, pairs, tmp_path):
    sessions[0].run(task("dpo", start, pairs, tmp_path / "dpo"))
    sessions[0].run(task("safe_dpo", start, pairs, tmp_path / "safe"))
    plain, safe = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("dpo", "safe"))
    # at the reference the gap is 0: log 2 without the margin and log(1 + e^2) = 2.1269 with it, half of the pairs each
    assert plain["curves"]["loss"][0] < 1.0 < safe["curves"]["loss"][0] < 2.0
    assert safe["metrics"]["reward_margin"] > plain["metrics"]["reward_margin"]


def test_the_same_seed_gives_the_same_policy_bit_for_bit(sessions, start, pairs, tmp_path):
    for name in ("first", "again"):
        sessions[0].run(task("safe_dpo", start, pairs, tmp_path / name))
    first, again = weights(tmp_path / "first"), weights(tmp_path / "again")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_two_workers_learn_what_one_does(sessions, start, pairs, tmp_path):
    """Losses are sums over the whole batch, and the reference's log-probs are the same on every rank."""
    for session, name in zip(sessions, ("one", "two"), strict=True):
        session.run(task("safe_dpo", start, pairs, tmp_path / name, rate=1e-3))
    one, two = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two"))
    assert one["curves"]["gradient_norm"] == pytest.approx(two["curves"]["gradient_norm"], rel=1e-3)
    assert one["curves"]["loss"] == pytest.approx(two["curves"]["loss"], rel=1e-4)
    assert one["metrics"]["log_ratio"] == pytest.approx(two["metrics"]["log_ratio"], rel=1e-2)
    for name, weight in weights(tmp_path / "one").items():
        torch.testing.assert_close(weight, weights(tmp_path / "two")[name], atol=2e-4, rtol=0)


def test_bad_data_is_named_with_its_task(sessions, start, tmp_path):
    with pytest.raises(DataError, match=r"task 'dpo' failed: .*absent.parquet cannot be read"):
        sessions[0].run(task("dpo", start, tmp_path / "absent.parquet", tmp_path / "never"))
    assert not (tmp_path / "never").exists()
