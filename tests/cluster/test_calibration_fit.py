"""From measured figures to rates: the plan of the calibrated configuration then says what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.commands.plan import shape_of
from cluster.planning.calibrate import DrawFigures, ProbeFigures, fit, task_at, work_at
from cluster.planning.hardware import read_cluster
from cluster.planning.plan import Question, make_plan
from cluster.planning.probes import Pass
from cluster.planning.rates import Rates, assumed_rates
from cluster.planning.sizes import ModelShape
from cluster.planning.timing import phases
from cluster.planning.trial import StepSeconds, trial_settings
from cluster.planning.workload import read_workload
from configs.exits import ClusterError
from configs.load import load_settings

SETTINGS = load_settings("quickstart")
WORK = read_workload(SETTINGS, prompt_tokens=20, response_tokens=14)
QUESTION = Question(SETTINGS.resources, shape_of(SETTINGS, None), WORK, read_cluster("cpu:2", 1))
TRUTH = replace(
    assumed_rates(QUESTION.resources, QUESTION.cluster),
    rollout_factor=1.4, learn_factor=0.8, rollout_seconds=0.1, learn_seconds=0.2, publish_seconds=0.05,
)  # fmt: skip


def a_step(batch: int, rates: Rates = TRUTH) -> StepSeconds:
    step = StepSeconds(batch, 0.0, 0.0, 0.0, 20.0, 14.0)
    made = {one.name: one.seconds for one in phases(task_at(replace(QUESTION, rates=rates), step))}
    return replace(step, **made)


def passes(shape: ModelShape, flops: float) -> tuple[Pass, Pass]:
    two = replace(shape, layers=2)
    found = []
    for rows in (7, 30):
        forward = two.trunk_flops(rows * 34, 17) / flops + 2 * TRUTH.pass_layer_seconds
        found.append(Pass(rows, 34, forward, 3 * forward))
    return found[0], found[1]


def probes() -> ProbeFigures:
    shape = QUESTION.shape
    wide = replace(shape, hidden=256, intermediate=768, heads=8, kv_heads=8)
    return ProbeFigures(
        passes=passes(shape, TRUTH.learn_flops), wide=passes(wide, 1.5 * TRUTH.learn_flops),
        scoring=passes(shape, TRUTH.score_flops), matrices=TRUTH.decode_flops, memory=TRUTH.decode_bytes,
        optimiser=TRUTH.optimiser_bytes, fill=TRUTH.fill_bytes, connection=TRUTH.hop_bytes,
    )  # fmt: skip


def draws(rates: Rates = TRUTH) -> DrawFigures:
    shape, width = QUESTION.shape, 4

    def step(sequences: float) -> float:
        flops = shape.trunk_flops(sequences, 34) + shape.logit_flops(sequences)
        read = width * shape.parameters + sequences * 34 * shape.kv_bytes_per_token(width)
        roof = max(flops / rates.decode_flops, read / rates.decode_bytes)
        return roof + shape.layers * rates.step_layer_seconds + sequences * rates.sequence_seconds

    return DrawFigures(step(1), step(64), 64)


def test_the_plan_says_what_was_measured_of_both_batches() -> None:
    rates = fit(QUESTION, probes(), draws(), a_step(128), a_step(64))
    assert rates.wide_gain == pytest.approx(1.5, rel=0.01)
    assert rates.pass_layer_seconds == pytest.approx(TRUTH.pass_layer_seconds, rel=0.01)
    assert rates.sequence_seconds == pytest.approx(TRUTH.sequence_seconds, rel=0.01)
    for batch in (128, 64):
        step = a_step(batch)
        plan = make_plan(replace(QUESTION, work=work_at(WORK, step), rates=rates))
        assert plan.step_seconds == pytest.approx(step.total, rel=0.02)
    assert rates.source.startswith("calibrated ")


def test_a_disturbed_measurement_still_gives_what_was_measured() -> None:
    whole, half = a_step(128), a_step(64)
    half = replace(half, learn=whole.learn * 1.1)  # half the batch took longer
    rates = fit(QUESTION, probes(), draws(), whole, half)
    plan = make_plan(replace(QUESTION, work=work_at(WORK, whole), rates=rates))
    assert plan.phase("learn").seconds == pytest.approx(whole.learn, rel=0.02)


def test_steps_without_time_are_refused() -> None:
    with pytest.raises(ClusterError, match="calibrate again"):
        fit(QUESTION, probes(), draws(), replace(a_step(128), rollout=0.0), a_step(64))


def test_the_trial_has_models_for_every_signal_and_no_subset() -> None:
    trial = trial_settings(load_settings("beaver_7b"))
    assert trial.ppo.ptx_coefficient == 0 and all(one.measure == "mean" for one in trial.constraints.values())
