"""Measure a configuration's own actors on the cluster, and turn the figures into `Rates` for later plans.

Micro-benchmarks give the rates that depend on the hardware (`probes`). Steps of the real actors at the whole batch and at
half of it (`trial`) give what the model leaves out: a fixed cost of each phase, and a factor on the rest.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.resources.engines import Engines
from cluster.resources.planning.memory import dtype_bytes, micro_tokens
from cluster.resources.planning.plan import Question, task_of
from cluster.resources.planning.probes import Pass, ask_probe, connection_bytes, start_probe
from cluster.resources.planning.rates import Rates, assumed_rates
from cluster.resources.planning.sizes import ModelShape
from cluster.resources.planning.timing import Task, concurrency, learn, optimiser_seconds, phases, publish
from cluster.resources.planning.trial import StepSeconds, Trial, median_step, trial_settings
from cluster.resources.planning.workload import Workload
from configs.exits import ClusterError, ConfigError
from configs.layout import RunLayout
from configs.schema.run import RunSettings

WARM_STEPS, STEPS, DRAWS = 2, 5, 3
_FACTORS = (0.2, 5.0)
"""A factor outside says that the trial was disturbed, or the model wrong: it is cut, and the plan says so."""
_FEWEST, _MOST = 1 << 20, 1 << 27
"""Parameters of AdamW's probe: enough to outgrow the caches, and no whole model, whose states need not fit one device."""


@dataclass(frozen=True)
class ProbeFigures:
    """What the micro-benchmarks say. FLOP/s, bytes/s, seconds of passes through two layers."""

    passes: tuple[Pass, Pass]
    """Of the learner's dtype: a quarter of a micro-batch, and a whole one."""
    wide: tuple[Pass, Pass]
    """The same at twice the width."""
    scoring: tuple[Pass, Pass]
    matrices: float
    memory: float
    optimiser: float
    host_optimiser: float
    """The same in host memory, as an offloaded learner has it."""
    fill: float
    connection: float


@dataclass(frozen=True)
class DrawFigures:
    """Seconds of one decoding step: of one sequence an engine, and of as many as it decodes at a time."""

    alone: float
    together: float
    sequences: float


