"""`steelyard submit`: the job on a Ray cluster, through its job API."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cluster.commands.common import AsJson, DryRun, Overrides, checked_settings, finite, say_valid, storage_of
from configs.exits import ClusterError, ConfigError, SteelyardError
from configs.layout import RunLayout
from configs.load import load_settings, split_override
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from cluster.jobs.submission import RayJob
    from cluster.run_folder.status import RunStatus


def submit(
    config: Annotated[str | None, typer.Argument(help="A YAML file, or the name of a preset.")] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of the cluster, such as http://head:8265; none: our own.")
    ] = None,
    stop: Annotated[
        str | None, typer.Option(metavar="RUN", help="Stop the job of this run; it can be resumed.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with this run (name, folder or URL), as it was configured.")
    ] = None,
    attach: Annotated[str | None, typer.Option(metavar="RUN", help="Follow the job of this run again.")] = None,
    image: Annotated[
        bool, typer.Option("--image", help="The image of the cluster's nodes holds Steelyard: upload no code.")
    ] = False,
    driver_cpus: Annotated[
        float | None,
        typer.Option(
            "--entrypoint-num-cpus",
            min=0.001,
            metavar="N",
            callback=finite,
            help="Put the job's own process on any node with N free CPUs, which it then holds; else on the head's node.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--follow/--no-follow", help="Show the run until it ends.")] = True,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Submit a configuration as a Ray job and follow it; the same command goes on where it stopped."""
    if resume is not None and config is not None and "=" in config:  # then what comes first is an override
        overrides = [config, *(overrides or ())]
        config = None
    if sum(choice is not None for choice in (config, stop, resume, attach)) != 1:
        raise ConfigError("give one of: a configuration, --stop RUN, --resume RUN, --attach RUN")
    if stop is not None:
        _stop(stop, address)
        return
    if attach is not None:
        raise typer.Exit(_attach(attach, address))
    start = _Start(address, upload=not image, driver_cpus=driver_cpus, watch=watch and not as_json, as_json=as_json)
    if resume is not None:
        settings = _resumed_settings(resume, overrides or [], address)
        if settings is None:
            raise typer.Exit(_resume_unseen(resume, overrides or [], start, dry_run=dry_run))
    else:
        settings = _checked(str(config), overrides, address)
    if address is not None and settings.storage is None:
        raise ConfigError(
            "storage: a remote cluster needs a folder that every node shares, or a store: give storage=/path or "
            "storage=s3://bucket/runs"
        )
    if dry_run:
        say_valid(settings, as_json=as_json)
        return
    raise typer.Exit(_submit(settings, start))


@dataclass(frozen=True)
class _Start:
    """Where a job is started, and how."""

    address: str | None
    upload: bool
    driver_cpus: float | None
    watch: bool
    as_json: bool

    def job(self, run: str, storage: Path | str, send: Callable[[JobSubmissionClient], RayJob]) -> int:
        """Send it, unless the run already goes on, and show it; returns the command's exit code."""
        from cluster.jobs import submission as jobs

        console = Console()
        url = _dashboard(self.address, start=True)
        client = jobs.connect(url)
        if running := jobs.jobs_of_run(client, run):
            raise ConfigError(
                f"name: run '{run}' already runs as job {running[0].id}; follow it (--attach {run}), stop it (--stop {run}), "
                "or choose another name"
            )
        job = send(client)
        place = f"{storage}/{run}"
        if self.as_json:
            typer.echo(json.dumps({"job": job.id, "run": run, "folder": place, "dashboard": url}))
            return 0
        console.print(f"Submitted {run} as job {job.id}; dashboard {url}", highlight=False, soft_wrap=True)
        return _follow(job, run, place, self.address, console) if self.watch else 0


def _submit(settings: RunSettings, start: _Start) -> int:
    from cluster.jobs import submission as jobs

    storage = settings.storage or storage_of(settings)

    def send(client: JobSubmissionClient) -> RayJob:
        return jobs.submit(
            client,
            settings,
            storage=storage,
            local=start.address is None,
            upload=start.upload,
            driver_cpus=start.driver_cpus,
        )

    return start.job(settings.name, storage, send)


def _checked(config: str, overrides: list[str] | None, address: str | None) -> RunSettings:
    """The resolved configuration, checked; on a remote cluster the job itself looks at what this machine does not have."""
    if address is None:
        return checked_settings(config, overrides)
    return _noted(load_settings(config, overrides or ()))


def _noted(settings: RunSettings) -> RunSettings:
    from cluster.inputs.remote_checks import check_remote_inputs

    for line in check_remote_inputs(settings):
        typer.echo(f"note: {line}", err=True)
    return settings


def _attach(run: str, address: str | None) -> int:
    from cluster.jobs import submission as jobs

    client = jobs.connect(_dashboard(address, start=False))
    running = jobs.jobs_of_run(client, run)
    if not running:
        raise ConfigError(f"--attach {run}: no job of that run is active")
    place = f"{running[0].metadata().get('storage', Path.cwd() / 'runs')}/{run}"
    return _follow(running[0], run, place, address, Console())


