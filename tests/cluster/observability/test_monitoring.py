"""Rules, dashboards and the `monitor` command: what is committed, whether Prometheus takes it, and a real one that scrapes."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.observability.monitoring.files import COMMITTED, text_files, write_files
from cluster.observability.monitoring.panels import BOARDS, panels
from cluster.observability.monitoring.rules import Thresholds, alert_rules, recording_rules
from cluster.observability.monitoring.scrape import prometheus_config
from cluster.observability.monitoring.start import prometheus_service, running
from cluster.observability.telemetry.export import serve
from configs.exits import ClusterError
from configs.layout import RunLayout
from configs.load import dump_settings, load_settings
from configs.metrics import CATALOGUE
from tests.paths import ROOT

CASES = Path(__file__).parent / "alert_cases.yml"
NEEDS_PROMETHEUS = "no prometheus and promtool here (Debian: apt-get install prometheus)"
needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None, reason=NEEDS_PROMETHEUS
)
VARIABLES = {"run": ".+", "constraint": ".+", "datasource": "prometheus"}


def rules() -> list[dict[str, Any]]:
    documents = (recording_rules(), alert_rules(Thresholds()))
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


def queries() -> list[tuple[str, str]]:
    """(where, query) of every panel and rule."""
    of_panels = [
        (f"{board.uid}: {panel.title}", query.expression)
        for board in BOARDS
        for panel in panels(board)
        for query in panel.queries
    ]
    return of_panels + [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def filled(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(f"${name}", value)
    return query


def test_the_committed_files_are_what_the_code_builds():
    from cluster.observability.monitoring.dashboards import dashboard_json

    texts = text_files() | {f"dashboards/{board.uid}.json": dashboard_json(board) for board in BOARDS}
    committed = {
        path.relative_to(COMMITTED).as_posix(): path.read_text() for path in COMMITTED.rglob("*") if path.is_file()
    }
    assert committed == texts, "run `make generated`"


@pytest.mark.parametrize(("where", "query"), queries())
def test_every_query_parses_and_names_series_that_there_are(where: str, query: str):
    import promql_parser

    parsed = promql_parser.parse(filled(query))
    assert parsed is not None
    without_strings = re.sub(r'"[^"]*"', "", query)
    ours = set(re.findall(r"\bsteelyard_[a-z0-9_]+", re.sub(r"\b[a-z_]+:[a-z0-9_:]+", "", without_strings)))
    known = {one.exposed for one in CATALOGUE}
    known |= {f"{one.name}_{end}" for one in CATALOGUE if one.kind == "histogram" for end in ("bucket", "count", "sum")}
    assert ours <= known
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert set(re.findall(r"\b[a-z_]+:[a-z0-9_:]+", without_strings)) <= recorded


def test_labels_that_a_query_groups_by_are_the_series_own():
    known = {one.exposed: {"run", *one.labels} for one in CATALOGUE}
    for where, query in queries():
        for labels, name in re.findall(r"max by \(([^)]*)\) \((steelyard_\w+)\{", query):
            assert {label.strip() for label in labels.split(",")} <= known[name], where


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_variable_of_a_dashboard_is_defined_and_used(board: Any):
    document = json.loads((COMMITTED / "dashboards" / f"{board.uid}.json").read_text())
    defined = {variable["name"] for variable in document["templating"]["list"]}
    text = json.dumps(document["panels"]) + json.dumps(document["templating"])
    used = set(re.findall(r"\$\{?([a-zA-Z_]+)\}?", text))
    assert used == defined
    assert document["uid"] == board.uid and document["editable"] is False
    shown = [panel["title"] for panel in document["panels"] if panel["type"] != "row"]
    assert shown == [panel.title for panel in panels(board)]
    for panel in document["panels"]:
        for target in panel.get("targets", []):
            assert target["expr"] and target["legendFormat"]
            # What a legend names, the query keeps.
            names = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert all(re.search(rf"\b{name}\b", target["expr"]) or ":" in target["expr"] for name in names), panel[
                "title"
            ]


@needs_prometheus
def test_promtool_takes_configuration_and_rules(tmp_path: Path):
    write_files(tmp_path, text_files(config=prometheus_config([str(tmp_path / "discovery.json")], ["127.0.0.1:1"])))
    (tmp_path / "discovery.json").write_text("[]")
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


@needs_prometheus
def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path):
    cases = yaml.safe_load(CASES.read_text())
    cases["rule_files"] = [str(COMMITTED / "rules" / name) for name in ("recording.yml", "alerts.yml")]
    # Prometheus evaluates every group by its own clock; here alerts must see what was recorded at the same time.
    cases["group_eval_order"] = ["steelyard-recording", "steelyard-alerts"]
    tested = {one["alertname"] for test in cases["tests"] for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert tested == {rule["alert"] for rule in rules() if "alert" in rule}
    path = tmp_path / "cases.yml"
    path.write_text(yaml.safe_dump(cases))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the command and a real Prometheus --------------------------------------------------------------------------------


def steelyard(*arguments: str, cwd: Path, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.commands.main", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": path, "HOME": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_monitor_writes_its_files_with_the_thresholds_asked_for(tmp_path: Path):
    done = steelyard("monitor", "--write-only", "--violated-steps", "7", "--exporter", "127.0.0.1:9999", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place = tmp_path / ".steelyard" / "monitoring"
    assert done.stdout.startswith(f"9 files in {place}; Prometheus scrapes /tmp/ray/")
    assert "steelyard_violated_steps) >= 7" in (place / "rules" / "alerts.yml").read_text()
    config = yaml.safe_load((place / "prometheus.yml").read_text())
    assert config["scrape_configs"][1]["static_configs"] == [{"targets": ["127.0.0.1:9999"]}]
    provider = yaml.safe_load((place / "provisioning" / "dashboards" / "steelyard.yml").read_text())
    assert provider["providers"][0]["options"]["path"] == str(place / "dashboards")


def test_monitor_without_binaries_says_what_to_install(tmp_path: Path):
    done = steelyard("monitor", cwd=tmp_path, path=str(tmp_path))
    assert done.returncode == 0
    assert "no `prometheus` on the PATH" in done.stderr and "no `grafana` on the PATH" in done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, query: str) -> list[Any]:
    words = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"{url}/api/v1/query?{words}") as response:
        found: list[Any] = json.load(response)["data"]["result"]
    return found


def wait_for(url: str, query: str) -> list[Any]:
    deadline = time.monotonic() + 30
    while not (found := ask(url, query)):
        assert time.monotonic() < deadline, f"{query} gave nothing"
        time.sleep(0.3)
    return found


@needs_prometheus
def test_monitor_starts_prometheus_and_takes_it_along_when_it_ends(tmp_path: Path):
    port = free_port()
    command = [sys.executable, "-m", "cluster.commands.main", "monitor", "--port", str(port)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        while not (said := process.stdout.readline()).startswith("Prometheus: "):
            assert said or process.poll() is None, "it ended"
        assert said == f"Prometheus: http://127.0.0.1:{port}\n"
        assert ask(f"http://127.0.0.1:{port}", "vector(1)")
        (child,) = psutil.Process(process.pid).children()
        listening = {each.laddr.ip for each in child.net_connections(kind="inet") if each.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
    finally:
        process.terminate()
        code = process.wait(20)
        process.stdout.close()
    assert code == 130
    assert not psutil.pid_exists(child.pid)


@needs_prometheus
def test_a_real_prometheus_scrapes_the_exporter_and_records(tmp_path: Path):
    layout = RunLayout(tmp_path / "small")
    layout.root.mkdir()
    layout.config.write_text(dump_settings(load_settings("quickstart", ["name=small"])))
    figures = {"step": 1, "multiplier/harm": 3.0, "limit/harm": 0.05, "measure/harm": 0.2, "samples": 32}
    layout.metrics.write_text(json.dumps(figures) + "\n")
    server, _ = serve([layout.root], 0)
    place = tmp_path / "monitoring"
    write_files(
        place,
        text_files(
            Thresholds(violated_steps=1),
            config=prometheus_config([], [f"127.0.0.1:{server.server_port}"], interval="1s"),
        ),
    )
    service = prometheus_service(place, free_port())
    assert service is not None
    try:
        with running([service]) as (process,):
            (firing,) = wait_for(service.url, 'ALERTS{alertstate="firing", alertname="SteelyardConstraintViolated"}')
            assert firing["metric"]["constraint"] == "harm"
            (share,) = wait_for(service.url, "run_constraint:steelyard_multiplier:share_of_cap")
            assert float(share["value"][1]) == 0.5
        assert process.poll() is not None
    finally:
        server.shutdown()
        server.server_close()


@needs_prometheus
def test_a_taken_port_and_a_broken_file_are_one_line(tmp_path: Path):
    write_files(tmp_path, text_files(config=prometheus_config([], [])))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = prometheus_service(tmp_path, int(taken.getsockname()[1]))
        assert service is not None
        with pytest.raises(ClusterError, match="for Prometheus: Address already in use"), running([service]):
            pass
    (tmp_path / "prometheus.yml").write_text("scrape_configs: 3\n")
    service = prometheus_service(tmp_path, free_port())
    assert service is not None
    with pytest.raises(ClusterError, match="Prometheus ended while starting"), running([service]):
        pass
