"""What Ray shows of the job that this process is: its metadata and message in the dashboard and the job API, kept current.

Ray has no public call that changes the metadata of a job that runs. A job's record is JSON in the cluster's key-value
store, where the dashboard reads it at every look; this process changes two fields of it. That is safe because Ray itself
writes the record only before the job's process starts and after it has ended. A job that was not submitted has no record.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.jobs.follow import measure_text, status_line
from cluster.resources.placement_groups import say_waiting
from cluster.run_folder.round_names import split_name
from cluster.run_folder.status import OVER, OnStatus, RunStatus, read_status, replace_text
from configs.exits import request_to_stop
from configs.layout import RunLayout

WRITE_SECONDS = 1.0
"""At least so long between two writes: steps may be short, and each write is two calls of the head node."""

_log = logging.getLogger(__name__)


def card_of(status: RunStatus) -> dict[str, str]:
    """The metadata of a job whose run has this status; Ray takes texts only."""
    stage, number = split_name(status.stage)
    card = {
        "run": status.run,
        "job_name": status.run,
        "run_attempt": str(status.attempt),
        "state": status.state,
        "stage": stage,
        "stages": f"{status.stage_index}/{status.stages_total}",
        "round": str(number),
        "step": f"{status.step}/{status.steps}" if status.steps else "",
        "message": status.message,
    }
    card |= {f"constraint {name}": measure_text(name, measure) for name, measure in status.measures.items()}
    card |= {
        generator.name: f"{generator.state}, weight version {generator.weight_version}"
        for generator in status.generators
    }
    return card


def status_of(card: dict[str, str]) -> RunStatus | None:
    """As much of a status as a card tells, for one who cannot see the run's folder; None before the job wrote one."""
    if "state" not in card:
        return None
    step, _, steps = card.get("step", "").partition("/")
    index, _, total = card.get("stages", "").partition("/")
    stage, number = card.get("stage", ""), int(card.get("round", "1"))
    measures = [text for name, text in card.items() if name.startswith("constraint ")]
    return RunStatus.model_validate(
        {
            "run": card.get("run", ""),
            "state": card["state"],
            "stage": stage if number == 1 else f"round-{number}/{stage}",
            "stage_index": int(index or 0),
            "stages_total": int(total or 0),
            "step": int(step or 0),
            "steps": int(steps or 0),
            "message": "; ".join(text for text in (*measures, card.get("message")) if text),
        }
    )


def submission_id() -> str | None:
    """Of the job that this process is; None if it was not submitted."""
    text = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    submission = json.loads(text).get("metadata", {}).get("job_submission_id") if text else None
    return None if submission is None else str(submission)


class JobCard:
    """Writes the newest status into the job's record, from a thread of its own. After `ray.init`.

    Example::

        card = JobCard(submission_id()); card.show(status); card.close()
    """

    def __init__(self, job: str | None) -> None:
        self._job = job
        self._newest: RunStatus | None = None
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write_often, name="job-card", daemon=True)
        if job is not None:
            self._thread.start()

    def show(self, status: RunStatus) -> None:
        """Take a status; returns at once."""
        self._newest = status
        self._changed.set()

    def close(self) -> None:
        """Write the last status and end; waits at most as long as two writes may take."""
        self._closing.set()
        self._changed.set()
        if self._job is not None:
            self._thread.join(2 * WRITE_SECONDS)

    def _write_often(self) -> None:
        from ray.exceptions import RayError

        written: RunStatus | None = None
        while True:
            self._changed.wait()
            closing = self._closing.is_set()
            self._changed.clear()
            if self._newest is not None and self._newest is not written:
                written = self._newest
                try:
                    _write(str(self._job), written)
                except (RayError, OSError, ValueError) as error:  # what is shown must never end what is done
                    _log.warning("the job's metadata could not be written: %s", error)
            if closing:
                return
            self._closing.wait(WRITE_SECONDS)


class Followers:
    """Those who follow this job's run: through Ray's record of the job, ``status.json``, or in this process.

    Args:
        on_status: is shown every status.
    """

    def __init__(self, run: str, layout: RunLayout, on_status: OnStatus | None) -> None:
        self._card, self._path, self._on_status = JobCard(submission_id()), layout.status, on_status
        self._last = RunStatus(run=run, attempt=layout.attempts() + 1, pid=os.getpid())

    def show(self, status: RunStatus) -> None:
        """One that was written to ``status.json``."""
        self._last = status
        self._card.show(status)
        if self._on_status is not None:
            self._on_status(status)

    def tell_waiting(self, text: str) -> None:
        """What the run waits for before it begins, and so before it has a status of its own; nothing: it goes on."""
        say_waiting(text)
        self._write(self._last.model_copy(update={"message": text}))

    def end(self, error: BaseException) -> None:
        """The job ends by an error; a run that has not come to an end of its own is over too."""
        if self._last.state in OVER:
            return
        stop_request = request_to_stop(error)
        state, reason = ("failed", error) if stop_request is None else ("stopped", stop_request)
        final_status = self._last.model_copy(update={"state": state, "message": " ".join(str(reason).split())})
        written = read_status(self._path)
        if written is None or written.state in OVER:  # of an earlier attempt: this one has changed nothing
            self.show(final_status)
        else:
            self._write(final_status)

    def close(self) -> None:
        """The job's record has the last status."""
        self._card.close()

    def _write(self, status: RunStatus) -> None:
        replace_text(self._path, status.model_dump_json(indent=1))
        self.show(status)


@contextmanager
def shown(run: str, layout: RunLayout, on_status: OnStatus | None) -> Iterator[Followers]:
    """Followers who are told how the block ends. After `ray.init`."""
    followers = Followers(run, layout, on_status)
    try:
        yield followers
    except BaseException as error:
        followers.end(error)
        raise
    finally:
        followers.close()


def _write(job: str, status: RunStatus) -> None:
    from ray._private.ray_constants import KV_NAMESPACE_JOB
    from ray.dashboard.modules.job.common import JobInfoStorageClient
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=job)
    text = _internal_kv_get(key, namespace=KV_NAMESPACE_JOB)
    if text is None:
        return
    record: dict[str, Any] = json.loads(text)
    if record.get("status") != "RUNNING":  # Ray has closed it
        return
    foreign = {name: value for name, value in (record.get("metadata") or {}).items() if not _of_a_run(name)}
    record |= {"metadata": foreign | card_of(status), "message": status_line(status)}
    _internal_kv_put(key, json.dumps(record), overwrite=True, namespace=KV_NAMESPACE_JOB)


def _of_a_run(name: str) -> bool:
    """Entries of another arm or of a generator that is no more must not stay."""
    return name.startswith(("constraint ", "generator-"))
