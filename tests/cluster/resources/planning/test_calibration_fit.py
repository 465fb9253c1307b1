"""From measured figures to rates: the plan of the calibrated configuration then says what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.resources.planning import calibrate
from cluster.resources.planning.calibrate import DrawFigures, ProbeFigures, fit, task_at, work_at
from cluster.resources.planning.hardware import read_cluster
from cluster.resources.planning.plan import Question, make_plan, task_of, with_value
from cluster.resources.planning.probes import Pass, Probe
from cluster.resources.planning.rates import Rates, assumed_rates
from cluster.resources.planning.search import _fastest_learner
from cluster.resources.planning.sizes import ModelShape, named_shape, shape_of
from cluster.resources.planning.timing import phases
from cluster.resources.planning.trial import StepSeconds, trial_settings
from cluster.resources.planning.workload import read_workload
from configs.exits import ClusterError, ConfigError
from configs.load import load_settings

SETTINGS = load_settings("quickstart")
WORK = read_workload(SETTINGS, prompt_tokens=20, response_tokens=14)
QUESTION = Question(SETTINGS.resources, shape_of(SETTINGS, None), WORK, read_cluster("cpu:2", 1))
TRUTH = replace(
    assumed_rates(QUESTION.resources, QUESTION.cluster),
    rollout_factor=1.4,
    learn_factor=0.8,
    rollout_seconds=0.1,
    learn_seconds=0.2,
    publish_seconds=0.05,
)


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
        passes=passes(shape, TRUTH.learn_flops),
        wide=passes(wide, 1.5 * TRUTH.learn_flops),
        scoring=passes(shape, TRUTH.score_flops),
        matrices=TRUTH.decode_flops,
        memory=TRUTH.decode_bytes,
        optimiser=TRUTH.optimiser_bytes,
        host_optimiser=TRUTH.host_optimiser_bytes,
        fill=TRUTH.fill_bytes,
        connection=TRUTH.hop_bytes,
    )


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


# --- a GPU's calibration, made up -------------------------------------------------------------------------------------

GPU_SETTINGS = load_settings("beaver_7b")
GPU = Question(
    GPU_SETTINGS.resources, named_shape("7b"), read_workload(GPU_SETTINGS), read_cluster("h100:8", 1)
)  # offloads
REAL = replace(
    assumed_rates(GPU.resources, GPU.cluster),
    optimiser_bytes=2e12,
    host_optimiser_bytes=4e9,
    learn_factor=0.6,
    rollout_seconds=0.1,
    learn_seconds=0.5,
    publish_seconds=0.1,
)


def gpu_step(question: Question, batch: int) -> StepSeconds:
    step = StepSeconds(batch, 0.0, 0.0, 0.0, question.work.prompt_tokens, question.work.response_tokens)
    made = {one.name: one.seconds for one in phases(task_at(replace(question, rates=REAL), step))}
    return replace(step, **made)


def gpu_rates(question: Question, **changes: float) -> Rates:
    def both(flops: float, width: int = 1) -> tuple[Pass, Pass]:
        shape = question.shape
        two = replace(
            shape,
            layers=2,
            hidden=width * shape.hidden,
            intermediate=width * shape.intermediate,
            heads=width * shape.heads,
            kv_heads=width * shape.kv_heads,
        )
        took = [two.trunk_flops(rows * 256, 128) / flops + 2 * REAL.pass_layer_seconds for rows in (8, 32)]
        return Pass(8, 256, took[0], 3 * took[0]), Pass(32, 256, took[1], 3 * took[1])

    figures = ProbeFigures(
        passes=both(REAL.learn_flops),
        wide=both(REAL.learn_flops, 2),
        scoring=both(REAL.score_flops),
        matrices=REAL.decode_flops,
        memory=REAL.decode_bytes,
        optimiser=REAL.optimiser_bytes,
        host_optimiser=REAL.host_optimiser_bytes,
        fill=REAL.fill_bytes,
        connection=REAL.hop_bytes,
    )
    figures = replace(figures, **changes)
    batch = question.work.batch
    draws = DrawFigures(alone=0.02, together=0.03, sequences=16.0)
    return fit(question, figures, draws, gpu_step(question, batch), gpu_step(question, batch // 2))


def learn_seconds(rates: Rates, *, offload: bool, size: str = "7b") -> float:
    resources = with_value(GPU.resources, "learner", "offload", offload)
    return make_plan(replace(GPU, resources=resources, shape=named_shape(size), rates=rates)).phase("learn").seconds


def real_seconds(*, offload: bool, size: str = "7b") -> float:
    resources = with_value(GPU.resources, "learner", "offload", offload)
    asked = replace(GPU, resources=resources, shape=named_shape(size), rates=REAL)
    return next(one.seconds for one in phases(task_of(asked)) if one.name == "learn")


@pytest.mark.parametrize("calibrated_with", [True, False])
def test_offloading_is_priced_whether_or_not_the_calibration_had_it(calibrated_with: bool) -> None:
    rates = gpu_rates(GPU.with_resources(with_value(GPU.resources, "learner", "offload", calibrated_with)))
    assert (rates.kind, rates.dtype, rates.ranks) == ("h100", "bfloat16", GPU.resources.learner.ranks)
    assert rates.learn_seconds == pytest.approx(REAL.learn_seconds, rel=0.1)  # AdamW's time is no fixed cost
    for size in ("7b", "13b"):
        for offload in (True, False):
            found = learn_seconds(rates, offload=offload, size=size)
            assert found == pytest.approx(real_seconds(offload=offload, size=size), rel=0.05), (size, offload)
    asked = replace(GPU, cluster=read_cluster("h200:8", 1), rates=rates)  # where both fit
    learner = _fastest_learner(asked, 4)
    assert learner is not None and not learner.offload


def test_a_host_that_is_faster_than_its_probe_still_gives_what_was_measured() -> None:
    rates = gpu_rates(GPU, host_optimiser=REAL.host_optimiser_bytes / 50)
    assert learn_seconds(rates, offload=True) == pytest.approx(real_seconds(offload=True), rel=0.02)
    assert learn_seconds(rates, offload=False) < 0.3 * real_seconds(offload=True)


@pytest.mark.parametrize(("gpus", "threads"), [(1.0, [(4, 4, 1.0), (4, 4, 0.0)]), (0.0, [(4, 4, 0.0)])])
def test_adamw_is_probed_where_the_learner_may_have_it(monkeypatch, gpus: float, threads: list) -> None:
    started, asked = [], {}

    def ask(probe: int, calls: dict) -> dict:
        asked.update({(name, probe): arguments for name, (_, arguments) in calls.items()})
        return {name: {"device": "NVIDIA H100 80GB HBM3"}.get(name, [probe, probe]) for name in calls}

    def start(*given: float) -> int:
        started.append(given)
        return len(started) - 1

    monkeypatch.setattr(calibrate, "start_probe", start)
    monkeypatch.setattr(calibrate, "ask_probe", ask)
    monkeypatch.setattr(calibrate, "connection_bytes", lambda cpus: 1e9)
    figures = calibrate.probe(GPU.with_resources(with_value(GPU.resources, "learner", "gpus", gpus)))
    assert started[: len(threads)] == threads
    host = len(threads) - 1
    assert figures.optimiser == [0, 0] and figures.host_optimiser == [host, host]
    assert asked["optimiser", 0] == (1 << 27, True)  # not a whole model: its states might not fit the device
    if gpus:
        assert asked["host_optimiser", 1] == (1 << 27, False)


def test_a_device_of_another_kind_is_not_calibrated() -> None:
    with pytest.raises(
        ConfigError, match="--gpu: h100 is asked for and the learner's device is 'NVIDIA A100-SXM4-80GB'"
    ):
        calibrate._check_kind(GPU, "NVIDIA A100-SXM4-80GB")
    calibrate._check_kind(GPU, "NVIDIA H100 80GB HBM3")
    calibrate._check_kind(QUESTION, "cpu")


def test_a_probe_measures_both_kinds_of_adamw() -> None:
    probe = Probe(1, on_gpu=False)
    assert probe.device() == "cpu"
    assert all(1e6 < probe.optimiser(1 << 12, fused) < 1e12 for fused in (True, False))


def test_the_trial_has_models_for_every_signal_and_no_subset() -> None:
    trial = trial_settings(load_settings("beaver_7b"))
    assert trial.ppo.ptx_coefficient == 0 and all(one.measure == "mean" for one in trial.constraints.values())
