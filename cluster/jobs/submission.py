"""Ray jobs through the SDK: what is uploaded, submit, look up, stop.

What a job runs is a staged copy of the five rooms next to the resolved configuration (``submitted.yaml``): no virtual
environment, no runs, no absolute path of the submitter's checkout, and the same bytes for the same code. Where the image of
the cluster's nodes holds Steelyard, nothing is uploaded, and the configuration travels as an environment variable.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cluster.inputs.sources import absolute_paths
from cluster.jobs.resume import cut_place
from cluster.resources import auth
from cluster.resources.connection import STORAGE_VARIABLE
from cluster.resources.local_head import find_head, own_cluster_only, state_dir
from cluster.resources.stopping import GRACE_VARIABLE, grace_to_send
from configs.exits import ClusterError, ConfigError
from configs.layout import RunLayout
from configs.load import dump_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ROOMS = ("configs", "learner", "actors", "serving", "cluster")
UPLOAD_LIMIT_BYTES = 50 * 2**20
CONFIG_NAME = "submitted.yaml"
JOB_OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
WORLD_NAME = "submitted_world.json"
CONFIG_VARIABLE = "STEELYARD_CONFIG"
"""Holds the resolved configuration of a job that nothing was uploaded for."""
FROM_ENVIRONMENT = "--from-environment"
RESUME = "--resume"
ANSWER_SECONDS = 20.0
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
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

    def metadata(self) -> dict[str, str]:
        """What the submitter and the job itself say of it (`cluster.jobs.job_metadata`)."""
        return dict(self._info().metadata or {})

    def stop(self) -> None:
        """Ask it to end: SIGTERM, and SIGKILL after its grace (`cluster.resources.stopping`)."""
        with _cluster_errors(f"stopping job {self.id}"):
            self.client.stop_job(self.id)

    def wait_over(self, seconds: float) -> bool:
        """Wait until it has ended; whether it has."""
        deadline = time.monotonic() + seconds
        while self.state() not in JOB_OVER:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _info(self) -> JobDetails:
        with _cluster_errors(f"the state of job {self.id}"):
            return self.client.get_job_info(self.id)


def connect(address: str, token: str | None = None) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at `address`, whatever RAY_ADDRESS says, with the token for it.

    Args:
        token: none looks for it (`token_for`).

    Raises:
        ClusterError: nothing answers there, or it refuses the token. ConfigError: the token file cannot be used.
    """
    address = (address if "://" in address else f"http://{address}").rstrip("/")
    token = token or token_for(address)
    with _cluster_errors(f"the cluster at {address}"):
        from ray.job_submission import JobSubmissionClient

        for name in _TALKATIVE:  # their notes on uploads are no news to a submitter
            logging.getLogger(name).setLevel(logging.WARNING)
        with own_cluster_only():
            _knock(address, token)
            # As a header: Ray itself would look at the mode that this process had when it was first imported.
            return JobSubmissionClient(address, headers=auth.bearer(token) or None)


def token_for(address: str) -> str | None:
    """The token to show there: that of this folder's own head, else this user's.

    Raises:
        ConfigError: its file cannot be used.
    """
    head = find_head(state_dir())
    return head.token() if head is not None and head.dashboard_url == address else auth.known_token()


def _knock(address: str, token: str | None) -> None:
    import requests

    answer = requests.get(f"{address}/api/version", headers=auth.bearer(token), timeout=ANSWER_SECONDS)
    if (refused := auth.refusal(answer.status_code, address)) is not None:
        raise refused


def submit(
    client: JobSubmissionClient,
    settings: RunSettings,
    *,
    storage: Path | str,
    local: bool,
    upload: bool = True,
    driver_cpus: float | None = None,
) -> RayJob:
    """Upload code and configuration, and start the job.

    Args:
        client: of the cluster.
        settings: resolved and checked.
        storage: absolute folder that will hold the run, as the cluster's nodes see it, or a store's URL.
        local: on our own head: its Python is this one, and it sees this machine's files.
        upload: False where the image of the cluster's nodes holds Steelyard: only the configuration is sent.
        driver_cpus: put the job's own process on any node that has so many; none: on the head's.

    Raises:
        ClusterError: the upload is too large, or the cluster refused it.
        ConfigError: there is something to upload and `upload` is False.
    """
    python = shlex.quote(sys.executable) if local else "python"
    variables = _variables(storage)
    if not upload:
        command = f"{python} -m cluster.job {FROM_ENVIRONMENT}"
        variables[CONFIG_VARIABLE] = _config_text(settings)
        return _send(client, settings.name, storage, command, {"env_vars": variables}, driver_cpus)
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        staged = Path(folder) / "job"
        stage_working_dir(staged, settings, local=local)
        environment: dict[str, object] = {"working_dir": str(staged), "env_vars": variables}
        command = f"{python} -m cluster.job {CONFIG_NAME}"
        return _send(client, settings.name, storage, command, environment, driver_cpus)


