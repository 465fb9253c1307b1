"""How a job ends when it is stopped: SIGTERM, then SIGKILL when Ray's patience is over (RAY_JOB_STOP_WAIT_TIME_S, 3 s).

What must be whole is written next to its name and moved there: the newest checkpoint is intact whenever the end comes. Where
the grace has room for it, the loop ends its step and writes a checkpoint first (`finishing_steps`). Then the run says that it
was stopped, and its actors are ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cluster.run_folder.status import read_status, replace_text
from configs.exits import Exit, StopRequested

GRACE_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
RAYS_GRACE_SECONDS = 3.0
GRACE_SECONDS = 120
"""What a job that we submit is given; one that ends earlier does not wait for it."""
STOPPED = "the run was stopped; the same command goes on where it stopped"
RESERVE_SECONDS = 0.7
"""Of the grace, for the process itself to end."""
CHECKPOINT_GRACE_SECONDS = 60.0
"""With a shorter grace the loop is stopped in the middle of its step."""
STEP_SHARE = 0.5
"""Of the grace, for the step to end; the rest is for the checkpoint and the actors."""


@dataclass
class _Stop:
    """What this process knows of a request to stop."""

    asked: bool = False
    raised: bool = False
    """The run is ending: raising again would break off the tidying up."""
    in_steps: bool = False
    """The loop is running, and looks after every step."""
    noticed: threading.Event = field(default_factory=threading.Event)
    """By the loop."""


_stop = _Stop()


def grace_seconds() -> float:
    """What Ray gives this job between SIGTERM and SIGKILL."""
    text = os.environ.get(GRACE_VARIABLE, "")
    return float(text) if text.isdigit() else RAYS_GRACE_SECONDS


def grace_to_send() -> str:
    """Seconds for a job that we submit: what the submitter's own environment says, else `GRACE_SECONDS`."""
    text = os.environ.get(GRACE_VARIABLE, "")
    return text if text.isdigit() else str(GRACE_SECONDS)


def stop_on_sigterm(status: Path) -> None:
    """On SIGTERM end as a stopped run that can go on later, within the grace whatever hangs. Only after ray.init does
    this take.

    Args:
        status: the run's ``status.json``.
    """
    global _stop

    def stop(_signal: int, _frame: FrameType | None) -> None:
        first, _stop.asked = not _stop.asked, True
        waits = first and _stop.in_steps and grace_seconds() >= CHECKPOINT_GRACE_SECONDS
        if first:
            threading.Thread(target=_end_in_time, args=(status, waits), name="end-in-time", daemon=True).start()
        if not waits and not _stop.raised:
            _stop.raised = True
            raise StopRequested(STOPPED)

    if threading.current_thread() is threading.main_thread():
        _stop = _Stop()
        signal.signal(signal.SIGTERM, stop)


@contextmanager
def finishing_steps() -> Iterator[Callable[[], bool]]:
    """While the block runs, a request to stop waits for the end of the step, where the grace has room for that.

    The block is given a function to ask after a step: whether to write a checkpoint and raise `StopRequested`. A second
    request raises it at once, and so does a step that takes half of the grace. So late comes also a request that no one
    asked about, since there was no other step.
    """

    def is_asked() -> bool:
        if _stop.asked:
            _stop.noticed.set()
        return _stop.asked

    _stop.in_steps = True
    try:
        yield is_asked
    except BaseException:
        _stop.raised |= _stop.asked  # the run ends by this error already
        raise
    finally:
        _stop.in_steps = False


def _end_in_time(status: Path, waits: bool) -> None:
    """Breaks off a step that takes too long. Then the whole process ends before Ray kills it; Ray ends the actors left."""
    end = time.monotonic() + max(0.5, grace_seconds() - RESERVE_SECONDS)
    if waits:
        print("asked to stop: this step is ended and a checkpoint written first", file=sys.stderr, flush=True)
        main = threading.main_thread().ident
        if not _stop.noticed.wait(STEP_SHARE * grace_seconds()) and main is not None:
            signal.pthread_kill(main, signal.SIGTERM)  # as if asked again
    time.sleep(max(0.0, end - time.monotonic()))
    if (last := read_status(status)) is not None and last.state in ("starting", "running"):
        replace_text(status, last.model_copy(update={"state": "stopped", "message": STOPPED}).model_dump_json(indent=1))
    print("error: the run was stopped; what was still busy was cut off", file=sys.stderr, flush=True)
    os._exit(Exit.STOPPED)
