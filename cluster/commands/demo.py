"""`steelyard demo`: the whole method on the sandbox, as a Ray job on this machine's own head."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cluster.commands.common import DryRun, checked_settings, layout_of, say_valid, storage_of
from configs.exits import ConfigError, Exit
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings

PRESET = "quickstart"


class Break(StrEnum):
    """What the demo breaks."""

    GENERATOR = "generator"
    CONSTRAINT = "constraint"


def demo(
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the finished run away and start again.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed, as run quickstart-SEED.")] = None,
    break_: Annotated[
        Break | None,
        typer.Option("--break", help="generator: kill one in the middle. constraint: the naive mean over all prompts."),
    ] = None,
    keep_head: Annotated[bool, typer.Option("--keep-head", help="Leave the Ray head running afterwards.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Run the sandbox demo: SFT, preferences, reward and cost models, PPO-Lag, evaluation, report."""
    settings = demo_settings(seed, break_)
    if dry_run:
        say_valid(settings, as_json=False)
        return
    raise typer.Exit(_demo(settings, fresh=fresh, break_=break_, keep_head=keep_head))


def demo_settings(seed: int | None, break_: Break | None) -> RunSettings:
    """The preset, under a name of its own for every variant so that none overwrites another."""
    preset = "mean_all" if break_ is Break.CONSTRAINT else PRESET
    suffix = f"-{seed}" if seed is not None else ""
    overrides = [f"name={PRESET}{f'-break-{break_.value}' if break_ else ''}{suffix}"]
    if seed is not None:
        overrides.append(f"seed={seed}")
    if break_:
        overrides.append(
            f"reuse_from=[{PRESET}{suffix}]"
        )  # what a broken run shares with the plain one is there already
    return checked_settings(preset, overrides)


def finished_summary(settings: RunSettings, layout: RunLayout) -> dict[str, Any] | None:
    """The figures of this very configuration's finished run, or None."""
    from cluster.run_folder.status import read_status

    status = read_status(layout.status)
    if status is None or status.state != "finished" or not (layout.summary.is_file() and layout.config.is_file()):
        return None
    try:
        ran = load_settings(layout.config)
    except ConfigError:
        return None  # made by an older Steelyard
    if ran.model_copy(update={"storage": settings.storage}) != settings:
        return None
    summary: dict[str, Any] = json.loads(layout.summary.read_text(encoding="utf-8"))
    return summary


def remove_run(layout: RunLayout) -> None:
    """Delete a run folder, and nothing that is not one.

    Raises:
        ConfigError: the folder holds something else.
    """
    if not layout.root.exists():
        return
    if any(layout.root.iterdir()) and not (layout.config.exists() or layout.status.exists()):
        raise ConfigError(f"{layout.root} is not a run folder, so --fresh leaves it alone; move it away")
    shutil.rmtree(layout.root)


def _demo(settings: RunSettings, *, fresh: bool, break_: Break | None, keep_head: bool) -> int:
    from cluster.commands.text.demo import print_result

    console, layout = Console(), layout_of(settings)
    summary = None if fresh else finished_summary(settings, layout)
    if summary is not None:
        print_result(summary, console)
        _say(console, f"Report: {_shown(layout.report)}")
        _say(console, f"This run was already finished; {_again(settings, break_)} starts again.")
        certificate = summary.get("certificate")
        return int(Exit.DONE if certificate is None or certificate["feasible"] else Exit.INFEASIBLE)
    exit_code, detached = _run_job(settings, layout, console, fresh=fresh, break_=break_, keep_head=keep_head)
    if detached:
        return 0
    if not layout.summary.is_file() or exit_code not in (Exit.DONE, Exit.INFEASIBLE):
        return exit_code or int(Exit.BUG)
    print_result(json.loads(layout.summary.read_text(encoding="utf-8")), console)
    _say(console, f"Report: {_shown(layout.report)}")
    return exit_code


def _run_job(
    settings: RunSettings, layout: RunLayout, console: Console, *, fresh: bool, break_: Break | None, keep_head: bool
) -> tuple[int, bool]:
    """(exit code, whether the user looked away). A job of this run that still goes on is followed, not repeated."""
    from cluster.commands.demo_break import GeneratorBreaker
    from cluster.jobs import submission as jobs
    from cluster.jobs.follow import follow, print_failure
    from cluster.resources.local_head import ensure_head, find_head, state_dir, stop_head

    if find_head(state_dir()) is None:
        _say(console, "Starting a Ray head of this folder's own (about 10 s) …")
    head = ensure_head(state_dir())
    client = jobs.connect(head.dashboard_url)
    active = jobs.jobs_of_run(client, settings.name)
    if active and fresh:
        stop = f"steelyard submit --stop {settings.name}"
        raise ConfigError(f"run '{settings.name}' is going on as job {active[0].id}; stop it first: {stop}")
    if active:
        job = active[0]
        _say(console, f"Following job {job.id}, which is already running.")
    else:
        if fresh:
            remove_run(layout)
        job = jobs.submit(client, settings, storage=storage_of(settings), local=True)
    _say(console, f"Dashboard: {head.dashboard_url}")
    observer = GeneratorBreaker(head, lambda text: _say(console, text)) if break_ is Break.GENERATOR else None
    followed = follow(job, layout.status, console, look_again="make demo", observer=observer)
    if followed.detached:
        return 0, True
    exit_code = followed.exit_code or 0
    if exit_code not in (Exit.DONE, Exit.INFEASIBLE):
        print_failure(job, exit_code, console)
        _say(console, f"Logs of Ray and its actors, until the next start: {head.temp_dir}/session_latest/logs")
    elif observer is not None and observer.killed_pid is None:
        _say(console, "No generator was killed: the run was over, or past that point, before it could be.")
    if break_ is Break.CONSTRAINT:
        _say(console, "Harmless answers to harmless questions meet a mean over every prompt; see the harm rate:")
    if not keep_head and not jobs.any_job_active(client):
        stop_head(state_dir())
    return exit_code, False


def _again(settings: RunSettings, break_: Break | None) -> str:
    if break_ is not None:
        return f"steelyard demo --break {break_.value} --fresh"
    return "make demo FRESH=1" + (f" SEED={settings.seed}" if settings.name != PRESET else "")


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
