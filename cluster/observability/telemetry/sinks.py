"""Where a run's figures go besides its own files: one Protocol, one sink per place, chosen by `tracking`.

A sink that fails is dropped with a warning: a tracking server that is away must not end a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.schema.run import RunSettings

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""Key of `tracking` → module; the extra of pyproject.toml has the key's name."""


class SinkError(Exception):
    """A sink could not take what it was given; the message says why."""


class MetricsSink(Protocol):
    """One place that figures go to. Every method may raise SinkError, after which the sink is not called again."""

    name: str

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """One optimiser step's figures, by the keys of ``metrics.jsonl`` (`cluster.observability.telemetry.series.flat`).

        Args:
            step: counted on over the rounds of a run.
        """
        ...

    def close(self, state: str) -> None:
        """The run is over: ``finished``, ``failed`` or ``stopped``."""
        ...


class SinkSet:
    """All sinks of a run.

    Args:
        warn: told once of a sink that failed.
    """

    def __init__(self, sinks: Sequence[MetricsSink], warn: Callable[[str], None]) -> None:
        self._sinks, self._warn = list(sinks), warn

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """See `MetricsSink.step`."""
        self._each(lambda sink: sink.step(step, figures))

    def close(self, state: str) -> None:
        """See `MetricsSink.close`."""
        self._each(lambda sink: sink.close(state))
        self._sinks = []

    def _each(self, call: Callable[[MetricsSink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except SinkError as error:
                self._sinks.remove(sink)
                self._warn(f"{sink.name} takes no more figures ({error}); metrics.jsonl has them all")


def missing_packages(settings: RunSettings) -> Iterator[tuple[str, str]]:
    """(key, what to do) of every sink that is asked for and whose package is not installed here."""
    for key, module in PACKAGES.items():
        if getattr(settings.tracking, key) is not None and not _installed(module):
            yield (
                f"tracking.{key}",
                f"the package {module} is not installed; `pip install 'steelyard[{key}]'`, or leave it out",
            )


def _installed(module: str) -> bool:
    """A package, not a mere folder of that name where you are, such as W&B's own ``wandb/``."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def require_packages(settings: RunSettings) -> None:
    """Refuse a sink without its package.

    Raises:
        ConfigError: one line with key, reason and fix.
    """
    for key, sentence in missing_packages(settings):
        raise ConfigError(f"{key}: {sentence}")


def open_sinks(settings: RunSettings, layout: RunLayout, warn: Callable[[str], None]) -> SinkSet:
    """The sinks that the settings ask for, opened; one that does not open is left out with a warning."""
    makers: list[Callable[[], MetricsSink]] = []
    tracking = settings.tracking
    if tracking.tensorboard is not None:
        makers.append(_maker("tensorboard", "TensorBoardSink", tracking.tensorboard, settings, layout.root))
    if tracking.wandb is not None:
        makers.append(_maker("wandb", "WandbSink", tracking.wandb, settings, layout.root))
    if tracking.mlflow is not None:
        makers.append(_maker("mlflow", "MlflowSink", tracking.mlflow, settings, layout.root))
    sinks = []
    for make in makers:
        try:
            sinks.append(make())
        except SinkError as error:
            warn(f"{error}; metrics.jsonl has all figures")
    return SinkSet(sinks, warn)


def _maker(module: str, name: str, sink: Any, settings: RunSettings, root: Path) -> Callable[[], MetricsSink]:
    def make() -> MetricsSink:
        from importlib import import_module

        metrics_sink: MetricsSink = getattr(import_module(f"cluster.observability.telemetry.{module}_sink"), name)(
            sink, settings, root
        )
        return metrics_sink

    return make
