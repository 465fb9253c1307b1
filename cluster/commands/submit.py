"""`steelyard submit`: the job on a Ray cluster, through its job API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cluster.commands.common import AsJson, DryRun, Overrides, checked_settings, say_valid, storage_of
from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.jobs import RayJob
    from cluster.status import RunStatus


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
    watch: Annotated[bool, typer.Option("--follow/--no-follow", help="Show the run until it ends.")] = True,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Submit a configuration as a Ray job and follow it; the same command goes on where it stopped."""
    if resume is not None and config is not None and "=" in config:  # then what comes first is an override
        overrides = [config, *(overrides or ())]
        config = None
    if sum(given is not None for given in (config, stop, resume, attach)) != 1:
        raise ConfigError("give one of: a configuration, --stop RUN, --resume RUN, --attach RUN")
    if stop is not None:
        _stop(stop, address)
        return
    if attach is not None:
        raise typer.Exit(_attach(attach, address))
    settings = checked_settings(config, overrides) if config else _resumed_settings(str(resume), overrides)
    if address is not None and settings.storage is None:
        raise ConfigError(
            "storage: a remote cluster needs a folder that every node shares, or a store: give storage=/path or "
            "storage=s3://bucket/runs"
        )
    if dry_run:
        say_valid(settings, as_json=as_json)
        return
    raise typer.Exit(_submit(settings, address, upload=not image, watch=watch and not as_json, as_json=as_json))


def _submit(settings: RunSettings, address: str | None, *, upload: bool, watch: bool, as_json: bool) -> int:
    from cluster import jobs

    console = Console()
    url = _dashboard(address, start=True)
    client = jobs.connect(url)
    if running := jobs.jobs_of_run(client, settings.name):
        raise ConfigError(
            f"name: run '{settings.name}' already runs as job {running[0].id}; follow it (--attach {settings.name}), stop "
            f"it (--stop {settings.name}), or choose another name"
        )
    storage = settings.storage or storage_of(settings)
    job = jobs.submit(client, settings, storage=storage, local=address is None, upload=upload)
    place = f"{storage}/{settings.name}"
    if as_json:
        typer.echo(json.dumps({"job": job.id, "run": settings.name, "folder": place, "dashboard": url}))
        return 0
    console.print(f"Submitted {settings.name} as job {job.id}; dashboard {url}", highlight=False, soft_wrap=True)
    return _follow(job, settings.name, place, address, console) if watch else 0


def _attach(run: str, address: str | None) -> int:
    from cluster import jobs

    client = jobs.connect(_dashboard(address, start=False))
    running = jobs.jobs_of_run(client, run)
    if not running:
        raise ConfigError(f"--attach {run}: no job of that run is active")
    place = f"{running[0].metadata().get('storage', Path.cwd() / 'runs')}/{run}"
    return _follow(running[0], run, place, address, Console())


def _follow(job: RayJob, run: str, place: str, address: str | None, console: Console) -> int:
    """Show the run to its end, from its folder where that can be seen from here, else from what the job says of itself."""
    from cluster.follow import follow, print_failure

    layout = RunLayout(Path(place))
    seen = "://" not in place and (address is None or layout.root.parent.is_dir())
    where = f" --address {address}" if address else ""
    followed = follow(
        job, layout.status, console,
        look_again=f"steelyard submit --attach {run}{where}", stop=f"steelyard submit --stop {run}{where}",
        reader=None if seen else _card_reader(job),
    )  # fmt: skip
    if followed.detached:
        return 0
    if followed.exit_code:
        print_failure(job, followed.exit_code, console)
    elif seen:
        console.print(f"Finished; its files are in {layout.root}", highlight=False, soft_wrap=True)
    else:
        console.print(f"Finished; bring its report: steelyard fetch {place}", highlight=False, soft_wrap=True)
    return followed.exit_code or 0


def _card_reader(job: RayJob) -> Callable[[bool], RunStatus | None]:
    from cluster.job_card import status_of

    return lambda _over: status_of(job.metadata())


def _stop(run: str, address: str | None) -> None:
    from cluster import jobs
    from cluster.stopping import GRACE_SECONDS

    client = jobs.connect(_dashboard(address, start=False))
    running = jobs.jobs_of_run(client, run)
    if not running:
        raise ConfigError(f"--stop {run}: no job of that run is active")
    where = f" --address {address}" if address else ""
    for job in running:
        job.stop()
        over = job.wait_over(2 * GRACE_SECONDS)
        said = "stopped" if over else f"was asked to stop and has not ended after {2 * GRACE_SECONDS} s"
        typer.echo(f"job {job.id} {said}; go on later: steelyard submit --resume {run}{where}")


def _resumed_settings(run: str, overrides: list[str] | None) -> RunSettings:
    """A run's own configuration, kept in the place where the run is: under ``runs/``, or the folder or URL given."""
    if "://" in run:
        return _settings_in_store(run, overrides)
    layout = RunLayout(Path(run).absolute() if "/" in run else Path.cwd() / "runs" / run)
    if not layout.config.is_file():
        raise ConfigError(f"--resume {run}: no {layout.config}; give the name of a run under runs/, or its folder")
    settings = checked_settings(str(layout.config), overrides)
    return settings.model_copy(update={"storage": layout.root.parent})


def _settings_in_store(url: str, overrides: list[str] | None) -> RunSettings:
    import tempfile

    from cluster.store import RunStore

    storage, _, run = url.rstrip("/").rpartition("/")
    text = RunStore(storage, run).read("config.resolved.yaml")
    if text is None:
        raise ConfigError(f"--resume {url}: no run is there; give the URL of its folder in the store")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.resolved.yaml"
        path.write_bytes(text)
        return checked_settings(str(path), overrides).model_copy(update={"storage": storage})


def _dashboard(address: str | None, *, start: bool) -> str:
    from cluster.head import ensure_head, find_head, state_dir

    if address is not None:
        return address
    head = ensure_head(state_dir()) if start else find_head(state_dir())
    if head is None:
        raise ConfigError("no Ray head of this folder runs; give --address of the cluster")
    return head.dashboard_url