def _follow(job: RayJob, run: str, place: str, address: str | None, console: Console) -> int:
    """Show the run to its end, from its folder where that can be seen from here, else from what the job says of itself."""
    from cluster.jobs.follow import follow, print_failure

    layout = RunLayout(Path(place))
    folder_is_visible = "://" not in place and (address is None or layout.root.parent.is_dir())
    where = f" --address {address}" if address else ""
    followed = follow(
        job,
        layout.status,
        console,
        look_again=f"steelyard submit --attach {run}{where}",
        stop=f"steelyard submit --stop {run}{where}",
        reader=None if folder_is_visible else _card_reader(job),
    )
    if followed.detached:
        return 0
    if followed.exit_code:
        print_failure(job, followed.exit_code, console)
    elif folder_is_visible:
        console.print(f"Finished; its files are in {layout.root}", highlight=False, soft_wrap=True)
    else:
        console.print(f"Finished; bring its report: steelyard fetch {place}", highlight=False, soft_wrap=True)
    return followed.exit_code or 0


def _card_reader(job: RayJob) -> Callable[[bool], RunStatus | None]:
    from cluster.jobs.job_metadata import status_of

    return lambda _over: status_of(job.metadata())


def _stop(run: str, address: str | None) -> None:
    from cluster.jobs import submission as jobs
    from cluster.resources.stopping import GRACE_SECONDS

    client = jobs.connect(_dashboard(address, start=False))
    running = jobs.jobs_of_run(client, run)
    if not running:
        raise ConfigError(f"--stop {run}: no job of that run is active")
    for job in running:
        go_on = _go_on(run, job.metadata().get("storage"), address)  # asked before: a job that is over may be forgotten
        job.stop()
        typer.echo(
            f"job {job.id} is asked to stop; in the loop it ends its step and writes a checkpoint first", err=True
        )
        try:
            over = job.wait_over(2 * GRACE_SECONDS)
            outcome = "stopped" if over else f"was asked to stop and has not ended after {2 * GRACE_SECONDS} s"
        except ClusterError as error:
            outcome = f"was asked to stop, and whether it has ended is not known ({error})"
        typer.echo(f"job {job.id} {outcome}; go on later: {go_on}")


def _go_on(run: str, storage: str | None, address: str | None) -> str:
    """The command after which a stopped run goes on, wherever it is given."""
    where = f" --address {address}" if address else ""
    if storage is None:  # not sent by this command, so the job's record does not say
        return f"the command that started it, or steelyard submit --resume FOLDER{where} with the run's folder or URL"
    usual = address is None and storage == str(Path.cwd() / "runs")
    return f"steelyard submit --resume {run if usual else shlex.quote(f'{storage}/{run}')}{where}"


# --- going on ---------------------------------------------------------------------------------------------------------


def _place_of(run: str) -> str:
    """A run's folder or URL, from that or from its name under ``runs/``."""
    if "://" in run:
        return run.rstrip("/")
    return str(Path(run).expanduser().absolute() if "/" in run else Path.cwd() / "runs" / run)


def _resumed_settings(run: str, overrides: list[str], address: str | None) -> RunSettings | None:
    """A run's own configuration, kept in the place where the run is; None where only the cluster's nodes can read it."""
    from cluster.inputs.sources import check_inputs
    from cluster.jobs.resume import read_config, resumed_settings

    place = _place_of(run)
    try:
        text = read_config(place)
    except SteelyardError:
        if address is None:
            raise
        text = None
    if text is None:
        if address is None or (not run.startswith("/") and "://" not in run):
            raise ConfigError(
                f"--resume {run}: no configuration of a run is at {place}; give the name of a run under runs/, its folder (as "
                "the nodes of --address see it), or its URL in a store"
            )
        return None
    settings = resumed_settings(place, overrides, text=text)
    if address is not None:
        return _noted(settings)
    check_inputs(settings)
    return settings


def _resume_unseen(run: str, overrides: list[str], start: _Start, *, dry_run: bool) -> int:
    """Let the job read the configuration, in a folder or store that cannot be read from here."""
    from cluster.jobs import submission as jobs
    from cluster.jobs.resume import cut_place

    if dry_run:
        raise ConfigError(
            f"--resume {run}: cannot be read on this machine, so there is nothing to check; leave --dry-run out"
        )
    for override in overrides:
        split_override(override)
    place = _place_of(run)
    storage, name = cut_place(place)
    typer.echo(
        f"note: {place} cannot be read on this machine; the job reads its configuration on the cluster", err=True
    )

    def send(client: JobSubmissionClient) -> RayJob:
        return jobs.submit_resumed(client, place, overrides, upload=start.upload, driver_cpus=start.driver_cpus)

    return start.job(name, storage, send)


def _dashboard(address: str | None, *, start: bool) -> str:
    from cluster.resources.local_head import ensure_head, find_head, state_dir

    if address is not None:
        return address
    head = ensure_head(state_dir()) if start else find_head(state_dir())
    if head is None:
        raise ConfigError("no Ray head of this folder runs; give --address of the cluster")
    return head.dashboard_url
