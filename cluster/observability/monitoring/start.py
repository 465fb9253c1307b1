"""Prometheus and Grafana as processes of ours, on loopback, until somebody ends us."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.exits import ClusterError

LOOPBACK = "127.0.0.1"
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
GRAFANA_HOMES = ("/usr/share/grafana", "/opt/grafana", "/usr/local/share/grafana")
"""Where packages put what the server needs next to its binary."""


@dataclass(frozen=True)
class Service:
    """One process and where it answers."""

    name: str
    command: tuple[str, ...]
    url: str
    ready: str
    """Path that answers 200 once it serves."""
    environment: Mapping[str, str]
    log: Path


def prometheus_service(folder: Path, port: int) -> Service | None:
    """Prometheus with the folder's configuration; None where there is no binary."""
    binary = shutil.which("prometheus")
    if binary is None:
        return None
    command = (
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={LOOPBACK}:{port}",
    )
    return Service("Prometheus", command, _url(port), "/-/ready", {}, folder / "prometheus.log")


def grafana_service(folder: Path, port: int) -> Service | None:
    """Grafana with the folder's provisioning: everyone on loopback may look, no one may log in; None without a binary."""
    binary = shutil.which("grafana") or shutil.which("grafana-server")
    if binary is None:
        return None
    home = next((path for path in GRAFANA_HOMES if Path(path).is_dir()), str(Path(binary).resolve().parent.parent))
    server = ("server",) if Path(binary).name == "grafana" else ()
    settings = {
        "GF_SERVER_HTTP_ADDR": LOOPBACK,
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(folder / "grafana"),
        "GF_PATHS_LOGS": str(folder / "grafana"),
        "GF_PATHS_PROVISIONING": str(folder / "provisioning"),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_AUTH_DISABLE_LOGIN_FORM": "true",
        "GF_AUTH_BASIC_ENABLED": "false",
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    return Service(
        "Grafana", (binary, *server, f"--homepath={home}"), _url(port), "/api/health", settings, folder / "grafana.log"
    )


@contextmanager
def running(services: Sequence[Service]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start them, wait until all answer, and end them with the block.

    Raises:
        ClusterError: a port is taken, or one ended or did not answer; the message has the end of its log.
    """
    with ExitStack() as stack:
        processes = []
        for service in services:
            processes.append(_start(service))
            stack.callback(_stop, processes[-1])
        for service, process in zip(services, processes, strict=True):
            _wait_ready(service, process)
        yield processes


def watch(services: Sequence[Service], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until one ends by itself.

    Raises:
        ClusterError: it did.
    """
    while True:
        for service, process in zip(services, processes, strict=True):
            if process.poll() is not None:
                raise ClusterError(f"{service.name} ended (exit {process.returncode}): {_last_words(service.log)}")
        time.sleep(1.0)


def _start(service: Service) -> subprocess.Popen[bytes]:
    port = int(service.url.rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ClusterError(
                f"port {port} on {LOOPBACK} for {service.name}: {error.strerror}; end what uses it, or give another one"
            ) from error
    with service.log.open("wb") as output:
        return subprocess.Popen(
            service.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **service.environment},
            start_new_session=True,
        )


def _wait_ready(service: Service, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _answers(service.url + service.ready):
        if process.poll() is not None:
            raise ClusterError(
                f"{service.name} ended while starting (exit {process.returncode}): {_last_words(service.log)}"
            )
        if time.monotonic() > deadline:
            raise ClusterError(f"{service.name} did not answer within {READY_SECONDS:g} s: {_last_words(service.log)}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(log: Path, lines: int = 3) -> str:
    last_lines = [
        line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    return f"{' | '.join(last_lines[-lines:])[-400:] or 'it said nothing'} (log: {log})"


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"
