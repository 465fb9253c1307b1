"""The sliding window of raw costs behind one constraint's J.

Invariant: it holds only finite raw terminal costs of samples in the constraint's subset, newest last, each with the
weight version that made it; its size counts such samples, not steps. Pure: the driver feeds and reads it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.signals.measure import Measure, standard_error


@dataclass(frozen=True)
class WindowReading:
    """What the window says at one optimiser step; J, its error and the limit it meets are divided by the scale."""

    measure_value: float | None
    """J, or None: too few samples, the multiplier holds."""
    standard_error: float | None
    """Standard error of J; None below two samples."""
    samples: int
    violation_rate: float | None
    """Share of the subset's fresh samples with raw cost > 0; None with none."""
    measure_state: Mapping[str, float]
    """Frozen scalars of g for this step, from the same samples as J."""


class CostWindow:
    """The last ``size`` raw costs of one constraint's subset.

    Args:
        size: samples of the subset kept (the reference's window: 128).
        min_samples: below this many fresh samples J is None and the multiplier holds.
        max_staleness: J uses samples at most this many weight versions old; None uses the whole window, as the
            papers do.

    Raises:
        ValueError: sizes out of range.
    """

    def __init__(self, size: int, *, min_samples: int = 1, max_staleness: int | None = None) -> None:
        if size < 1:
            raise ValueError(f"the window must hold at least 1 sample, not {size}")
        if not 1 <= min_samples <= size:
            raise ValueError(
                f"min_samples must be in [1, {size}] (the window's size), or it holds for ever; got {min_samples}"
            )
        if max_staleness is not None and max_staleness < 0:
            raise ValueError(f"max_staleness counts weight versions: set 0 or more, not {max_staleness}")
        self.size = size
        self.min_samples = min_samples
        self.max_staleness = max_staleness
        self._costs: deque[float] = deque(maxlen=size)
        self._versions: deque[int] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._costs)

    def extend(self, costs: Sequence[float], weight_versions: Sequence[int]) -> None:
        """Append samples of the subset, oldest first; both ``[n]``.

        Raises:
            ValueError: lengths differ or a cost is not finite; nothing is appended then.
        """
        if len(costs) != len(weight_versions):
            raise ValueError(
                f"{len(costs)} costs came with {len(weight_versions)} weight versions: give one version per cost"
            )
        values = [float(cost) for cost in costs]
        if not all(math.isfinite(value) for value in values):
            raise ValueError(
                "a cost is not finite: drop the sample before it reaches the window (an unknown cost fails closed)"
            )
        self._costs.extend(values)
        self._versions.extend(int(version) for version in weight_versions)

    def fresh_costs(self, current_version: int) -> NDArray[np.float64]:
        """Raw costs ``[n]`` of the samples no older than ``max_staleness`` versions, oldest first."""
        costs = np.array(self._costs, dtype=np.float64)
        if self.max_staleness is None:
            return costs
        return costs[np.array(self._versions, dtype=np.int64) >= current_version - self.max_staleness]

    def read(self, measure: Measure, current_version: int) -> WindowReading:
        """J, its standard error and g's frozen state at ``current_version``."""
        costs = self.fresh_costs(current_version)
        state = measure.freeze(costs)
        g_values = measure.g(costs, state)
        enough = costs.size >= max(self.min_samples, measure.minimum_samples)
        return WindowReading(
            measure_value=measure.aggregate(g_values) if enough else None,
            standard_error=standard_error(g_values) if costs.size >= 2 else None,
            samples=int(costs.size),
            violation_rate=float((costs > 0.0).mean()) if costs.size else None,
            measure_state=state,
        )

    def state_dict(self) -> dict[str, Any]:
        """The samples, JSON-serialisable; settings are not part of it."""
        return {"costs": list(self._costs), "weight_versions": list(self._versions)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the samples by a saved state; of a longer one the newest ``size`` stay."""
        self._costs.clear()
        self._versions.clear()
        self.extend(state["costs"], state["weight_versions"])
