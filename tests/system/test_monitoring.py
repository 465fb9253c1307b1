"""A real Prometheus that scrapes a real run on a real head: every series is set, and every panel and rule has data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.observability.monitoring.files import text_files, write_files
from cluster.observability.monitoring.panels import BOARDS, ENGINE_METRICS, panels
from cluster.observability.monitoring.rules import recording_rules
from cluster.observability.monitoring.scrape import prometheus_config
from cluster.observability.monitoring.start import Service, prometheus_service, running
from cluster.resources.connection import STORAGE_VARIABLE
from cluster.resources.local_head import Head, clean_environment, ensure_head, stop_head
from configs.exits import ClusterError, Exit
from configs.layout import RunLayout
from configs.metrics import CATALOGUE
from tests.cluster.observability.test_monitoring import ask, filled, free_port, needs_prometheus
from tests.paths import ROOT
from tests.system.test_pipeline import TINY

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900), needs_prometheus]
SECONDS = 600.0
STEPS = 10
NEEDS_MORE = {"halves.enabled", "such a fault", "such a restart", "a GPU"}
"""`Series.when` that this run has not."""
KEPT = "[15m]"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Ray's sockets live below, and their paths must stay under 108 characters: no pytest tmp_path.
    with tempfile.TemporaryDirectory(prefix="sy-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[Head]:
    for attempt in range(3):
        try:
            found = ensure_head(folder / "state")
            break
        except ClusterError as error:  # Ray gives its node 30 s to come up, which a busy machine may miss
            if attempt == 2 or "timed out during startup" not in str(error):
                raise
    try:
        yield found
    finally:
        stop_head(folder / "state")


@pytest.fixture(scope="module")
def prometheus(folder: Path, head: Head) -> Iterator[Service]:
    discovery = head.temp_dir / "prom_metrics_service_discovery.json"
    place = folder / "monitoring"
    place.mkdir()
    write_files(place, text_files(config=prometheus_config([str(discovery)], [], interval="2s")))
    service = prometheus_service(place, free_port())
    assert service is not None
    with running([service]):
        yield service


def panel_queries() -> dict[str, str]:
    """Panel and number of its query → the query; of panels that need nothing this run lacks."""
    return {
        f"{board.title}: {panel.title}, query {index}": filled(query.expression)
        for board in BOARDS
        for panel in panels(board)
        for index, query in enumerate(panel.queries)
        if panel.needs in ("", ENGINE_METRICS)
    }


@pytest.fixture(scope="module")
def watched(folder: Path, head: Head, prometheus: Service) -> tuple[RunLayout, dict[str, str]]:
    """One tiny run; returns it, and the panels' queries that never gave anything while it ran."""
    environment = (
        clean_environment(os.environ)
        | head.environment()
        | {
            STORAGE_VARIABLE: str(folder),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
    )
    overrides = [*TINY, "name=watched", f"ppo.steps={STEPS}", "ppo.kl_budget=1000", "selection.every=2"]
    overrides.append("resources.generators.engine_metrics=true")
    rules = recording_rules()["groups"][0]["rules"]
    empty = panel_queries() | {rule["record"]: rule["record"] for rule in rules}
    log = folder / "job.log"
    with log.open("wb") as output:
        job = subprocess.Popen(
            [sys.executable, "-m", "cluster.job", "quickstart", *overrides],
            env=environment,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + SECONDS
        while job.poll() is None and time.monotonic() < deadline:
            for where, query in list(empty.items()):
                if ask(prometheus.url, query):
                    del empty[where]
            time.sleep(1.0)
    finally:
        if job.poll() is None:
            job.terminate()
            job.wait(30)
    assert job.returncode in (Exit.DONE, Exit.INFEASIBLE), log.read_text()[-2000:]
    time.sleep(6.0)  # three scrapes: the last state
    return RunLayout(folder / "watched"), empty


def last(prometheus: Service, selector: str) -> list[float]:
    """The values that series had last, also those that are gone."""
    return [float(one["value"][1]) for one in ask(prometheus.url, f"last_over_time({selector}{KEPT})")]


def test_every_panel_and_rule_has_data(watched: tuple[RunLayout, dict[str, str]]):
    assert watched[1] == {}


def test_every_series_of_the_catalogue_is_set(watched: tuple[RunLayout, dict[str, str]], prometheus: Service):
    expected = [
        f"{one.name}_count" if one.kind == "histogram" else one.exposed
        for one in CATALOGUE
        if one.when not in NEEDS_MORE
    ]
    missing = [name for name in expected if not last(prometheus, f'{name}{{run="watched"}}')]
    assert missing == []


def test_prometheus_has_the_figures_of_the_run_folder(watched: tuple[RunLayout, dict[str, str]], prometheus: Service):
    lines: list[dict[str, Any]] = [json.loads(line) for line in watched[0].metrics.read_text().splitlines()]
    assert max(last(prometheus, "steelyard_step")) == STEPS == len(lines)
    assert max(last(prometheus, "steelyard_samples_total")) == sum(line["samples"] for line in lines)
    assert max(last(prometheus, "steelyard_sample_staleness_count")) == sum(line["samples"] for line in lines)
    assert last(prometheus, "steelyard_reward")[0] == pytest.approx(lines[-1]["reward"], rel=1e-6)
    assert last(prometheus, 'steelyard_multiplier{constraint="harm"}')[0] == pytest.approx(lines[-1]["multiplier/harm"])


def test_the_last_state_reaches_prometheus(watched: tuple[RunLayout, dict[str, str]], prometheus: Service):
    assert last(prometheus, 'steelyard_run_state{state="finished"}') == [1.0]
    assert last(prometheus, 'steelyard_run_state{state="running"}') == [0.0]


def test_vllms_own_metrics_come_through_ray(watched: tuple[RunLayout, dict[str, str]], prometheus: Service):
    lines = [json.loads(line) for line in watched[0].metrics.read_text().splitlines()]
    assert sum(last(prometheus, "ray_vllm_generation_tokens_total")) >= sum(line["tokens"] for line in lines)
