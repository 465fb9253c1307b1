"""`steelyard monitor`: Prometheus and Grafana for the cluster of this folder, or another one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.common import finite
from configs.exits import ConfigError


def monitor(
    folder: Annotated[
        Path | None, typer.Option(help="For configuration and data; none: monitoring/ in .steelyard where you are.")
    ] = None,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the files, start nothing.")] = False,
    discovery: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Ray's service-discovery file; none: that of this folder's head, or /tmp/ray's."
        ),
    ] = None,
    exporter: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="A `steelyard export` to scrape; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of Prometheus, on loopback.")] = 9090,
    grafana_port: Annotated[int, typer.Option(min=1, max=65535, help="Of Grafana, on loopback.")] = 3000,
    violated_steps: Annotated[
        int, typer.Option(min=1, help="Alert: a measure above its limit for so many steps.")
    ] = 20,
    silent_minutes: Annotated[
        float, typer.Option(min=0.1, callback=finite, help="Alert: the loop without a step for so long.")
    ] = 15.0,
    versions_behind: Annotated[int, typer.Option(min=0, help="Alert: a generator's weights more versions behind.")] = 2,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0.1, callback=finite, help="Alert: no checkpoint for so long.")
    ] = 120.0,
) -> None:
    """Write Prometheus's and Grafana's configuration and start both, where their binaries are; Ctrl-C ends them."""
    from cluster.observability.monitoring.files import text_files, write_files
    from cluster.observability.monitoring.rules import Thresholds
    from cluster.observability.monitoring.scrape import prometheus_config
    from cluster.observability.telemetry.names import EXPORT_PORT
    from cluster.resources.local_head import state_dir

    place = (folder or state_dir() / "monitoring").absolute()
    discovery_files = [str(path.absolute()) for path in discovery] if discovery else [_discovery()]
    config = prometheus_config(discovery_files, [*(exporter or [f"127.0.0.1:{EXPORT_PORT}"])])
    limits = Thresholds(violated_steps, silent_minutes, versions_behind, checkpoint_minutes)
    texts = text_files(
        limits, config=config, dashboards=str(place / "dashboards"), prometheus_url=f"http://127.0.0.1:{port}"
    )
    try:
        place.mkdir(parents=True, exist_ok=True)
        written = write_files(place, texts)
    except OSError as error:
        raise ConfigError(f"--folder {place}: cannot be written ({error.strerror}); give another one") from error
    typer.echo(f"{len(written)} files in {place}; Prometheus scrapes {', '.join(discovery_files)}")
    if not write_only:
        _start(place, port, grafana_port)


def _start(place: Path, port: int, grafana_port: int) -> None:
    from cluster.observability.monitoring.start import grafana_service, prometheus_service, running, watch

    prometheus, grafana = prometheus_service(place, port), grafana_service(place, grafana_port)
    services = [service for service in (prometheus, grafana) if service is not None]
    if prometheus is None:
        typer.echo("no `prometheus` on the PATH (Debian: apt-get install prometheus): not started", err=True)
    if grafana is None:
        typer.echo(
            "no `grafana` on the PATH (https://grafana.com/docs/grafana/latest/setup-grafana/): not started; import "
            f"{place / 'dashboards'} into any Grafana",
            err=True,
        )
    if not services:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also then our processes end with us
    with running(services) as processes:
        for service in services:
            typer.echo(f"{service.name}: {service.url}")
        typer.echo("Ctrl-C ends both" if len(services) > 1 else "Ctrl-C ends it")
        watch(services, processes)


def _discovery() -> str:
    """Of this folder's own head if it runs, else where a head that was started by hand has it."""
    from cluster.observability.monitoring.scrape import DISCOVERY
    from cluster.resources.local_head import find_head, state_dir

    head = find_head(state_dir()) if state_dir().is_dir() else None
    return DISCOVERY if head is None else str(head.temp_dir / Path(DISCOVERY).name)
