"""What a run needs of this machine, looked at one by one; every shortcoming comes with its fix. Imports no engine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict

from cluster.resources.local_head import LOOPBACK, state_dir, temp_dir_for
from configs.exits import ClusterError

GIB = 2**30
PYTHONS = ((3, 11), (3, 12))
DISK_BYTES = 3 * GIB
"""Ray's session, checkpoints and models of one demo run, with room."""
MEMORY_BYTES = 12 * GIB
"""The demo's peak stays under this."""
SHM_BYTES = 1 * GIB
"""The object store (512 MiB) and gloo's segments live there."""
LOCK = Path(__file__).parents[1] / "deploy" / "images" / "cpu.lock"


class Finding(BaseModel):
    """One thing looked at. `missing`: a run cannot work without it; `note`: it works, with a drawback."""

    model_config = ConfigDict(frozen=True)
    subject: str
    verdict: Literal["ok", "note", "missing"]
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Look at everything, cheapest first."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _packages,
        _torch,
        _cores,
        _memory,
        _disk,
        _shm,
        _compiler,
        _ninja,
        _sockets,
        _ports,
    ]
    return [check() for check in checks]


def _python() -> Finding:
    present = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] in PYTHONS:
        return Finding(subject="python", verdict="ok", found=present)
    return Finding(
        subject="python",
        verdict="missing",
        found=present,
        fix="install Python 3.11 or 3.12, remove .venv, and run `make demo`",
    )


def _packages() -> Finding:
    if not LOCK.is_file():
        return Finding(
            subject="packages",
            verdict="note",
            found="no lock next to the code",
            fix="compare with the project's cpu.lock",
        )
    absent, different = compare_with_lock(LOCK.read_text(encoding="utf-8"), installed_versions())
    if absent:
        summary = (
            f"{len(absent)} of the lock are not installed ({', '.join(absent[:4])}{' …' if len(absent) > 4 else ''})"
        )
        return Finding(subject="packages", verdict="missing", found=summary, fix="run `make setup`")
    if different:
        summary = (
            f"{len(different)} differ from the lock ({', '.join(different[:4])}{' …' if len(different) > 4 else ''})"
        )
        return Finding(
            subject="packages", verdict="note", found=summary, fix="run `make setup` for the tested versions"
        )
    return Finding(subject="packages", verdict="ok", found="as in the lock")


def compare_with_lock(lock: str, installed: dict[str, str]) -> tuple[list[str], list[str]]:
    """(absent, ``name installed≠locked``) for the pins of a lock; a local version such as ``+cpu`` is no difference."""
    absent, different = [], []
    for line in lock.splitlines():
        pin = line.split("#")[0].split(";")[0].strip()
        if "==" not in pin:
            continue
        name, version = (part.strip() for part in pin.split("==", 1))
        present = installed.get(_normal(name))
        if present is None:
            absent.append(name)
        elif present.split("+")[0] != version.split("+")[0]:
            different.append(f"{name} {present}≠{version}")
    return absent, different


def installed_versions() -> dict[str, str]:
    """Version of every installed distribution, by normalised name."""
    return {
        _normal(distribution.name): distribution.version
        for distribution in importlib.metadata.distributions()
        if distribution.name
    }


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-").split("[")[0]


def _torch() -> Finding:
    """Read, not imported: a CUDA build without its libraries fails on import."""
    version = Path(sysconfig.get_path("purelib")) / "torch" / "version.py"
    if not version.is_file():
        return Finding(subject="torch", verdict="missing", found="not installed", fix="run `make setup`")
    cuda = torch_cuda_version(version.read_text(encoding="utf-8"))
    gpu = Path("/dev/nvidia0").exists()
    if cuda and not gpu:
        fix = "run `uv pip install --torch-backend=cpu --reinstall-package torch --no-deps torch==2.13.0`"
        return Finding(
            subject="torch", verdict="missing", found=f"a CUDA {cuda} build on a machine without a GPU", fix=fix
        )
    return Finding(subject="torch", verdict="ok", found=f"CUDA {cuda} build" if cuda else "CPU build")


def torch_cuda_version(version_file: str) -> str | None:
    """The CUDA version in the text of ``torch/version.py``; None for a CPU build."""
    for line in version_file.splitlines():
        name, separator, value = line.partition("=")
        if separator and name.split(":")[0].strip() == "cuda":
            return None if value.strip() == "None" else value.strip().strip("'\"")
    return None


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores >= 2:
        return Finding(subject="cores", verdict="ok", found=str(cores))
    return Finding(
        subject="cores", verdict="note", found=str(cores), fix="the demo takes about twice as long; give it two"
    )


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    present = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
    if memory.available >= MEMORY_BYTES:
        return Finding(subject="memory", verdict="ok", found=present)
    fix = "close something, or ask for less, such as resources.generators.count=1 resources.learner.ranks=1"
    return Finding(subject="memory", verdict="note", found=present, fix=fix)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    present = f"{free / GIB:.1f} GiB free here"
    if free >= DISK_BYTES:
        return Finding(subject="disk", verdict="ok", found=present)
    return Finding(
        subject="disk",
        verdict="missing",
        found=present,
        fix=f"free {DISK_BYTES / GIB:.0f} GiB, or work in a folder on another disk",
    )


def _shm() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding(subject=str(path), verdict="note", found="absent", fix="Ray uses the disk, which is slower")
    total = shutil.disk_usage(path).total
    present = f"{total / GIB:.1f} GiB"
    if total >= SHM_BYTES:
        return Finding(subject=str(path), verdict="ok", found=present)
    return Finding(subject=str(path), verdict="note", found=present, fix="in a container: --shm-size=2g")


def _compiler() -> Finding:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        fix = "install one (Debian: apt-get install g++); DeepSpeed builds its CPU communication op on first use"
        return Finding(subject="C++ compiler", verdict="missing", found="none", fix=fix)
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        fix = f"install Python's headers (Debian: apt-get install python3.{sys.version_info.minor}-dev) for DeepSpeed"
        return Finding(subject="C++ compiler", verdict="missing", found=f"{compiler}, but no Python.h", fix=fix)
    return Finding(subject="C++ compiler", verdict="ok", found=compiler)


def _ninja() -> Finding:
    in_environment = Path(sys.executable).parent / "ninja"
    ninja = str(in_environment) if in_environment.exists() else shutil.which("ninja")
    if ninja:
        return Finding(subject="ninja", verdict="ok", found=ninja)
    return Finding(subject="ninja", verdict="missing", found="none", fix="run `make setup` (DeepSpeed builds with it)")


def _sockets() -> Finding:
    try:
        folder = temp_dir_for(state_dir())
    except ClusterError as error:
        return Finding(subject="socket paths", verdict="missing", found=str(error), fix="set TMPDIR")
    where = (
        "in .steelyard"
        if folder.is_relative_to(state_dir().resolve())
        else f"too long here, so Ray's temp folder is {folder}"
    )
    return Finding(subject="socket paths", verdict="ok", found=where)


def _ports() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
    except OSError as error:
        return Finding(
            subject="ports",
            verdict="missing",
            found=f"none on {LOOPBACK} ({error.strerror})",
            fix="bring up the loopback interface",
        )
    return Finding(subject="ports", verdict="ok", found=f"free ones on {LOOPBACK}")
