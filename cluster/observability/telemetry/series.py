"""The values of every series of the catalogue, kept up to date from a run's lines and status; pure, no clock, no Ray.

The same code serves a live run and the exporter of a finished one, so both show the same figures.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from cluster.run_folder.status import RunStatus, StageState, State
from configs.metrics import BY_NAME, CATALOGUE, STALENESS_BUCKETS, Series
from configs.schema.run import RunSettings

Labels = tuple[tuple[str, str], ...]
"""(label, value) in the catalogue's order, ``run`` first."""

_READ = [(key, labels, series) for series in CATALOGUE for key, labels in series.keys.items()]
_EXACT = {key: (labels, series) for key, labels, series in _READ if "*" not in key}
_PATTERNS = [(key.removesuffix("*"), labels, series) for key, labels, series in _READ if "*" in key]


@dataclass
class Histogram:
    """Observations by bucket: `counts` has one more than the boundaries."""

    counts: list[float] = field(default_factory=lambda: [0.0] * (len(STALENESS_BUCKETS) + 1))
    total: float = 0.0

    def observe(self, value: float, times: float = 1.0) -> None:
        """Add the same value so many times."""
        self.counts[bisect.bisect_left(STALENESS_BUCKETS, value)] += times
        self.total += value * times


class SeriesStore:
    """Everything that a run has to show now.

    Args:
        run: value of the label of that name.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self.values: dict[tuple[str, Labels], float] = {}
        """Of gauges and counters."""
        self.histograms: dict[tuple[str, Labels], Histogram] = {}
        self._violated: dict[str, int] = {}
        self._generators: set[str] = set()

    # --- what happened ------------------------------------------------------------------------------------------------

    def settings(self, settings: RunSettings) -> None:
        """What the configuration says of limits and budgets."""
        for name, constraint in settings.constraints.items():
            if constraint.dual.form != "fixed":
                self.put("steelyard_multiplier_cap", constraint.dual.cap, constraint=name)
        if settings.ppo.kl_budget is not None:
            self.put("steelyard_kl_budget", settings.ppo.kl_budget)

    def begin_round(self) -> None:
        """Steps are counted from 1 again."""
        self._violated.clear()

    def step(self, line: Mapping[str, Any]) -> None:
        """Take one step's line of ``metrics.jsonl``."""
        numbers = dict(flat(line))
        for key, value in numbers.items():
            matched = match(key)
            if matched is None:
                continue
            series, labels, remainder = matched
            if series.kind == "histogram":
                self._histogram(series.name, labels).observe(float(remainder), value)
            elif series.kind == "counter":
                self.add(series.name, value, **labels)
            else:
                self.put(series.name, value, **labels)
        self._slack(numbers)
        self._rates(numbers)

    def status(self, status: RunStatus) -> None:
        """Take what ``status.json`` says."""
        for state in get_args(State):
            self.put("steelyard_run_state", float(status.state == state), state=state)
        for name, stage in status.stages.items():
            self.put("steelyard_stage_state", float(get_args(StageState).index(stage.state)), stage=name)
            if stage.state in ("done", "failed", "stopped"):
                self.put("steelyard_stage_seconds", stage.seconds, stage=name)
        self.put("steelyard_stage_step", status.step)
        self.put("steelyard_stage_steps", status.steps)
        self.put("steelyard_elapsed_seconds", status.seconds_elapsed)
        self.put("steelyard_warnings", len(status.warnings))
        self.put("steelyard_attempt", status.attempt)
        for generator in status.generators:
            self.generator(generator.name, generator.state, generator.weight_version)

    def generator(self, name: str, state: str, version: int) -> None:
        """One generator's state; one without weights has version 0."""
        role, rank = role_and_rank(name)
        self.put("steelyard_generator_serving", float(state == "serving"), role=role, rank=rank)
        self.put("steelyard_generator_weight_version", version, role=role, rank=rank)

    def put(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge, or a counter's total."""
        self.values[name, self._labels(name, labels)] = float(value)

    def add(self, name: str, value: float, **labels: str) -> None:
        """Raise a counter; one that was never raised shows 0."""
        key = name, self._labels(name, labels)
        self.values[key] = self.values.get(key, 0.0) + value

    # --- derived ------------------------------------------------------------------------------------------------------

    def _slack(self, numbers: Mapping[str, float]) -> None:
        for key, limit in numbers.items():
            if not key.startswith("limit/"):
                continue
            name = key.removeprefix("limit/")
            measure = numbers.get(f"measure/{name}")
            if measure is None:  # the window is too small yet: neither kept nor violated
                continue
            self._violated[name] = self._violated.get(name, 0) + 1 if measure > limit else 0
            self.put("steelyard_slack", limit - measure, constraint=name)
            self.put("steelyard_violated_steps", self._violated[name], constraint=name)

    def _rates(self, numbers: Mapping[str, float]) -> None:
        """Samples and tokens per second; of a role whose time is not known or 0, nothing."""
        seconds = {
            "generator": numbers.get("generate_seconds"),
            "scorer": numbers.get("score_busy_seconds"),
            "learner": numbers.get("phase_seconds/learn"),
            "loop": numbers.get("seconds"),
        }
        for role, spent in seconds.items():
            for unit in ("samples", "tokens"):
                if spent and unit in numbers:
                    self.put(f"steelyard_{unit}_per_second", numbers[unit] / spent, role=role)

    def _histogram(self, name: str, labels: Mapping[str, str]) -> Histogram:
        return self.histograms.setdefault((name, self._labels(name, labels)), Histogram())

    def _labels(self, name: str, labels: Mapping[str, str]) -> Labels:
        label_names = BY_NAME[name].labels
        assert set(labels) == set(label_names), f"{name} has the labels {label_names}, not {tuple(labels)}"
        return (("run", self._run), *((label, labels[label]) for label in label_names))


def flat(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of a line; of a mapping in it as ``outer/inner``. Texts are left out."""
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}/{inner}", number) for inner, number in flat(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield key, float(value)


def match(key: str) -> tuple[Series, dict[str, str], str] | None:
    """The series that a line's key belongs to, its labels, and what the ``*`` stood for; None if to none."""
    if key in _EXACT:
        labels, series = _EXACT[key]
        return series, dict(labels), ""
    for stem, labels, series in _PATTERNS:
        if key.startswith(stem) and len(key) > len(stem):
            remainder = key[len(stem) :]
            return series, {label: text.replace("*", remainder) for label, text in labels.items()}, remainder
    return None


def role_and_rank(actor: str) -> tuple[str, str]:
    """``generator-0`` → generator, 0; ``scorer-cost-harm`` → scorer, cost-harm."""
    role, _, rank = actor.partition("-")
    return role, rank


def store_of(
    label: str, settings: RunSettings, lines: Iterable[Mapping[str, Any]], status: RunStatus | None
) -> SeriesStore:
    """The series of a run that is read from its files: the lines of all its rounds, one after another."""
    store = SeriesStore(label)
    store.settings(settings)
    last = 0
    for line in lines:
        if line["step"] <= last:
            store.begin_round()
        last = line["step"]
        store.step(line)
    if status is not None:
        store.status(status)
    return store
