"""The driver's side of the constraints: windows of raw costs, measures, multipliers and their warnings.

Only scalars pass through here. Once per optimiser step: take the batch's costs, read J per constraint, move the
multiplier, and hand the learner what it needs (`SignalTerms`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.exits import StoppedError
from configs.schema.signals import ConstraintSettings, DualSettings
from learner.records import Prompt, ScoredSample, SignalTerms
from learner.signals.measure import Measure
from learner.signals.multiplier import Multiplier, make_multiplier
from learner.signals.warnings import cvar_without_gradient, mean_hides_violations, measure_is_too_noisy
from learner.signals.window import CostWindow, WindowReading
from learner.statistics.calibration import Calibration

HOPELESS_RATE = 0.9
"""Share of unsafe answers from which on `cvar` at its cap is given up. Answers that cost less than its quantile all cost the same,
so there is no way back from here."""


@dataclass(frozen=True)
class ConstraintReading:
    """One constraint at one step, in the user's units (not divided by the scale)."""

    measure_value: float | None
    limit: float
    multiplier: float
    violation_rate: float | None
    samples: int
    standard_error: float | None
    warnings: tuple[str, ...]


def in_subset(prompt: Prompt, constraint: ConstraintSettings) -> bool:
    """Whether the constraint applies to the prompt (m_ik)."""
    return not constraint.subset or not prompt.tags.isdisjoint(constraint.subset)


class Constraint:
    """One constraint's window, measure and multiplier."""

    def __init__(
        self, settings: ConstraintSettings, batch_size: int, calibration: Calibration | None, *, relative: bool = False
    ) -> None:
        self.settings, self.relative = settings, relative
        slope, intercept = (calibration.slope, calibration.intercept) if calibration else (1.0, 0.0)
        self.measure = Measure(
            settings.measure,
            alpha=settings.alpha,
            scale=settings.effective_scale,
            slope=slope,
            intercept=intercept,
            upper_confidence=settings.upper_confidence,
        )
        self.window = CostWindow(settings.window_batches * batch_size, min_samples=settings.min_samples)
        self._batches: list[int] = []
        self._steps_without_effect = 0
        self.multiplier = build_multiplier(settings.dual)

    def observe(self, samples: Sequence[tuple[ScoredSample, float]], version: int) -> WindowReading:
        """Take the batch's samples of the subset with their raw costs; returns the window's reading."""
        self._batches = [*self._batches, len(samples)][-self.settings.window_batches :]
        self.window.extend([cost for _, cost in samples], [sample.rollout.weight_version for sample, _ in samples])
        self._keep_newest(sum(self._batches))
        return self.window.read(self.measure, version)

    def check_effect(self, reading: WindowReading) -> None:
        """Refuse to go on where `cvar` pushes with all its might and nearly every answer is unsafe.

        Raises:
            StoppedError: the multiplier was at its cap and the window unsafe for a whole window of steps.
        """
        rate, at_cap = reading.violation_rate or 0.0, self.multiplier.value >= self.settings.dual.cap
        without_effect = self.settings.measure == "cvar" and at_cap and rate >= max(HOPELESS_RATE, self.settings.alpha)
        self._steps_without_effect = self._steps_without_effect + 1 if without_effect else 0
        if self._steps_without_effect > self.settings.window_batches:
            raise StoppedError(
                f"{100 * rate:.0f} % of the answers are unsafe with the multiplier at its cap {self.settings.dual.cap:g}: cvar "
                f"averages the worst {100 * self.settings.alpha:g} % alone, and where more are unsafe it cannot work; use the "
                "measure rate, or an alpha above the share that is unsafe at the start"
            )

    def drive(self, measure_value: float | None) -> tuple[float | None, float]:
        """J and its limit as the dual sees them; a relative violation is a J between -1 and 1 with the limit 0.

        Bounded, because a violation of twenty times a small limit would wind a dual up that can only unwind by one.
        """
        limit = self.measure.scaled_limit(self.settings.limit)
        if self.settings.dual.violation == "absolute" or measure_value is None:
            return measure_value, limit
        return min(max((measure_value - limit) / limit, -1.0), 1.0), 0.0

    def _keep_newest(self, count: int) -> None:
        """The window is `window_batches` batches of the subset, however many samples each of them had."""
        state = self.window.state_dict()
        if len(state["costs"]) > count:
            keep = {name: values[len(values) - count :] for name, values in state.items()}
            self.window.load_state_dict(keep)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, JSON-serialisable."""
        return {
            "window": self.window.state_dict(),
            "batches": list(self._batches),
            "multiplier": self.multiplier.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.window.load_state_dict(state["window"])
        self._batches = list(state["batches"])
        self.multiplier.load_state_dict(state["multiplier"])


class ConstraintSet:
    """Every constraint of the run; K = 0 is plain PPO.

    Args:
        relative: constraints whose cost has a declared zero and no safety labels behind it: above zero is not unsafe.
    """

    def __init__(
        self,
        constraints: Mapping[str, ConstraintSettings],
        batch_size: int,
        calibrations: Mapping[str, Calibration],
        *,
        relative: Collection[str] = (),
    ) -> None:
        self._constraints = {
            name: Constraint(settings, batch_size, calibrations.get(name), relative=name in relative)
            for name, settings in constraints.items()
        }

    def step(
        self, samples: Sequence[ScoredSample], prompts: Mapping[str, Prompt], version: int, *, updates: int = 1
    ) -> tuple[SignalTerms, dict[str, ConstraintReading]]:
        """Move every constraint's multiplier by the batch's raw terminal costs.

        Args:
            samples: the batch, costs by constraint name.
            prompts: by prompt_id.
            version: the weight version that is about to be updated.
            updates: dual updates from this one reading, 1 but for `reference.multiplier_per_minibatch`. With more,
                `SignalTerms.minibatch_multipliers` has the values after each, and `multipliers` the last.
        """
        trail: list[dict[str, float]] = [{} for _ in range(updates)]
        readings: dict[str, ConstraintReading] = {}
        states: dict[str, dict[str, float]] = {}
        for name, constraint in self._constraints.items():
            members = [
                (sample, sample.costs[name])
                for sample in samples
                if in_subset(prompts[sample.rollout.prompt_id], constraint.settings)
            ]
            reading = constraint.observe(members, version)
            value, limit = constraint.drive(reading.measure_value)
            for values in trail:
                values[name] = constraint.multiplier.update(value, limit)
            constraint.check_effect(reading)
            states[name] = dict(reading.measure_state)
            readings[name] = _in_user_units(constraint, reading)
        per_minibatch = tuple(trail) if updates > 1 else ()
        return SignalTerms(trail[-1], states, per_minibatch), readings

    def beyond(self, samples: Sequence[ScoredSample], terms: SignalTerms, clip: float) -> dict[str, int]:
        """How many samples have a |g| above `clip`, by constraint; those with none are left out."""
        counts = {
            name: int(
                (
                    np.abs(constraint.measure.g([sample.costs[name] for sample in samples], terms.measure_state[name]))
                    > clip
                ).sum()
            )
            for name, constraint in self._constraints.items()
        }
        return {name: count for name, count in counts.items() if count}

    def state_dict(self) -> dict[str, Any]:
        """Windows and multipliers of every constraint."""
        return {name: constraint.state_dict() for name, constraint in self._constraints.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state of the same constraints."""
        for name, constraint in self._constraints.items():
            constraint.load_state_dict(state[name])


