"""Our own Ray head on loopback: own ports, own temp folder, own pid file under ``.steelyard/``.

Invariant: nothing here touches another Ray cluster. Every port is one that was free; ``RAY_ADDRESS`` and its kin are
ignored; stopping signals only the processes recorded in our file, and only if their creation time still matches
(``ray stop`` would end every cluster of the machine).

Loopback is open to every user of the machine, so the head asks for a token: ``auth_token`` next to the record, mode 0600.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.resources import auth
from cluster.run_folder.status import replace_text
from configs.exits import ClusterError

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 512 * 2**20
LOGICAL_CPUS = 8
"""Ray's CPUs are slots for placement, not cores: on a small machine the roles of a run share the cores they find."""
SOCKET_PATH_LIMIT = 107
"""Bytes of an AF_UNIX path on Linux (sun_path, less its closing zero)."""
SESSION_PATH_LENGTH = 72
"""What Ray adds to its temp folder: ``/session_<date>_<microseconds>_<pid>/sockets/<longest socket>``, with room."""
START_SECONDS = 120.0
STOP_SECONDS = 15.0
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "object-manager-port",
    "node-manager-port",
    "ray-client-server-port",
)


class ProcessRecord(BaseModel):
    """A process of ours: the pid alone could by now belong to somebody else."""

    model_config = ConfigDict(frozen=True)
    pid: int
    created: float

    def process(self) -> psutil.Process | None:
        """The live process, or None if it is gone or the pid is another's now."""
        try:
            process = psutil.Process(self.pid)
            alive = abs(process.create_time() - self.created) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


class Head(BaseModel):
    """A running head, as recorded in ``head.json``."""

    model_config = ConfigDict(frozen=True)
    main: ProcessRecord
    children: tuple[ProcessRecord, ...] = ()
    gcs_address: str
    dashboard_url: str
    temp_dir: Path
    log: Path
    started_seconds: float
    token_file: Path | None = None
    """None of a head that an older Steelyard started."""

    def token(self) -> str | None:
        """What it asks for. Raises ConfigError when the file cannot be used."""
        return None if self.token_file is None else auth.read_token_file(self.token_file)

    def environment(self) -> dict[str, str]:
        """What a process must have to join it, besides `clean_environment`; before that process imports Ray."""
        return {"RAY_ADDRESS": self.gcs_address} | token_environment(self.token_file)

    def alive(self) -> bool:
        """Whether its main process lives."""
        return self.main.process() is not None


def state_dir() -> Path:
    """``.steelyard/`` of the folder you are in."""
    return Path.cwd() / ".steelyard"


