"""The PPO-Lag loop: rollout → score → dual update → learn → publish, once per optimiser step.

The driver holds metadata and scalars; samples and scores go from producers to learner ranks by reference. A sample
whose cost is unknown never reaches the learner: the pool sets it aside.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.rollout.collected import Collected
from actors.rollout.pool import RolloutPool
from cluster.inputs.sampler import by_id
from cluster.inputs.sandbox_prompts import loop_prompts
from cluster.resources.stopping import STOPPED, finishing_steps
from cluster.run_folder.metrics_log import MetricsLog
from cluster.run_folder.round_names import id_prefix
from cluster.runs.context import RunContext
from cluster.runs.loop.constraints import ConstraintReading, ConstraintSet, in_subset
from cluster.runs.loop.overoptimisation_watch import HalvesWatch
from cluster.runs.loop.step_line import step_line
from cluster.runs.round_inputs import named, start_policy, with_finds
from cluster.runs.signals import SignalSources
from configs.exits import StoppedError, StopRequested
from configs.schema.run import GROUP_ALGORITHMS, RunSettings
from learner.algorithms.experience import BatchRow
from learner.deadlines import RemoteFailure, user_error
from learner.ranks.checkpoint import CheckpointError, keep_newest
from learner.ranks.group import LearnerGroup
from learner.ranks.rank import LoadRequest
from learner.records import Prompt, SamplingSettings, ScoredSample, SignalTerms, StepResult

KEPT_CHECKPOINTS = 2


class PpoLoop:
    """One run of the loop on engines that may be warm from an earlier one."""

    def __init__(self, context: RunContext, inputs: Mapping[str, Any]) -> None:
        self._context = context
        self._settings = context.settings
        self._ppo = context.settings.ppo
        self._inputs = inputs
        self._constraints = ConstraintSet(
            self._settings.constraints, self._ppo.batch_size, inputs["calibrations"], relative=inputs["relative"]
        )
        self._sampler = context.sampler("ppo")
        self._group_size = group_size(self._settings)
        self._sampling = SamplingSettings(self._ppo.temperature, self._ppo.max_response_tokens)
        self._phases: dict[str, float] = {}
        self._samples = 0
        self._quarantined = 0
        self._clipped: set[str] = set()
        self._faults: Counter[str] = Counter()
        self.learner: LearnerGroup = context.engines.learner_group()
        self._pool: RolloutPool

    def run(self) -> dict[str, Any]:
        """Take every step that is left; returns the figures for the summary.

        Raises:
            StopRequested: somebody asked to stop; the last step that was taken has a checkpoint.
        """
        prompts = prompts_of(self._context)
        finished = self._prepare()
        log = MetricsLog(self._context.layout.metrics_of(self._context.round_number), keep_steps=finished)
        self._context.telemetry.begin_round(self._context.round_number, log.kept)
        baselines = self._inputs["normaliser"], self._inputs["test_normaliser"]
        halves = HalvesWatch(self._settings.halves, *baselines, earlier=log.kept)
        per_step = self._ppo.batch_size // self._group_size
        last, spent = finished, False
        with finishing_steps() as is_asked_to_stop:
            for step in range(finished + 1, self._ppo.steps + 1):
                last = step
                result = self._whole_step(step, prompts[(step - 1) * per_step : step * per_step], log, halves)
                spent = self._budget_is_spent(step, result)
                if (self._ppo.steps - step) % self._settings.selection.every == 0 or spent:
                    self._snapshot(step)
                if spent or step == self._ppo.steps:
                    break
                stops = is_asked_to_stop()
                if stops or step % self._ppo.checkpoint_every == 0:
                    self._checkpoint(step)
                if stops:
                    raise StopRequested(f"step {step} is done and kept; {STOPPED}")
        return self._facts(last, last - finished) | halves.facts() | {"kl_budget_spent": spent}

    def _whole_step(self, step: int, prompts: Sequence[Prompt], log: MetricsLog, halves: HalvesWatch) -> StepResult:
        """Take a step and tell everybody of it."""
        begin = time.monotonic()
        result, readings, phases = self._step(step, prompts)
        seconds = time.monotonic() - begin
        line = step_line(result, readings, phases, seconds)
        line |= halves.observe(line)
        log.append(line)
        self._context.telemetry.step(line)
        if (alarm := halves.alarm(step)) is not None:
            self._context.warn(f"step {step}: {alarm}")
        self._tell(step, result, readings, seconds)
        return result

    def _budget_is_spent(self, step: int, result: StepResult) -> bool:
        """Whether the policy has moved further from the reference than `ppo.kl_budget` allows."""
        budget = self._ppo.kl_budget
        if budget is None or result.metrics["kl"] <= budget:
            return False
        self._context.warn(
            f"step {step}: KL {result.metrics['kl']:.2f} nats per response is above ppo.kl_budget {budget:g}; the loop ends here"
        )
        return True

    def _snapshot(self, step: int) -> None:
        """Keep the policy as a candidate for promotion; the oldest beyond `selection.candidates` goes."""
        folder = self._context.layout.candidates(self._context.round_number)
        self.learner.save_policy(folder / f"step-{step:05d}")
        for path in sorted(folder.glob("step-*"))[: -self._settings.selection.candidates]:
            shutil.rmtree(path)

    def _step(
        self, step: int, prompts: Sequence[Prompt]
    ) -> tuple[StepResult, dict[str, ConstraintReading], dict[str, float]]:
        begin = time.monotonic()
        id_stem = f"{id_prefix(self._context.round_number)}ppo"
        requests = [
            self._sampler.request(
                prompt, f"{id_stem}-{step:05d}-{index * self._group_size + sample:04d}", self._sampling
            )
            for index, prompt in enumerate(prompts)
            for sample in range(self._group_size)
        ]
        collected = self._pool.collect(requests)
        rollout_end = time.monotonic()
        self._check(step, collected)
        prompts_by_id = by_id(list(prompts))
        version = self._context.engines.weight_version
        samples = [row.sample for row in collected.scored]
        terms, readings = self._constraints.step(
            samples, prompts_by_id, version, updates=self._dual_updates(len(samples))
        )
        rows = self._rows(collected, prompts_by_id)
        rollouts = self._context.layout.rollouts_of(self._context.round_number)
        self._context.engines.before_learning()
        result = self.learner.step(rows, terms, step, rollouts=rollouts)
        learn_end = time.monotonic()
        self._context.engines.publish(result.weight_version)
        phases = {
            "rollout": rollout_end - begin,
            "learn": learn_end - rollout_end,
            "publish": time.monotonic() - learn_end,
        }
        for phase, seconds in phases.items():
            self._phases[phase] = self._phases.get(phase, 0.0) + seconds
        self._samples += len(collected.scored)
        metrics = {
            **result.metrics,
            **_collection_metrics(collected),
            **_watched_means(samples),
            **self._clipped_costs(samples, terms),
            **_staleness(samples, version),
            **self._context.engines.last_broadcast,
        }
        return replace(result, metrics=metrics), readings, phases

    def _clipped_costs(self, samples: Sequence[ScoredSample], terms: SignalTerms) -> dict[str, float]:
        """``clipped_costs/<constraint>``: how many of the batch cost more than `ppo.clip_score`, which J still counts in full."""
        counts = self._constraints.beyond(samples, terms, self._ppo.clip_score)
        for name, count in counts.items():
            if name in self._clipped:
                continue
            self._context.warn(
                f"constraint {name}: costs beyond ppo.clip_score {self._ppo.clip_score:g} are clipped for the policy but not for "
                f"the multiplier ({count} of {len(samples)} answers when first seen): raise ppo.clip_score or the constraint's scale"
            )
        self._clipped |= set(counts)
        return {f"clipped_costs/{name}": float(count) for name, count in counts.items()}

    def _dual_updates(self, samples: int) -> int:
        """Once per optimiser step; as the papers' reference does, before every minibatch."""
        if not self._settings.reference.multiplier_per_minibatch:
            return 1
        return self._ppo.epochs * max(1, round(samples / self._ppo.minibatch_size))

    def _rows(self, collected: Collected, prompts: Mapping[str, Prompt]) -> list[BatchRow]:
        constraints = self._settings.constraints
        rows = []
        for row in collected.scored:
            prompt = prompts[row.rollout.prompt_id]
            subset = frozenset(name for name, constraint in constraints.items() if in_subset(prompt, constraint))
            rows.append(BatchRow(row.rollout.request_id, row.chunk, row.scores, row.row, subset))
        return rows

    def _check(self, step: int, collected: Collected) -> None:
        """A few samples set aside are a warning; half of a batch is the end of the run."""
        aside, requested = collected.quarantined, len(collected.rows) + len(collected.quarantined)
        self._quarantined += len(aside)
        self._faults.update(collected.scorer_faults)
        if aside:
            first = f"{aside[0].rollout.request_id}: {aside[0].reason}"
            self._context.warn(f"step {step}: {len(aside)} of {requested} samples were set aside ({first})")
        if len(aside) > requested // 2:
            raise StoppedError(
                f"step {step}: {len(aside)} of {requested} samples have no usable score ({first}), so nothing is learned from "
                "them; look at the scorers' logs, fix the cause and run the same command again"
            )

    # --- start, resume, save ------------------------------------------------------------------------------------------

    def _prepare(self) -> int:
        """Load models everywhere and go on from the newest checkpoint of this stage; returns the steps already done."""
        context, inputs = self._context, self._inputs
        start = start_policy(context)
        context.engines.rollout_pool(start, context.tokenizer_path)
        sources: SignalSources = inputs["sources"]
        context.engines.load_scorers(
            sources.reward,
            sources.costs,
            start,
            self._ppo.temperature,
            watched=inputs["watched_paths"],
            tokenizer=context.tokenizer_path,
        )
        self._pool = context.engines.scoring_pool()
        normalise = self._settings.objective.normalise == "preference_set"
        self.learner.load(
            LoadRequest(
                policy_path=start,
                reward_model_path=sources.own_reward,
                cost_paths=sources.own_costs,
                ppo=self._ppo,
                constraints=self._settings.constraints,
                reward_normaliser=inputs["normaliser"] if normalise else (0.0, 1.0),
                maximises=self._settings.objective.signal != "none",
                cost_means=inputs["cost_means"],
                reward_start=inputs["reward_start"],
                ptx_path=context.layout.data / "sft.parquet" if self._ppo.ptx_coefficient > 0 else None,
                seed=self._settings.seed,
                weight_version=context.engines.weight_version,
                algorithm=self._settings.algorithm,
                reference=self._settings.reference,
            )
        )
        finished, version = self._resume()
        context.engines.connect()
        if finished:
            context.engines.publish(version)
        clear_rollouts(context.layout.rollouts_of(context.round_number), after_step=finished)
        for path in context.layout.candidates(context.round_number).glob("step-*"):
            if int(path.name.removeprefix("step-")) > finished:
                shutil.rmtree(path)
        return finished

    def _resume(self) -> tuple[int, int]:
        """Steps done and the weight version that the learner restored; (0, 0) without a checkpoint."""
        for path in sorted(self._folder().glob("step-*"), reverse=True):
            try:
                state = self.learner.load_checkpoint(path)
            except RemoteFailure as error:
                if not isinstance(user_error(error), CheckpointError):
                    raise
                self._context.warn(f"{error}; an earlier one is tried")
                continue
            self._constraints.load_state_dict(state["constraints"])
            self._quarantined = int(state["quarantined"])
            self._faults = Counter(state.get("scorer_faults", {}))
            for text in state["warnings"]:
                self._context.warn(text)
            return int(state["step"]), int(state["weight_version"])
        return 0, 0

    def _checkpoint(self, step: int) -> None:
        path = self._folder() / f"step-{step:05d}"
        state = {
            "constraints": self._constraints.state_dict(),
            "quarantined": self._quarantined,
            "scorer_faults": dict(self._faults),
            "warnings": self._context.warnings,
        }
        begin = time.monotonic()
        self.learner.save_checkpoint(path, step, state)
        self._context.telemetry.checkpoint(path, time.monotonic() - begin)
        keep_newest(path.parent, KEPT_CHECKPOINTS)

    def _folder(self) -> Path:
        """Checkpoints of this stage's key only; those of other settings are never resumed."""
        return self._context.layout.checkpoints / f"ppo-{self._context.stage_key[:12]}"

    # --- what people see ----------------------------------------------------------------------------------------------

    def _tell(self, step: int, result: StepResult, readings: Mapping[str, ConstraintReading], seconds: float) -> None:
        for name, reading in readings.items():
            for text in reading.warnings if step % 10 == 0 or step == self._ppo.steps else ():
                self._context.warn(f"constraint {name}, step {step}: {text}")
        self._context.status.update(
            step=step,
            steps=self._ppo.steps,
            reward=result.metrics.get("reward"),
            seconds_left=seconds * (self._ppo.steps - step),
            measures={
                name: {"value": reading.measure_value, "limit": reading.limit, "multiplier": reading.multiplier}
                for name, reading in readings.items()
            },
            generators=self._context.engines.generator_states(),
        )

    def _facts(self, last: int, steps: int) -> dict[str, Any]:
        seconds = sum(self._phases.values())
        if self._faults:
            counts = ", ".join(f"{name} {count}" for name, count in sorted(self._faults.items()))
            self._context.warn(
                f"scorers gave no score for some samples, which nothing was learned from (signal/reason count): {counts}"
            )
        return {
            "steps": last,
            "samples_per_second": self._samples / seconds if seconds else 0.0,
            "phase_seconds": {phase: total / max(steps, 1) for phase, total in self._phases.items()},
            "quarantined": self._quarantined,
            "scorer_faults": dict(sorted(self._faults.items())),
            "weights": self._context.engines.weight_facts(),
        }


