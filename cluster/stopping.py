"""How a job ends when it is stopped: SIGTERM, then SIGKILL when Ray's patience is over (RAY_JOB_STOP_WAIT_TIME_S, 3 s).

What must be whole is written beside its name and moved there, so nothing has to be saved within that time: the newest
checkpoint is intact whenever the end comes. Within it the run says that it was stopped, and its actors are ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from cluster.status import read_status, replace_text
from configs.exits import Exit, StoppedError

GRACE_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
RAYS_GRACE_SECONDS = 3.0
GRACE_SECONDS = 15
"""What a job that we submit is given."""
STOPPED = "the run was stopped; the same command goes on where it stopped"
RESERVE_SECONDS = 0.7
"""Of the grace, for the process itself to end."""

_asked_at: list[float] = []


def grace_seconds() -> float:
    """What Ray gives this job between SIGTERM and SIGKILL."""
    text = os.environ.get(GRACE_VARIABLE, "")
    return float(text) if text.isdigit() else RAYS_GRACE_SECONDS


def stop_on_sigterm(status: Path) -> None:
    """On SIGTERM end as a stopped run that can go on later, within the grace whatever hangs. Only after ray.init does
    this take.

    Args:
        status: the run's ``status.json``.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if _asked_at:  # raising again would break off the tidying up
            return
        _asked_at.append(time.monotonic())
        threading.Thread(target=_end_hard, args=(status,), name="end-in-time", daemon=True).start()
        raise StoppedError(STOPPED)

    if threading.current_thread() is threading.main_thread():
        _asked_at.clear()
        signal.signal(signal.SIGTERM, stop)


def _end_hard(status: Path) -> None:
    """The whole process ends before Ray kills it; Ray then ends the actors that are left."""
    time.sleep(max(0.5, grace_seconds() - RESERVE_SECONDS))
    if (last := read_status(status)) is not None and last.state in ("starting", "running"):
        replace_text(status, last.model_copy(update={"state": "stopped", "message": STOPPED}).model_dump_json(indent=1))
    print("error: the run was stopped; what was still busy was cut off", file=sys.stderr, flush=True)
    os._exit(Exit.STOPPED)