def find_head(state: Path) -> Head | None:
    """The recorded head if it lives; a stale record is removed."""
    record = state / "head.json"
    try:
        head = Head.model_validate_json(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
    if head.alive():
        return head
    _signal_all(head.children, signal.SIGKILL)
    record.unlink(missing_ok=True)
    return None


def ensure_head(state: Path, *, num_cpus: int | None = None) -> Head:
    """The running head, or a new one.

    Args:
        state: folder of its pid file and log.
        num_cpus: logical CPUs; by default the machine's, at least `LOGICAL_CPUS`.

    Raises:
        ClusterError: it did not start; the message has the last lines of its log.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(state / "head.lock"):
        head = find_head(state)
        if head is not None and _answers(head):
            return head
        if head is not None:
            _stop(head, state)
        return _start(state, num_cpus or max(os.cpu_count() or 1, LOGICAL_CPUS))


def stop_head(state: Path) -> bool:
    """Stop our head, if one runs; whether one did."""
    if not state.is_dir():
        return False
    with _locked(state / "head.lock"):
        head = find_head(state)
        if head is None:
            return False
        _stop(head, state)
        return True


def remove_head_files(state: Path) -> None:
    """Delete what a stopped head left: its sessions with their logs, which are kept until the next start."""
    if find_head(state) is None:
        temp_dir = temp_dir_for(state)
        shutil.rmtree(temp_dir, ignore_errors=True)
        if temp_dir.parent != state.resolve():
            shutil.rmtree(temp_dir.parent, ignore_errors=True)


def temp_dir_for(state: Path) -> Path:
    """Ray's temp folder: under `state` if socket paths fit there, else a short one of this user under the system's."""
    temp_dir = state.resolve() / "ray"  # Ray opens its temp folder to all, so the folder around it is private
    if len(os.fsencode(temp_dir)) + SESSION_PATH_LENGTH <= SOCKET_PATH_LIMIT and " " not in str(temp_dir):
        return temp_dir
    digest = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:6]
    for root in (tempfile.gettempdir(), "/tmp"):
        short = Path(root) / f"sy{os.getuid()}-{digest}" / "r"
        if len(os.fsencode(short)) + SESSION_PATH_LENGTH <= SOCKET_PATH_LIMIT:
            return short
    raise ClusterError(
        f"the temp folder {tempfile.gettempdir()} is too long for Ray's sockets: set TMPDIR to a shorter one"
    )


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Ray sees neither another cluster nor a proxy between it and loopback."""
    dropped = (
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "RAY_NAMESPACE",
        "RAY_TMPDIR",
        "RAY_RUNTIME_ENV_HOOK",
        "RAY_JOB_ID",
    )
    passed_on = {
        name: value for name, value in environment.items() if name not in dropped and not name.startswith("RAY_AUTH_")
    }
    no_proxy = ",".join(
        filter(None, [environment.get("no_proxy") or environment.get("NO_PROXY"), LOOPBACK, "localhost"])
    )
    return passed_on | {
        # So that `python` is ours for whatever the head starts, and DeepSpeed finds the environment's ninja.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}",
        "no_proxy": no_proxy,
        "NO_PROXY": no_proxy,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Despite its name, this is the switch that makes Ray bind every port to loopback instead of all interfaces
        # (`ray start` turns --node-ip-address=127.0.0.1 into the machine's address). Ray 2.60: get_node_ip_address in
        # https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/services.py
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def token_environment(token_file: Path | None) -> dict[str, str]:
    """The variables by which Ray asks for, or shows, the token of a file; none: no authentication."""
    if token_file is None:
        return {auth.MODE: "disabled"}
    return {auth.MODE: "token", auth.TOKEN_PATH: str(token_file)}


@contextlib.contextmanager
def own_cluster_only() -> Iterator[None]:
    """Ray's clients prefer RAY_ADDRESS even to an explicit address; inside, this process has none."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(clean_environment(before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _start(state: Path, num_cpus: int) -> Head:
    temp_dir = temp_dir_for(state)
    _own_private_folder(temp_dir)
    _remove_sessions(temp_dir)
    log = state / "head.log"
    token_file = auth.make_token_file(state.resolve() / "auth_token")
    began = time.monotonic()
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS) + 2), strict=False))
    autoscaler_port, dashboard_metrics_port = _free_ports(2)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=true"]
    command += [f"--node-ip-address={LOOPBACK}", f"--dashboard-host={LOOPBACK}", f"--temp-dir={temp_dir}"]
    command += [f"--num-cpus={num_cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    environment = (
        clean_environment(os.environ)
        | token_environment(token_file)
        | {
            "AUTOSCALER_METRIC_PORT": str(autoscaler_port),
            "DASHBOARD_METRIC_PORT": str(dashboard_metrics_port),
            "PYTHONUNBUFFERED": "1",
        }
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=temp_dir,
            start_new_session=True,
        )
    head = Head(
        main=_record(psutil.Process(process.pid)),
        gcs_address=f"{LOOPBACK}:{ports['port']}",
        dashboard_url=f"http://{LOOPBACK}:{ports['dashboard-port']}",
        temp_dir=temp_dir,
        log=log,
        started_seconds=0.0,
        token_file=token_file,
    )
    _save(head, state)
    try:
        _wait_until_ready(process, head)
    except BaseException:  # also on Ctrl-C: leave no half-started head behind
        _stop(head, state)
        raise
    children = tuple(_record(child) for child in psutil.Process(process.pid).children(recursive=True))
    head = head.model_copy(update={"children": children, "started_seconds": time.monotonic() - began})
    _save(head, state)
    return head


def _wait_until_ready(process: subprocess.Popen[bytes], head: Head) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (_runtime_started(head.log) and _answers(head)):
        if process.poll() is not None:
            raise ClusterError(
                f"the local Ray head ended while starting (exit {process.returncode}): {_last_words(head.log)}"
            )
        if time.monotonic() > deadline:
            raise ClusterError(f"the local Ray head did not answer within {START_SECONDS:g} s: {_last_words(head.log)}")
        time.sleep(0.2)


def _runtime_started(log: Path) -> bool:
    """Ray says so once the raylet is up; the dashboard answers seconds before that."""
    return "Ray runtime started" in log.read_text(encoding="utf-8", errors="replace")


def _answers(head: Head) -> bool:
    """Whether the dashboard takes jobs: its job API answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = auth.bearer(head.token())
    request = urllib.request.Request(f"{head.dashboard_url}/api/jobs/", headers=headers)  # noqa: S310  our own http
    try:
        with opener.open(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(head: Head, state: Path) -> None:
    main = head.main.process()
    ours = list(head.children)
    if main is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            ours += [_record(child) for child in main.children(recursive=True)]
        _signal_all([head.main], signal.SIGTERM)
        _wait_gone([head.main], STOP_SECONDS)
    ours.append(head.main)
    _wait_gone(ours, 3.0)
    _signal_all(ours, signal.SIGKILL)
    _wait_gone(ours, STOP_SECONDS)
    (state / "head.json").unlink(missing_ok=True)


def _signal_all(records: list[ProcessRecord] | tuple[ProcessRecord, ...], signal_number: signal.Signals) -> None:
    for record in records:
        process = record.process()
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal_number)


def _wait_gone(records: list[ProcessRecord], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(record.process() for record in records):
        time.sleep(0.1)
    with contextlib.suppress(ChildProcessError):  # reap it if this very process started it
        os.waitpid(records[-1].pid, os.WNOHANG)


def _record(process: psutil.Process) -> ProcessRecord:
    return ProcessRecord(pid=process.pid, created=process.create_time())


def _save(head: Head, state: Path) -> None:
    replace_text(state / "head.json", head.model_dump_json(indent=1))


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind((LOOPBACK, 0))
        return [int(bound.getsockname()[1]) for bound in sockets]


def _remove_sessions(temp_dir: Path) -> None:
    for session in temp_dir.glob("session_*"):
        if session.is_symlink():
            session.unlink(missing_ok=True)
        else:
            shutil.rmtree(session, ignore_errors=True)


def _own_private_folder(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = path.parent.stat().st_uid
    if owner != os.getuid():
        raise ClusterError(f"{path.parent} belongs to another user (uid {owner}): set TMPDIR to a folder of your own")
    path.parent.chmod(0o700)
    path.mkdir(exist_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One starter or stopper at a time per state folder."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _last_words(log: Path, lines: int = 3) -> str:
    last_lines = [
        line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    return f"{' | '.join(last_lines[-lines:])[-400:] or 'it said nothing'} (log: {log})"
