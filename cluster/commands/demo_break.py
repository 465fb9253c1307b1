"""`steelyard demo --break generator`: kill one generator in the middle, to see the run go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil

from cluster.resources.local_head import Head
from cluster.run_folder.status import RunStatus

VICTIM = "generator-1"


class GeneratorBreaker:
    """Kills the victim once, when PPO is a third through. An `Observer` of `cluster.jobs.follow`."""

    def __init__(self, head: Head, say: Callable[[str], None]) -> None:
        self._head = head
        self._say = say
        self.killed_pid: int | None = None

    def __call__(self, status: RunStatus) -> None:
        """Look at one status; act at most once."""
        if self.killed_pid is not None or not moment_has_come(status):
            return
        pid = next((generator.pid for generator in status.generators if generator.name == VICTIM), None)
        if pid is None or not self._is_ours(pid):
            return
        os.kill(pid, signal.SIGKILL)
        self.killed_pid = pid
        self._say(
            f"Killed {VICTIM} (pid {pid}) at step {status.step} of {status.steps}; the run goes on with the others."
        )

    def _is_ours(self, pid: int) -> bool:
        """Only ever a Ray worker of this user that descends from our own head."""
        try:
            process = psutil.Process(pid)
            ancestors = {parent.pid for parent in process.parents()}
            named_by_ray = process.name().startswith("ray::") or any(
                part.startswith("ray::") for part in process.cmdline()
            )
            return named_by_ray and self._head.main.pid in ancestors and process.uids().real == os.getuid()
        except psutil.NoSuchProcess:
            return False


def moment_has_come(status: RunStatus) -> bool:
    """Whether PPO is a third through."""
    return status.state == "running" and status.stage == "ppo" and 0 < status.steps <= 3 * status.step