def calibrate_here(settings: RunSettings, question: Question, *, say: Callable[[str], None]) -> Rates:
    """Measure on the cluster that RAY_ADDRESS names, for some minutes.

    Raises:
        ClusterError: it lacks what the settings ask for, or the trial's model needs more than they say.
    """
    from cluster.resources.connection import warm_engines

    trial = trial_settings(settings)
    storage = (  # a store is no place for a trial
        settings.storage if isinstance(settings.storage, Path) else Path.cwd() / "runs"
    )
    storage.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".calibration-", dir=storage))
    try:
        with warm_engines(trial, RunLayout(folder)) as (engines, _):
            return measure(trial, question, engines, folder, say=say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(
    trial: RunSettings,
    question: Question,
    engines: Engines,
    folder: Path,
    *,
    say: Callable[[str], None],
    steps: int = STEPS,
) -> Rates:
    """Micro-benchmarks, then the actors of `trial` on `engines`; the models are made in `folder`, which every node reaches."""
    say("micro-benchmarks …")
    probes = probe(question)
    say("starting the configuration's actors …")
    actors = Trial(trial, question.work, engines, folder, question.shape.vocabulary)
    say(f"{WARM_STEPS + steps} steps of {question.work.batch} and {steps} of {question.work.batch // 2} …")
    draws = draw(actors, question)
    whole, half = steps_of(actors, question.work.batch, steps=steps)
    return fit(question, probes, draws, whole, half)


def steps_of(actors: Trial, batch: int, *, steps: int = STEPS) -> tuple[StepSeconds, StepSeconds]:
    """Medians of steps of the whole batch and of half of it, taken in turn."""
    for _ in range(WARM_STEPS):
        actors.step(batch)
    whole, half = [], []
    for _ in range(steps):
        whole.append(actors.step(batch))
        half.append(actors.step(batch // 2))
    return median_step(whole), median_step(half)


def probe(question: Question) -> ProbeFigures:
    """Run the micro-benchmarks, one after another.

    Raises:
        ConfigError: the device is of another kind than the plan is for.
    """
    resources, shape, work = question.resources, question.shape, question.work
    learner, scorers, generators = resources.learner, resources.scorers, resources.generators
    row = max(2, round(work.row_tokens))
    most_rows = max(4, int(micro_tokens(learner, work)) // row)
    sizes = [(max(1, most_rows // 4), row), (most_rows, row)]
    wide = replace(
        shape,
        hidden=2 * shape.hidden,
        intermediate=2 * shape.intermediate,
        heads=2 * shape.heads,
        kv_heads=2 * shape.kv_heads,
    )
    parameters = min(max(shape.parameters, _FEWEST), _MOST)
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {
        "passes": ("passes", (shape, learner.dtype, sizes)),
        "wide": ("passes", (wide, learner.dtype, sizes)),
        "optimiser": ("optimiser", (parameters, True)),
        "fill": ("fill", ()),
        "device": ("device", ()),
    }
    figures = ask_probe(start_probe(learner.threads, learner.cpus, learner.gpus), calls)
    _check_kind(question, figures.pop("device"))
    figures["host_optimiser"] = figures["optimiser"]
    if learner.gpus:
        calls = {"host_optimiser": ("optimiser", (parameters, False))}  # offloaded, the learner's AdamW is not fused
        figures |= ask_probe(start_probe(learner.threads, learner.cpus, 0.0), calls)
    calls = {"scoring": ("passes", (shape, "float32", sizes))}
    figures |= ask_probe(start_probe(scorers.threads, scorers.cpus, scorers.gpus), calls)
    together = max(1, round(concurrency(task_of(question))))
    calls = {"matrices": ("matrices", (together, shape.hidden, generators.dtype)), "memory": ("memory", ())}
    figures |= ask_probe(start_probe(generators.threads, generators.cpus, generators.gpus), calls)
    pairs = {name: tuple(figures[name]) for name in ("passes", "wide", "scoring")}
    return ProbeFigures(**{**figures, **pairs}, connection=connection_bytes(learner.cpus))


def _check_kind(question: Question, device: str) -> None:
    hardware = question.cluster.hardware
    if not hardware.is_cpu and hardware.kind not in device.lower():
        raise ConfigError(
            f"--gpu: {hardware.kind} is asked for and the learner's device is '{device}'; name the kind that is measured"
        )


def draw(actors: Trial, question: Question) -> DrawFigures:
    """Decoding steps' seconds: the difference between long and short responses leaves out all that is fixed."""
    engines = question.resources.generators.count
    together = max(1, round(concurrency(task_of(question))))
    longest = question.work.longest_response
    short = max(1, longest // 2)

    def step(sequences: int) -> float:
        times: dict[int, list[float]] = {longest: [], short: []}
        for _ in range(DRAWS):
            for response, seconds in times.items():
                seconds.append(actors.draw(sequences, response))
        difference = sorted(times[longest])[DRAWS // 2] - sorted(times[short])[DRAWS // 2]
        return max(difference, 1e-6) / max(1, longest - short)

    actors.draw(engines * together, short)  # warm
    return DrawFigures(alone=step(engines), together=step(engines * together), sequences=float(together))


# --- from figures to rates --------------------------------------------------------------------------------------------


def fit(question: Question, probes: ProbeFigures, draws: DrawFigures, whole: StepSeconds, half: StepSeconds) -> Rates:
    """Rates under which the plan of this very configuration says what was measured. Pure.

    Raises:
        ClusterError: the steps' seconds cannot be used.
    """
    for name in ("rollout", "learn"):
        seconds = getattr(whole, name)
        if not (math.isfinite(seconds) and seconds > 0):
            raise ClusterError(f"calibration: {name} took {seconds} s, which cannot be; calibrate again")
    shape, resources = question.shape, question.resources
    flops, launch = _line(shape, probes.passes, "both")
    wide, _ = _line(_widened(shape), probes.wide, "both")
    scoring, _ = _line(shape, probes.scoring, "forward")
    rates = replace(
        assumed_rates(resources, question.cluster),
        learn_flops=flops,
        score_flops=scoring,
        decode_flops=probes.matrices,
        decode_bytes=probes.memory,
        pass_layer_seconds=launch,
        optimiser_bytes=probes.optimiser,
        host_optimiser_bytes=probes.host_optimiser,
        fill_bytes=probes.fill,
        hop_bytes=probes.connection,
        rollout_seconds=0.0,
        learn_seconds=0.0,
        publish_seconds=0.0,
        measured_hidden=float(shape.hidden),
        wide_gain=min(max(wide / flops, 1.0), 4.0),
        kind=question.cluster.hardware.kind,
        dtype=resources.learner.dtype,
        decode_dtype=resources.generators.dtype,
        ranks=resources.learner.ranks,
        source=f"calibrated {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {question.cluster.describe()}, {shape.describe()}, "
        f"{resources.learner.ranks} learner ranks in {resources.learner.dtype}",
    )
    if question.cluster.hardware.is_cpu:
        rates = replace(rates, collective_bytes=probes.connection)
    rates = _with_host(question, _with_steps(question, rates, draws), whole)
    return _with_factors(replace(question, rates=rates), rates, whole, half)


def _widened(shape: ModelShape) -> ModelShape:
    return replace(
        shape,
        hidden=2 * shape.hidden,
        intermediate=2 * shape.intermediate,
        heads=2 * shape.heads,
        kv_heads=2 * shape.kv_heads,
    )


def _line(shape: ModelShape, pair: Sequence[Pass], direction: str) -> tuple[float, float]:
    """FLOP/s and fixed seconds a layer and forward pass, of the straight line through two passes of two layers."""
    small, large = pair
    two_layers, turns = replace(shape, layers=2), 3.0 if direction == "both" else 1.0
    work = [
        turns * two_layers.trunk_flops(trunk_pass.rows * trunk_pass.tokens, trunk_pass.tokens / 2)
        for trunk_pass in (small, large)
    ]
    seconds = [getattr(trunk_pass, direction) for trunk_pass in (small, large)]
    if seconds[1] <= seconds[0] or work[1] <= work[0]:
        return work[1] / seconds[1], 0.0  # a disturbed measurement, or one size: everything counts as work
    rate = (work[1] - work[0]) / (seconds[1] - seconds[0])
    return rate, max(0.0, seconds[1] - work[1] / rate) / (turns * two_layers.layers)


def _with_steps(question: Question, rates: Rates, draws: DrawFigures) -> Rates:
    """What a decoding step costs beyond its FLOPs and bytes: by layer, and by sequence."""
    shape = question.shape
    width = dtype_bytes(question.resources.generators.dtype)
    context = question.work.prompt_tokens + question.work.response_tokens

    def roof(sequences: float) -> float:
        flops = shape.trunk_flops(sequences, context) + shape.logit_flops(sequences)
        bytes_read = width * shape.parameters + sequences * context * shape.kv_bytes_per_token(width)
        return max(flops / rates.decode_flops, bytes_read / rates.decode_bytes)

    more = draws.sequences - 1
    sequence = max(0.0, (draws.together - draws.alone - roof(draws.sequences) + roof(1)) / more) if more > 0 else 0.0
    layer = max(0.0, draws.alone - roof(1) - sequence) / shape.layers
    return replace(rates, step_layer_seconds=layer, sequence_seconds=sequence)


def _with_host(question: Question, rates: Rates, whole: StepSeconds) -> Rates:
    """Of the learn phase, AdamW on the host left the passes their time: else the real one is faster than the probe."""
    if not question.resources.learner.offload:
        return rates
    task = task_at(replace(question, rates=rates), whole)
    spent = optimiser_seconds(task)
    passes = learn(task).seconds - spent
    longest = max(whole.learn - _FACTORS[0] * passes, _FACTORS[0] * whole.learn)
    return replace(rates, host_optimiser_bytes=max(1.0, spent / longest) * rates.host_optimiser_bytes)


def _with_factors(question: Question, rates: Rates, whole: StepSeconds, half: StepSeconds) -> Rates:
    """A factor where the phase grows with the batch, a fixed cost where it does not. AdamW on the host has its own rate."""
    full, part = task_at(question, whole), task_at(question, half)
    expected = {phase.name: phase.seconds for phase in phases(full)}
    less = {phase.name: phase.seconds for phase in phases(part)}
    took, took_less = ({"rollout": step.rollout, "learn": step.learn} for step in (whole, half))
    if question.resources.learner.offload:
        for seconds_of, task in ((expected, full), (took, full), (less, part), (took_less, part)):
            seconds_of["learn"] -= optimiser_seconds(task)
    factors: dict[str, Any] = {}
    for name in ("rollout", "learn"):
        seconds, fewer = took[name], took_less[name]
        slope = expected[name] - less[name]
        factor = (seconds - fewer) / slope if slope > 0 else seconds / expected[name]
        factor = min(max(factor, _FACTORS[0]), _FACTORS[1]) if factor > 0 else seconds / expected[name]
        factor = min(factor, seconds / expected[name])  # the rest is fixed, and cannot be negative
        factors |= {f"{name}_factor": factor, f"{name}_seconds": max(0.0, seconds - factor * expected[name])}
    factors["publish_seconds"] = max(0.0, whole.publish - publish(full).seconds)
    return replace(rates, **factors)


def task_at(question: Question, step: StepSeconds) -> Task:
    """The planner's task for a step of this batch and these lengths."""
    return task_of(replace(question, work=work_at(question.work, step)))


def work_at(work: Workload, step: StepSeconds) -> Workload:
    """The workload of a step as it came out."""
    per_epoch = work.minibatches / work.epochs * step.batch / work.batch
    return replace(
        work,
        batch=step.batch,
        minibatches=work.epochs * max(1, round(per_epoch)),
        prompt_tokens=step.prompt_tokens,
        response_tokens=step.response_tokens,
        ptx_rows=0,
    )
