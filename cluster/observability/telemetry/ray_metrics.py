"""The store's values as Ray metrics, which every node's agent exposes to Prometheus as ``ray_<name>``.

Ray forgets a gauge some 20 s after it was last set, and a step may take longer: the owner of this pushes from a heartbeat.
Counters are given as gauges that hold the total: Ray's own counters cannot show 0, so their first rise would be lost, and they
start again with every driver. ``rate()`` and ``increase()`` work on them as on any counter.
"""

from __future__ import annotations

from typing import Any

from cluster.observability.telemetry.series import Histogram, Labels, SeriesStore
from configs.metrics import BY_NAME, STALENESS_BUCKETS

_INSIDE = tuple(
    (low + high) / 2
    for low, high in zip((0.0, *STALENESS_BUCKETS), (*STALENESS_BUCKETS, 2 * STALENESS_BUCKETS[-1]), strict=True)
)
"""A value inside each bucket."""


class RayMetrics:
    """Pushes a store; only in a process that has joined a Ray cluster. Not thread-safe."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}
        self._observed: dict[tuple[str, Labels], list[float]] = {}

    def push(self, store: SeriesStore) -> None:
        """Set every gauge and total, and observe what is new in the histograms."""
        for (name, labels), value in list(store.values.items()):
            self._metric(name).set(value, tags=dict(labels))
        for (name, labels), histogram in list(store.histograms.items()):
            self._observe(name, labels, histogram)

    def _observe(self, name: str, labels: Labels, histogram: Histogram) -> None:
        observed = self._observed.setdefault((name, labels), [0.0] * len(histogram.counts))
        for bucket, count in enumerate(histogram.counts):
            for _ in range(round(count - observed[bucket])):
                self._metric(name).observe(max(_INSIDE[bucket], 1e-9), tags=dict(labels))
            observed[bucket] = count

    def _metric(self, name: str) -> Any:
        if name not in self._metrics:
            from ray.util.metrics import Gauge
            from ray.util.metrics import Histogram as RayHistogram

            series = BY_NAME[name]
            keys = ("run", *series.labels)
            if series.kind == "histogram":
                self._metrics[name] = RayHistogram(
                    name, description=series.meaning, boundaries=list(STALENESS_BUCKETS), tag_keys=keys
                )
            else:
                self._metrics[name] = Gauge(series.exposed, description=series.meaning, tag_keys=keys)
        return self._metrics[name]
