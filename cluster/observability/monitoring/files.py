"""The files of a monitoring folder: Prometheus's configuration and rules, Grafana's provisioning and dashboards, and the same
rules as a manifest for the Prometheus operator.

``cluster/deploy/monitoring`` holds them with every default, for a cluster's own Prometheus and Grafana; `steelyard monitor`
writes them for one machine. Both come from here, so neither can drift.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from cluster.observability.monitoring.panels import BOARDS
from cluster.observability.monitoring.rules import Thresholds, alert_rules, recording_rules
from cluster.observability.monitoring.scrape import INTERVAL, prometheus_config

COMMITTED = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
PROMETHEUS_URL = "http://127.0.0.1:9090"
OPERATOR_LABELS = {"release": "prometheus"}
"""What the operator's Prometheus selects monitors and rules by, as its chart installs it."""
_NOTE = "# Written by cluster/observability/monitoring/files.py; change it there.\n"


def text_files(
    limits: Thresholds = Thresholds(),  # noqa: B008  frozen
    *,
    config: dict[str, Any] | None = None,
    dashboards: str = "/etc/grafana/dashboards/steelyard",
    prometheus_url: str = PROMETHEUS_URL,
) -> dict[str, str]:
    """Path below the monitoring folder → text; the dashboards' JSON is not among them.

    Args:
        config: of Prometheus; none: its defaults.
        dashboards: absolute folder that Grafana finds the dashboards in.
        prometheus_url: where Grafana asks.
    """
    documents = {
        "prometheus.yml": config or prometheus_config(),
        "rules/recording.yml": recording_rules(),
        "rules/alerts.yml": alert_rules(limits),
        "prometheus_rule.yaml": _prometheus_rule(limits),
        "provisioning/datasources/steelyard.yml": _datasource(prometheus_url),
        "provisioning/dashboards/steelyard.yml": _provider(dashboards),
    }
    return {path: _NOTE + _yaml(document) for path, document in documents.items()}


def write_files(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write them, and copy the packaged dashboards next to them; returns every file's path."""
    written = []
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    boards = folder / "dashboards"
    boards.mkdir(exist_ok=True)
    for board in BOARDS:
        written.append(Path(shutil.copy(COMMITTED / "dashboards" / f"{board.uid}.json", boards)))
    return written


def write_committed() -> None:
    """Write ``cluster/deploy/monitoring`` again; needs Grafana's SDK."""
    from cluster.observability.monitoring.dashboards import dashboard_json

    boards = COMMITTED / "dashboards"
    boards.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (boards / f"{board.uid}.json").write_text(dashboard_json(board), encoding="utf-8")
    for name, text in text_files().items():
        path = COMMITTED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _prometheus_rule(limits: Thresholds) -> dict[str, Any]:
    """Both rule files for `kubectl apply`; no rule file of ``prometheus.yml``, which knows them already."""
    groups = [*recording_rules()["groups"], *alert_rules(limits)["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "steelyard", "namespace": "steelyard", "labels": dict(OPERATOR_LABELS)},
        # The operator's Prometheus evaluates every 30 s by default.
        "spec": {
            "groups": [{"name": group["name"], "interval": INTERVAL, "rules": group["rules"]} for group in groups]
        },
    }


def _datasource(url: str) -> dict[str, Any]:
    source = {"name": "Steelyard", "type": "prometheus", "access": "proxy", "url": url, "isDefault": True}
    return {"apiVersion": 1, "datasources": [source]}


def _provider(folder: str) -> dict[str, Any]:
    provider = {"name": "Steelyard", "folder": "Steelyard", "type": "file", "options": {"path": folder}}
    return {"apiVersion": 1, "providers": [provider]}


def _yaml(document: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text


if __name__ == "__main__":
    write_committed()
