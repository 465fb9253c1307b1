"""The PPO-Lag loop: rollout → score → dual update → learn → publish, once per optimiser step.

The driver holds metadata and scalars; samples and scores go from producers to learner ranks by reference. A sample
whose cost is unknown never reaches the learner: the pool sets it aside.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.pool import Collected, RolloutPool
from cluster.constraints import ConstraintReading, ConstraintSet, in_subset
from cluster.context import RunContext
from cluster.metrics_log import MetricsLog, step_line
from cluster.promptsets import training_prompts
from cluster.requests import Sampler, by_id
from configs.exits import StoppedError
from learner.checkpoint import CheckpointError, keep_newest
from learner.deadlines import RemoteFailure, user_error
from learner.experience import BatchRow
from learner.group import LearnerGroup
from learner.records import Prompt, SamplingSettings, StepResult
from learner.statistics.calibration import Calibration
from learner.worker import LoadRequest

KEPT_CHECKPOINTS = 2


class PpoLoop:
    """One run of the loop on engines that may be warm from an earlier one."""

    def __init__(self, context: RunContext, inputs: Mapping[str, Any]) -> None:
        self._context = context
        self._settings = context.settings
        self._ppo = context.settings.ppo
        self._inputs = inputs
        calibrations = {
            name: Calibration(float(found["slope"]), float(found["intercept"]), int(found["n"]))
            for name, found in inputs["calibrations"].items()
        }
        self._constraints = ConstraintSet(self._settings.constraints, self._ppo.batch_size, calibrations)
        self._sampler = Sampler(context.tokenizer_path, self._settings.seed, "ppo")
        self._sampling = SamplingSettings(self._ppo.temperature, self._ppo.max_response_tokens)
        self._phases: dict[str, float] = {}
        self._samples = 0
        self._quarantined = 0
        self.learner: LearnerGroup = context.engines.learner_group()
        self._pool: RolloutPool

    def run(self) -> dict[str, Any]:
        """Take every step that is left; returns the figures for the summary."""
        prompts = self._prompts()
        done = self._prepare()
        log = MetricsLog(self._context.layout.metrics, keep_steps=done)
        for step in range(done + 1, self._ppo.steps + 1):
            begin = time.monotonic()
            batch = prompts[(step - 1) * self._ppo.batch_size : step * self._ppo.batch_size]
            result, readings, phases = self._step(step, batch)
            seconds = time.monotonic() - begin
            log.append(step_line(result, readings, phases, seconds))
            self._tell(step, result, readings, seconds)
            if step % self._ppo.checkpoint_every == 0 and step < self._ppo.steps:
                self._checkpoint(step)
        return self._facts(self._ppo.steps - done)

    def _step(
        self, step: int, prompts: Sequence[Prompt]
    ) -> tuple[StepResult, dict[str, ConstraintReading], dict[str, float]]:
        begin = time.monotonic()
        requests = [
            self._sampler.request(prompt, f"ppo-{step:05d}-{index:04d}", self._sampling)
            for index, prompt in enumerate(prompts)
        ]
        collected = self._pool.collect(requests)
        rollout_end = time.monotonic()
        self._check(step, collected)
        known = by_id(list(prompts))
        version = self._context.engines.weight_version
        terms, readings = self._constraints.step([row.sample for row in collected.scored], known, version)
        rows = self._rows(collected, known)
        result = self.learner.step(rows, terms, step, rollouts=self._context.layout.rollouts)
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
        metrics = {**result.metrics, **_collection_metrics(collected)}
        return StepResult(step, result.weight_version, metrics, result.phase_seconds), readings, phases

    def _rows(self, collected: Collected, prompts: Mapping[str, Prompt]) -> list[BatchRow]:
        constraints = self._settings.constraints
        rows = []
        for row in collected.scored:
            prompt = prompts[row.rollout.prompt_id]
            subset = frozenset(name for name, one in constraints.items() if in_subset(prompt, one))
            rows.append(BatchRow(row.rollout.request_id, row.chunk, row.scores, row.row, subset))
        return rows

    def _check(self, step: int, collected: Collected) -> None:
        """A few samples set aside are a warning; half of a batch is the end of the run."""
        aside, asked = collected.quarantined, len(collected.rows) + len(collected.quarantined)
        self._quarantined += len(aside)
        if aside:
            first = f"{aside[0].rollout.request_id}: {aside[0].reason}"
            self._context.warn(f"step {step}: {len(aside)} of {asked} samples were set aside ({first})")
        if len(aside) > asked // 2:
            raise StoppedError(
                f"step {step}: {len(aside)} of {asked} samples have no usable score ({first}), so nothing is learned from "
                "them; look at the scorers' logs, mend the cause and run the same command again"
            )

    def _prompts(self) -> list[Prompt]:
        """Every prompt of the loop, in an order that depends on the seed alone."""
        return training_prompts(
            self._context.world,
            n=self._ppo.steps * self._ppo.batch_size,
            seed=self._settings.seed + 2,
            kind_weights=self._ppo.kind_weights,
            prefix="ppo",
        )

    # --- start, resume, save ------------------------------------------------------------------------------------------

    def _prepare(self) -> int:
        """Load models everywhere and go on from the newest checkpoint of this stage; returns the steps already done."""
        context, inputs = self._context, self._inputs
        sft = context.layout.sft
        context.engines.rollout_pool(sft, context.tokenizer_path)
        context.engines.load_scorers(inputs["reward_path"], inputs["cost_paths"], sft, self._ppo.temperature)
        self._pool = context.engines.scoring_pool()
        normalise = self._settings.objective.normalise == "preference_set"
        self.learner.load(
            LoadRequest(
                policy_path=sft,
                reward_model_path=inputs["reward_path"],
                cost_paths=inputs["cost_paths"],
                ppo=self._ppo,
                constraints=self._settings.constraints,
                reward_normaliser=inputs["normaliser"] if normalise else (0.0, 1.0),
                maximises=self._settings.objective.signal != "none",
                cost_means=inputs["cost_means"],
                ptx_path=context.layout.data / "sft.parquet" if self._ppo.ptx_coefficient > 0 else None,
                seed=self._settings.seed,
                weight_version=context.engines.weight_version,
            )
        )
        done, version = self._resume()
        context.engines.connect()
        if done:
            context.engines.publish(version)
        clear_rollouts(context.layout.rollouts, after_step=done)
        return done

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
            for text in state["warnings"]:
                self._context.warn(text)
            return int(state["step"]), int(state["weight_version"])
        return 0, 0

    def _checkpoint(self, step: int) -> None:
        path = self._folder() / f"step-{step:05d}"
        state = {
            "constraints": self._constraints.state_dict(),
            "quarantined": self._quarantined,
            "warnings": self._context.warnings,
        }
        self.learner.save_checkpoint(path, step, state)
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

    def _facts(self, steps: int) -> dict[str, Any]:
        seconds = sum(self._phases.values())
        return {
            "steps": self._ppo.steps,
            "samples_per_second": self._samples / seconds if seconds else 0.0,
            "phase_seconds": {phase: total / max(steps, 1) for phase, total in self._phases.items()},
            "quarantined": self._quarantined,
            "weights": self._context.engines.weight_facts(),
        }


def clear_rollouts(folder: Path, *, after_step: int) -> None:
    """Remove the samples of steps that will be taken again, or that an earlier run of other settings left."""
    for path in folder.glob("step-*.parquet"):
        if int(path.name.split("-")[1]) > after_step:
            path.unlink()


def _collection_metrics(collected: Collected) -> dict[str, float]:
    """What the batch's collection has to report."""
    timings = collected.timings
    return {
        "overlap_efficiency": timings.overlap_efficiency,
        "first_sample_seconds": timings.first_sample_seconds,
        "generate_seconds": timings.generate_seconds,
        "score_busy_seconds": timings.score_busy_seconds,
        "quarantined": len(collected.quarantined),
        "generator_deaths": collected.generator_deaths,
        "duplicates": collected.duplicates,
    }
