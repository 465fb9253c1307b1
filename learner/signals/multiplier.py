"""Dual updates: how a Lagrange multiplier follows its constraint.

Invariant: every value is finite and in [0, cap] after any sequence of finite measurements, and a None measurement
(too few samples) changes nothing. One update per optimiser step. ``delay`` counts measurements: the first ``delay`` of
them are observed without moving the multiplier. Units: lambda is reward per cost, learning rates are lambda per cost.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

_GREATEST = 1e100
"""Measurements and gains are clamped to this, so that no product of two overflows a float64 (1.8e308)."""

_LOWEST_LOG = math.log(1e-30)
"""Floor of log lambda: zero would be absorbing, and 1e-30 is already no price at all."""


class Multiplier(Protocol):
    """A constraint's multiplier as the loop uses it."""

    @property
    def value(self) -> float:
        """lambda, finite, in [0, cap]."""
        ...

    def update(self, measure_value: float | None, limit: float) -> float:
        """Take J and its limit in the same unit, return the new lambda; None holds.

        Raises:
            ValueError: J or limit is not finite.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes in an update, JSON-serialisable."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; a state of another kind raises ValueError."""
        ...


class _DelayedMultiplier:
    """What the moving duals share: bounds, the hold, the delay, and saving."""

    kind = ""

    def __init__(self, initial: float, cap: float, delay: int) -> None:
        if not (math.isfinite(cap) and cap > 0.0):
            raise ValueError(
                f"cap must be finite and above 0, not {cap}: without one a constraint out of reach has no end"
            )
        if not 0.0 <= initial <= cap:
            raise ValueError(f"the initial multiplier {initial} must be in [0, {cap}] (its cap)")
        if delay < 0:
            raise ValueError(f"delay counts measurements: set 0 or more, not {delay}")
        self.cap = cap
        self.delay = delay
        self.value = float(initial)
        self.measurements = 0

    def update(self, measure_value: float | None, limit: float) -> float:
        """Take J and its limit in the same unit, return the new lambda; None holds."""
        if measure_value is None:
            return self.value
        if not (math.isfinite(measure_value) and math.isfinite(limit)):
            raise ValueError(f"multiplier update needs a finite measure and limit, got {measure_value} and {limit}")
        self._observe(_clamped(measure_value), _clamped(measure_value - limit))
        if self.measurements >= self.delay:
            self.value = self._step(_clamped(measure_value - limit))
        self.measurements += 1
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """kind, value and the measurement count; subclasses add their own."""
        return {"kind": self.kind, "value": self.value, "measurements": self.measurements}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; of a value above the present cap, the cap stays."""
        _check_kind(state, self.kind)
        if not 0.0 <= state["value"] < math.inf:
            raise ValueError(f"a saved multiplier must be finite and at least 0, got {state['value']}")
        self.value = min(float(state["value"]), self.cap)
        self.measurements = int(state["measurements"])

    def _observe(self, measure_value: float, gap: float) -> None:
        """Keep what a later step needs; called for every measurement, the delayed ones too."""

    def _step(self, gap: float) -> float:
        raise NotImplementedError


class LogMultiplier(_DelayedMultiplier):
    """``log_lambda += lr * (J - limit) * lambda``, lambda before the step (paper B, section 3.3, as its code does it)."""

    kind = "log"

    def __init__(self, initial: float = 1.0, lr: float = 0.1, cap: float = 100.0, delay: int = 0) -> None:
        super().__init__(initial, cap, delay)
        if initial <= 0.0 or cap < math.exp(_LOWEST_LOG):
            raise ValueError(
                f"the log form needs an initial multiplier and a cap above 0, not {initial}, {cap}: use projected"
            )
        self.lr = _gain("lr", lr)
        self.log_value = math.log(initial)

    def _step(self, gap: float) -> float:
        log_value = self.log_value + self.lr * gap * self.value
        self.log_value = max(min(log_value, math.log(self.cap)), _LOWEST_LOG)
        return min(math.exp(self.log_value), self.cap)

    def state_dict(self) -> dict[str, Any]:
        """See `Multiplier`."""
        return {**super().state_dict(), "log_value": self.log_value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Multiplier`."""
        super().load_state_dict(state)
        self.log_value = max(min(float(state["log_value"]), math.log(self.cap)), _LOWEST_LOG)


class ProjectedMultiplier(_DelayedMultiplier):
    """``lambda = clip(lambda + lr*(J - limit), 0, cap)``: projected dual ascent."""

    kind = "projected"

    def __init__(self, initial: float = 0.0, lr: float = 1.0, cap: float = 20.0, delay: int = 0) -> None:
        super().__init__(initial, cap, delay)
        self.lr = _gain("lr", lr)

    def _step(self, gap: float) -> float:
        return min(max(self.value + self.lr * gap, 0.0), self.cap)


