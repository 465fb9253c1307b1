"""Calibration on real actors, and layers that are computed again under every ZeRO stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.resources.engines import Engines
from cluster.resources.planning.calibrate import measure
from cluster.resources.planning.hardware import read_cluster
from cluster.resources.planning.plan import Question, make_plan
from cluster.resources.planning.sizes import shape_of
from cluster.resources.planning.trial import trial_settings
from cluster.resources.planning.workload import read_workload
from configs.load import load_settings
from configs.schema.ppo import PpoSettings
from configs.schema.resources import DeadlineSettings, LearnerSettings
from configs.schema.signals import ConstraintSettings
from learner.ranks.group import LearnerGroup
from learner.ranks.rank import LoadRequest
from learner.records import SignalTerms
from tests.learner.tiny_learner import made_up_batch

pytestmark = [pytest.mark.system, pytest.mark.slow]
SMALL = (
    "model.hidden_size=64",
    "model.layers=2",
    "model.heads=2",
    "model.intermediate_size=128",
    "ppo.batch_size=32",
    "ppo.minibatch_size=16",
    "resources.generators.count=1",
    "resources.generators.cpus=0.1",
    "resources.scorers.cpus=0.1",
    "resources.learner.cpus=0.1",
)


def test_real_actors_are_measured_and_the_plan_says_so(ray_session: None, tmp_path: Path) -> None:
    settings = trial_settings(load_settings("quickstart", SMALL))
    work = read_workload(settings, prompt_tokens=12, response_tokens=8)
    question = Question(settings.resources, shape_of(settings, None), work, read_cluster("cpu:2", 1))
    engines = Engines(settings.resources, settings.model.max_length, tmp_path / "train")
    said: list[str] = []
    try:
        rates = measure(settings, question, engines, tmp_path, say=said.append, steps=2)
    finally:
        engines.close()
    assert len(said) == 3 and rates.source.startswith("calibrated ")
    assert rates.learn_flops > 1e8 and rates.hop_bytes > 1e6 and rates.wide_gain >= 1
    plan = make_plan(Question(question.resources, question.shape, work, question.cluster, rates))
    assert 0.01 < plan.step_seconds < 120


@pytest.mark.parametrize("stage", [0, 3])
def test_layers_computed_again_learn_the_same(ray_session: None, tiny_models: Any, stage: int) -> None:
    batch = made_up_batch(16, vocabulary=150, wrap=ray.put)
    ppo = PpoSettings(steps=4, batch_size=16, minibatch_size=8, epochs=1, actor_learning_rate=1e-3)
    constraints = {
        "harm": ConstraintSettings(measure="mean", limit=0.0),
        "bias": ConstraintSettings(measure="mean", limit=0.0),
    }
    costs = {"harm": tiny_models.cost, "bias": tiny_models.cost}
    deadlines = DeadlineSettings(start_seconds=300, learn_seconds=120)
    found = {}
    for checkpointed in (False, True):
        settings = LearnerSettings(ranks=1, zero_stage=stage, cpus=0.1, checkpoint_activations=checkpointed)
        name = f"learner-again-{stage}-{checkpointed}"
        group = LearnerGroup.start(settings, deadlines, deterministic=True, name=name)
        try:
            group.load(LoadRequest(tiny_models.policy, tiny_models.reward, costs, ppo, constraints))
            terms = SignalTerms({"harm": 1.0, "bias": 0.5}, {"harm": {}, "bias": {}})
            found[checkpointed] = [group.step(batch.rows, terms, step).metrics for step in (1, 2)]
        finally:
            group.shutdown()
    assert found[True] == found[False]
