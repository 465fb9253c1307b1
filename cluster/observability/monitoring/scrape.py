"""Prometheus's own configuration: what is scraped, how often, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DISCOVERY = "/tmp/ray/prom_metrics_service_discovery.json"
"""Where a Ray head that was started by hand writes the addresses of its nodes."""
INTERVAL = "10s"
"""Ray forgets a gauge 20 s after it was set, and a run's last state is shown no longer than that."""


def prometheus_config(
    discovery: Sequence[str] = (DISCOVERY,), exporters: Sequence[str] = ("127.0.0.1:9464",), interval: str = INTERVAL
) -> dict[str, Any]:
    """The content of ``prometheus.yml``.

    Args:
        discovery: Ray's service-discovery files, absolute.
        exporters: ``host:port`` of `steelyard export`.
        interval: of scrapes and rules, in Prometheus's notation.
    """
    scrapes: list[dict[str, Any]] = []
    if discovery:
        scrapes.append(
            {
                "job_name": "ray",
                "file_sd_configs": [{"files": list(discovery), "refresh_interval": "10s"}],
                "metric_relabel_configs": [_without_prefix()],
            }
        )
    if exporters:
        scrapes.append({"job_name": "steelyard", "static_configs": [{"targets": list(exporters)}]})
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": scrapes,
    }


def _without_prefix() -> dict[str, Any]:
    """Our series under the catalogue's names: Ray prefixes all with ``ray_``."""
    return {
        "source_labels": ["__name__"],
        "regex": "ray_(steelyard_.+)",
        "target_label": "__name__",
        "replacement": "$1",
    }