class PidMultiplier(_DelayedMultiplier):
    """PID control of lambda (Stooke et al. 2020, arXiv 2007.03964, algorithm 2).

    P acts on an exponential average of J - limit, I is the sum of ``ki * (J - limit)`` kept in [0, cap], D acts on the
    rise of the average of J over the last ``derivative_delay`` measurements (a fall counts 0). The sum is clipped to
    [0, cap]. ``smoothing`` is the weight of the past in both averages, in [0, 1); the first measurement starts them.
    """

    kind = "pid"

    def __init__(
        self,
        initial: float = 0.0,
        kp: float = 1.0,
        ki: float = 0.1,
        kd: float = 0.0,
        cap: float = 20.0,
        delay: int = 0,
        smoothing: float = 0.9,
        derivative_delay: int = 4,
    ) -> None:
        super().__init__(initial, cap, delay)
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing is the weight of the past: set it in [0, 1), not {smoothing}")
        if derivative_delay < 1:
            raise ValueError(f"derivative_delay counts measurements: set 1 or more, not {derivative_delay}")
        self.kp, self.ki, self.kd = _gain("kp", kp), _gain("ki", ki), _gain("kd", kd)
        self.smoothing = smoothing
        self.integral = float(initial)
        self._gap_average: float | None = None
        self._measure_averages: deque[float] = deque(maxlen=derivative_delay + 1)

    def _observe(self, measure_value: float, gap: float) -> None:
        past = self._measure_averages[-1] if self._measure_averages else measure_value
        self._gap_average = self._average(gap if self._gap_average is None else self._gap_average, gap)
        self._measure_averages.append(self._average(past, measure_value))

    def _average(self, past: float, new: float) -> float:
        return self.smoothing * past + (1.0 - self.smoothing) * new

    def _step(self, gap: float) -> float:
        assert self._gap_average is not None  # _observe came first
        self.integral = min(max(self.integral + self.ki * gap, 0.0), self.cap)
        rise = max(self._measure_averages[-1] - self._measure_averages[0], 0.0)
        return min(max(self.kp * self._gap_average + self.integral + self.kd * rise, 0.0), self.cap)

    def state_dict(self) -> dict[str, Any]:
        """See `Multiplier`."""
        state = {
            "integral": self.integral,
            "gap_average": self._gap_average,
            "measure_averages": list(self._measure_averages),
        }
        return {**super().state_dict(), **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Multiplier`."""
        super().load_state_dict(state)
        self.integral = min(max(float(state["integral"]), 0.0), self.cap)
        self._gap_average = None if state["gap_average"] is None else float(state["gap_average"])
        self._measure_averages.clear()
        self._measure_averages.extend(float(value) for value in state["measure_averages"])


class FixedMultiplier:
    """A multiplier that never moves: reward shaping, r - lambda*c."""

    kind = "fixed"

    def __init__(self, initial: float = 1.0) -> None:
        if not 0.0 <= initial < math.inf:
            raise ValueError(f"a fixed multiplier must be finite and at least 0, not {initial}")
        self.value = float(initial)

    def update(self, measure_value: float | None, limit: float) -> float:
        """The same lambda whatever J is; a non-finite J raises ValueError as in the other duals."""
        if measure_value is not None and not (math.isfinite(measure_value) and math.isfinite(limit)):
            raise ValueError(f"multiplier update needs a finite measure and limit, got {measure_value} and {limit}")
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """See `Multiplier`."""
        return {"kind": self.kind, "value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Checks the kind only: the value is a setting, so the present configuration's stays."""
        _check_kind(state, self.kind)


_KINDS: Mapping[str, type[LogMultiplier | ProjectedMultiplier | PidMultiplier | FixedMultiplier]] = {
    "log": LogMultiplier,
    "projected": ProjectedMultiplier,
    "pid": PidMultiplier,
    "fixed": FixedMultiplier,
}


def make_multiplier(kind: str, **settings: Any) -> Multiplier:
    """The dual of this kind (``log``, ``projected``, ``pid``, ``fixed``) with its constructor's settings.

    Raises:
        ValueError: unknown kind, or a setting out of range.
        TypeError: a setting this kind does not have.
    """
    if kind not in _KINDS:
        raise ValueError(f"unknown dual update {kind!r}: choose one of {', '.join(_KINDS)}")
    return _KINDS[kind](**settings)


def _clamped(value: float) -> float:
    return min(max(value, -_GREATEST), _GREATEST)


def _gain(name: str, value: float) -> float:
    if not 0.0 <= value <= _GREATEST:
        raise ValueError(f"{name} must be finite and at least 0, not {value}")
    return float(value)


def _check_kind(state: Mapping[str, Any], kind: str) -> None:
    if state["kind"] != kind:
        raise ValueError(
            f"the saved multiplier is of kind {state['kind']!r}, this one is {kind!r}: start it fresh or keep the kind"
        )
