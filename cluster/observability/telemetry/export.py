"""Runs in their folders as Prometheus sees them: an HTTP endpoint on loopback, or a file for node_exporter.

Everything is read again at each scrape, so a run may be going on. What only a live driver knows (the catalogue's `live`)
is not here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from cluster.observability.telemetry.names import run_label
from cluster.observability.telemetry.series import Histogram, Labels, SeriesStore, store_of
from cluster.run_folder.status import read_status
from configs.exits import ClusterError, DataError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.metrics import BY_NAME, CATALOGUE, STALENESS_BUCKETS
from configs.schema.run import RunSettings

LOOPBACK = "127.0.0.1"


class RunCollector:
    """Reads run folders at every scrape.

    Args:
        roots: run folders; of a comparison those of its arms.

    Raises:
        DataError: a folder has no readable configuration.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._runs: list[tuple[RunLayout, RunSettings]] = [(RunLayout(root), _settings(root)) for root in roots]

    def collect(self) -> Iterator[Metric]:
        """Every series of every run, each family once."""
        stores = [read_store(layout, settings) for layout, settings in self._runs]
        for series in CATALOGUE:
            values = [
                (labels, value)
                for store in stores
                for (name, labels), value in store.values.items()
                if name == series.name
            ]
            if values:
                yield _family(series.name, values)
            histograms = [
                (labels, histogram)
                for store in stores
                for (name, labels), histogram in store.histograms.items()
                if name == series.name
            ]
            if histograms:
                yield _histogram_family(series.name, histograms)


def read_store(layout: RunLayout, settings: RunSettings) -> SeriesStore:
    """The series of one run, from its lines and its status.

    Raises:
        DataError: ``metrics.jsonl`` has a line that is not JSON.
    """
    return store_of(run_label(layout.root), settings, _lines(layout, settings.rounds.count), read_status(layout.status))


def run_roots(root: Path) -> list[Path]:
    """The folder, or those of its arms that have begun."""
    arms = sorted(path.parent for path in (root / "arms").glob("*/config.resolved.yaml"))
    return arms or [root]


def registry_of(roots: Sequence[Path]) -> CollectorRegistry:
    """A registry with nothing but these runs. Raises as `RunCollector`."""
    registry = CollectorRegistry()
    registry.register(RunCollector(roots))
    return registry


def serve(roots: Sequence[Path], port: int) -> tuple[Any, Any]:
    """Answer at ``http://127.0.0.1:<port>/metrics`` from a thread; returns server and thread.

    Raises:
        ClusterError: the port is taken. DataError: as `RunCollector`.
    """
    registry = registry_of(roots)
    try:
        return start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise ClusterError(f"port {port} on {LOOPBACK}: {error.strerror}; give another one with --port") from error


def write_textfile(roots: Sequence[Path], path: Path) -> None:
    """Write the text format, whole or not at all.

    Raises:
        DataError: as `RunCollector`, or the file cannot be written.
    """
    try:
        write_to_textfile(str(path), registry_of(roots))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give a file in a folder that exists") from error


def _settings(root: Path) -> RunSettings:
    layout = RunLayout(root)
    if not layout.config.is_file():
        raise DataError(f"{root}: no {layout.config.name}, so nothing was run there; give a run's folder")
    return load_settings(layout.config)


def _lines(layout: RunLayout, rounds: int) -> Iterator[dict[str, Any]]:
    for number in range(1, rounds + 1):
        path = layout.metrics_of(number)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        # A line that is being written has no end yet: the next scrape has it.
        whole = text[: text.rfind("\n") + 1]
        for row, line in enumerate(whole.splitlines(), start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                name = os.path.relpath(path, layout.root)
                raise DataError(f"{name}, line {row}: not JSON ({error}); remove the line") from error


def _family(name: str, values: Iterable[tuple[Labels, float]]) -> Metric:
    series = BY_NAME[name]
    kind = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    family = kind(series.name, series.meaning, labels=("run", *series.labels))
    for labels, value in values:
        family.add_metric([text for _, text in labels], value)
    return family


def _histogram_family(name: str, histograms: Iterable[tuple[Labels, Histogram]]) -> Metric:
    series = BY_NAME[name]
    family = HistogramMetricFamily(series.name, series.meaning, labels=("run", *series.labels))
    bounds = [*map(str, STALENESS_BUCKETS), "+Inf"]
    for labels, histogram in histograms:
        running, buckets = 0.0, []
        for bound, count in zip(bounds, histogram.counts, strict=True):
            running += count
            buckets.append((bound, running))
        family.add_metric([text for _, text in labels], buckets, histogram.total)
    return family