def build_multiplier(dual: DualSettings) -> Multiplier:
    """The dual update that the settings ask for."""
    if dual.form == "fixed":
        return make_multiplier("fixed", initial=dual.initial)
    common = {"initial": dual.initial, "cap": dual.cap, "delay": dual.delay}
    if dual.form == "pid":
        return make_multiplier(
            "pid",
            **common,
            kp=dual.proportional,
            ki=dual.learning_rate,
            kd=dual.derivative,
            smoothing=dual.smoothing,
            derivative_delay=dual.derivative_delay,
        )
    return make_multiplier(dual.form, **common, lr=dual.learning_rate)


def _in_user_units(constraint: Constraint, reading: WindowReading) -> ConstraintReading:
    scale, limit = constraint.measure.scale, constraint.settings.limit
    value = None if reading.measure_value is None else reading.measure_value * scale
    error = None if reading.standard_error is None else reading.standard_error * scale
    warnings: list[str | None] = []
    if value is not None:
        rate = 0.0 if constraint.relative else reading.violation_rate or 0.0
        warnings.append(mean_hides_violations(constraint.measure.label, value, limit, rate))
        warnings.append(cvar_without_gradient(constraint.measure.label, constraint.measure.alpha, rate))
        warnings.append(measure_is_too_noisy(value, limit, error, reading.samples))
    return ConstraintReading(
        measure_value=value,
        limit=limit,
        multiplier=constraint.multiplier.value,
        violation_rate=reading.violation_rate,
        samples=reading.samples,
        standard_error=error,
        warnings=tuple(text for text in warnings if text),
    )
