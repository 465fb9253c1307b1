"""Ray jobs through the SDK: what is uploaded, submit, look up, stop.

What a job runs is a staged copy of the five rooms beside the resolved configuration (``submitted.yaml``): no virtual
environment, no runs, no absolute path of the submitter's checkout, and the same bytes for the same code.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cluster.head import own_cluster_only
from cluster.inputs import absolute_paths
from configs.exits import ClusterError
from configs.load import dump_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ROOMS = ("configs", "learner", "actors", "serving", "cluster")
UPLOAD_LIMIT_BYTES = 50 * 2**20
CONFIG_NAME = "submitted.yaml"
JOB_OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
WORLD_NAME = "submitted_world.json"
STORAGE_VARIABLE = "STEELYARD_STORAGE"
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.lock")


class Job(Protocol):
    """What following needs of a job."""

    @property
    def id(self) -> str:
        """Its submission id."""
        ...

    def state(self) -> str:
        """Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        ...

    def exit_code(self) -> int | None:
        """Of the entrypoint, once it is over."""
        ...

    def last_log_lines(self, count: int) -> list[str]:
        """The end of its output."""
        ...


@dataclass(frozen=True)
class RayJob:
    """A job on some cluster, by submission id."""

    client: JobSubmissionClient
    id: str

    def state(self) -> str:
        """See `Job.state`."""
        return str(self._info().status.value)

    def exit_code(self) -> int | None:
        """See `Job.exit_code`."""
        return self._info().driver_exit_code

    def message(self) -> str:
        """What Ray says about its end."""
        return self._info().message or ""

    def last_log_lines(self, count: int) -> list[str]:
        """See `Job.last_log_lines`."""
        with _cluster_errors(f"the log of job {self.id}"):
            return [line for line in self.client.get_job_logs(self.id).splitlines() if line.strip()][-count:]

    def stop(self) -> None:
        """Ask it to end: SIGTERM to its process group, SIGKILL 3 s later (Ray's RAY_JOB_STOP_WAIT_TIME_S)."""
        with _cluster_errors(f"stopping job {self.id}"):
            self.client.stop_job(self.id)

    def _info(self) -> JobDetails:
        with _cluster_errors(f"the state of job {self.id}"):
            return self.client.get_job_info(self.id)


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at `address`, whatever RAY_ADDRESS says.

    Raises:
        ClusterError: nothing answers there.
    """
    with _cluster_errors(f"the cluster at {address}"):
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)  # its notes on uploads are no news to whoever submits
        with own_cluster_only():
            return JobSubmissionClient(address)


def submit(
    client: JobSubmissionClient,
    settings: RunSettings,
    *,
    storage: Path,
    local: bool,
) -> RayJob:
    """Upload code and configuration, and start the job.

    Args:
        client: of the cluster.
        settings: resolved and checked.
        storage: absolute folder that will hold the run, as the cluster's nodes see it.
        local: on our own head: its Python is this one, and it sees this machine's files.

    Raises:
        ClusterError: the upload is too large, or the cluster refused it.
    """
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        staged = Path(folder) / "job"
        stage_working_dir(staged, settings, local=local)
        python = shlex.quote(sys.executable) if local else "python"
        submission_id = f"{settings.name}-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 1000:03d}"
        with _cluster_errors(f"submitting {settings.name}"), own_cluster_only():
            client.submit_job(
                entrypoint=f"{python} -m cluster.job {CONFIG_NAME}",
                submission_id=submission_id,
                metadata={"run": settings.name},
                runtime_env={"working_dir": str(staged), "env_vars": {STORAGE_VARIABLE: str(storage)}},
            )
    return RayJob(client, submission_id)


def stage_working_dir(folder: Path, settings: RunSettings, *, local: bool) -> None:
    """Copy the rooms and write the resolved configuration; a remote cluster also gets the world's file.

    Raises:
        ClusterError: more than `UPLOAD_LIMIT_BYTES`.
    """
    source = Path(__file__).resolve().parent.parent
    folder.mkdir(parents=True)
    for room in ROOMS:
        shutil.copytree(source / room, folder / room, ignore=_LEFT_OUT)
    if settings.sandbox.world is not None and not local:
        shutil.copyfile(settings.sandbox.world, folder / WORLD_NAME)
        sandbox = settings.sandbox.model_copy(update={"world": Path(WORLD_NAME)})
        settings = settings.model_copy(update={"sandbox": sandbox})
    settings = absolute_paths(settings, Path.cwd())  # the job runs in the copied folder
    (folder / CONFIG_NAME).write_text(dump_settings(settings), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > UPLOAD_LIMIT_BYTES:
        raise ClusterError(
            f"the code to upload is {size / 2**20:.0f} MiB, over {UPLOAD_LIMIT_BYTES / 2**20:.0f}: take data out of it"
        )


def jobs_of_run(client: JobSubmissionClient, run: str) -> list[RayJob]:
    """Jobs of this run that have not ended."""
    with _cluster_errors("the list of jobs"):
        details = client.list_jobs()
    return [
        RayJob(client, each.submission_id)
        for each in details
        if each.submission_id and (each.metadata or {}).get("run") == run and not each.status.is_terminal()
    ]


def any_job_active(client: JobSubmissionClient) -> bool:
    """Whether the cluster still works on some job."""
    with _cluster_errors("the list of jobs"):
        return any(not each.status.is_terminal() for each in client.list_jobs())


@contextlib.contextmanager
def _cluster_errors(what: str) -> Iterator[None]:
    """The SDK raises RuntimeError for a refused call and ConnectionError where nobody answers."""
    import requests

    try:
        yield
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise ClusterError(
            f"{what}: no answer ({type(error).__name__}); is it running, and is the address right?"
        ) from error
    except RuntimeError as error:
        raise ClusterError(f"{what}: {' '.join(str(error).split())[:300]}") from error
