"""One step of the loop as a line of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.runs.loop.constraints import ConstraintReading
from learner.records import StepResult


def step_line(
    result: StepResult, readings: Mapping[str, ConstraintReading], phases: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    """One step's figures: ``measure/<constraint>`` and the like, and ``phase_seconds`` by phase."""
    line: dict[str, Any] = {
        "step": result.step,
        "weight_version": result.weight_version,
        "seconds": seconds,
        "phase_seconds": dict(phases),
        **{f"learn_seconds/{name}": value for name, value in result.phase_seconds.items()},
        **result.metrics,
    }
    if result.notes:
        line["notes"] = dict(result.notes)
    for name, reading in readings.items():
        line |= {
            f"limit/{name}": reading.limit,
            f"multiplier/{name}": reading.multiplier,
            f"window/{name}": reading.samples,
        }
        if reading.measure_value is not None:
            line[f"measure/{name}"] = reading.measure_value
        if reading.violation_rate is not None:
            line[f"violation_rate/{name}"] = reading.violation_rate
    return line