def group_size(settings: RunSettings) -> int:
    """Responses per prompt."""
    return settings.ppo.groups.size if settings.algorithm in GROUP_ALGORITHMS else 1


def prompts_of(context: RunContext) -> list[Prompt]:
    """Every prompt of the loop, in an order that depends on the seed alone."""
    ppo = context.settings.ppo
    n = ppo.steps * ppo.batch_size // group_size(context.settings)
    if context.book is not None:
        drawn = context.book.loop(n=n, seed=context.settings.seed + 2, weights=ppo.kind_weights)
        return named(drawn, context.round_number)
    drawn = loop_prompts(
        context.splits,
        n=n,
        seed=context.settings.seed + 2,
        kind_weights=ppo.kind_weights,
    )
    return with_finds(context, drawn, "ppo")


def _watched_means(samples: Sequence[ScoredSample]) -> dict[str, float]:
    """Mean of every score that is logged and never learned from."""
    names = sorted({name for sample in samples for name in sample.watched})
    return {f"watched/{name}": sum(sample.watched[name] for sample in samples) / len(samples) for name in names}


def _staleness(samples: Sequence[ScoredSample], version: int) -> dict[str, int]:
    """How many samples were drawn how many weight versions before the one that is updated."""
    lags = Counter(version - sample.rollout.weight_version for sample in samples)
    return {f"staleness/{lag}": count for lag, count in sorted(lags.items())}


def clear_rollouts(folder: Path, *, after_step: int) -> None:
    """Remove the samples of steps that will be taken again, or that an earlier run of other settings left."""
    for path in folder.glob("step-*.parquet"):
        if int(path.name.split("-")[1]) > after_step:
            path.unlink()


def _collection_metrics(collected: Collected) -> dict[str, float]:
    """What the batch's collection has to report."""
    timings = collected.timings
    return {
        "samples": len(collected.scored),
        "overlap_efficiency": timings.overlap_efficiency,
        "first_sample_seconds": timings.first_sample_seconds,
        "generate_seconds": timings.generate_seconds,
        "score_busy_seconds": timings.score_busy_seconds,
        "quarantined": len(collected.quarantined),
        **{f"scorer_faults/{name}": count for name, count in collected.scorer_faults.items()},
        "generator_deaths": collected.generator_deaths,
        "duplicates": collected.duplicates,
        "retries": collected.retries,
    }