def submit_resumed(
    client: JobSubmissionClient,
    place: str,
    overrides: Sequence[str] = (),
    *,
    upload: bool = True,
    driver_cpus: float | None = None,
) -> RayJob:
    """Start a job that goes on with the run in a folder, or at a URL, whose configuration it reads there by itself.

    Args:
        place: as the cluster's nodes see it; nothing of it is read here.
        overrides: ``key=value`` on top of what the run was configured with.
        upload, driver_cpus: see `submit`.

    Raises:
        ClusterError: the upload is too large, or the cluster refused it.
    """
    storage, run = cut_place(place)
    command = shlex.join(["python", "-m", "cluster.job", RESUME, place, *overrides])
    environment: dict[str, object] = {"env_vars": _variables(storage)}
    if not upload:
        return _send(client, run, storage, command, environment, driver_cpus)
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        staged = Path(folder) / "job"
        _stage_rooms(staged)
        _check_size(staged)
        return _send(client, run, storage, command, environment | {"working_dir": str(staged)}, driver_cpus)


def _variables(storage: Path | str) -> dict[str, str]:
    """What every job of ours finds in its environment."""
    return {STORAGE_VARIABLE: str(storage), GRACE_VARIABLE: grace_to_send()}


def _send(
    client: JobSubmissionClient,
    run: str,
    storage: Path | str,
    command: str,
    runtime_env: dict[str, object],
    driver_cpus: float | None,
) -> RayJob:
    """Hand the job to the cluster under the run's name and the number of the attempt."""
    with _cluster_errors("the list of jobs"):
        submitted_ids = [details.submission_id for details in client.list_jobs() if details.submission_id]
    folder_attempts = RunLayout(storage / run).attempts() if isinstance(storage, Path) else 0
    number = next_attempt(run, submitted_ids, folder_attempts)
    submission_id = f"{run}-attempt-{number}"
    with _cluster_errors(f"submitting {run}"), own_cluster_only():
        client.submit_job(
            entrypoint=command,
            submission_id=submission_id,
            metadata={"run": run, "job_name": run, "attempt": str(number), "storage": str(storage)},
            runtime_env=runtime_env,
            entrypoint_num_cpus=driver_cpus,
        )
    return RayJob(client, submission_id)


def next_attempt(run: str, submitted_ids: Iterable[str], attempts: int) -> int:
    """The number of a run's next attempt: after those whose logs are in its folder, and after those the cluster knows.

    Args:
        taken: submission ids of the cluster.
        attempts: how many the run's folder has logs of; 0 where it cannot be seen from here.
    """
    pattern = re.compile(rf"{re.escape(run)}-attempt-(\d+)")
    numbers = [int(match[1]) for submitted_id in submitted_ids if (match := pattern.fullmatch(submitted_id))]
    return max([attempts, *numbers]) + 1


def _config_text(settings: RunSettings) -> str:
    """The configuration for nodes that get no file from here.

    Raises:
        ConfigError: it names a world file, which would have to travel.
    """
    if settings.sandbox.world is not None:
        raise ConfigError(
            "sandbox.world: the file would have to be uploaded; leave --image out, or use the packaged world"
        )
    return dump_settings(settings)


def stage_working_dir(folder: Path, settings: RunSettings, *, local: bool) -> None:
    """Copy the rooms and write the resolved configuration; a remote cluster also gets the world's file.

    Raises:
        ClusterError: more than `UPLOAD_LIMIT_BYTES`.
    """
    _stage_rooms(folder)
    if settings.sandbox.world is not None and not local:
        shutil.copyfile(settings.sandbox.world, folder / WORLD_NAME)
        sandbox = settings.sandbox.model_copy(update={"world": Path(WORLD_NAME)})
        settings = settings.model_copy(update={"sandbox": sandbox})
    settings = absolute_paths(settings, Path.cwd())  # the job runs in the copied folder
    (folder / CONFIG_NAME).write_text(dump_settings(settings), encoding="utf-8")
    _check_size(folder)


def _stage_rooms(folder: Path) -> None:
    source = Path(__file__).resolve().parents[2]
    folder.mkdir(parents=True)
    for room in ROOMS:
        shutil.copytree(source / room, folder / room, ignore=_LEFT_OUT)


def _check_size(folder: Path) -> None:
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
        RayJob(client, job_details.submission_id)
        for job_details in details
        if job_details.submission_id
        and (job_details.metadata or {}).get("run") == run
        and not job_details.status.is_terminal()
    ]


def any_job_active(client: JobSubmissionClient) -> bool:
    """Whether the cluster still works on some job."""
    with _cluster_errors("the list of jobs"):
        return any(not job_details.status.is_terminal() for job_details in client.list_jobs())


_NO_AGENT = (
    " The head's dashboard agent does not listen: it starts within a minute of the head, or its port was taken (52365, see "
    "dashboard_agent.log): start the head with another --dashboard-agent-listen-port"
)


@contextlib.contextmanager
def _cluster_errors(operation: str) -> Iterator[None]:
    """The SDK raises RuntimeError for a refused call and ConnectionError where no server answers."""
    import requests

    try:
        yield
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise ClusterError(
            f"{operation}: no answer ({type(error).__name__}); is it running, and is the address right?"
        ) from error
    except RuntimeError as error:
        message = " ".join(str(error).split())[:300]
        raise ClusterError(f"{operation}: {message}{_NO_AGENT if 'No available agent' in message else ''}") from error
