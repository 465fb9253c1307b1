"""Watching a run in the terminal: a live panel, or one line per change where there is no terminal.

Reads the run's ``status.json`` and asks Ray how its job is; looking never disturbs the run, Ctrl-C only looks away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.jobs.submission import JOB_OVER, Job
from cluster.run_folder.status import OVER, MeasureStatus, RunStatus, read_status
from configs.exits import ClusterError

LOG_LINES = 15
PATIENCE_SECONDS = 60.0
"""How long a cluster that does not answer is asked again: connections such as `kubectl port-forward` drop and come back."""
_MARKS = {
    "done": ("✓", "green"),
    "skipped": ("✓", "dim"),
    "running": ("▶", "bold cyan"),
    "failed": ("✗", "red"),
    "stopped": ("■", "yellow"),
    "waiting": ("·", "dim"),
}

Reader = Callable[[bool], RunStatus | None]
"""Gives the run's status, if there is one; is told whether the job is over."""
Observer = Callable[[RunStatus], None]
"""Is shown every new status; `steelyard demo --break` acts in it."""
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Followed:
    """How it ended for the one who watched."""

    exit_code: int | None
    """Of the job; None if we stopped looking."""
    status: RunStatus | None
    detached: bool = False


def follow(
    job: Job,
    status_path: Path,
    console: Console,
    *,
    look_again: str,
    stop: str = "steelyard submit --stop RUN",
    observer: Observer | None = None,
    reader: Reader | None = None,
    poll_seconds: float = 0.5,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Followed:
    """Show the run until its job is over or Ctrl-C.

    Args:
        job: asked for its state every few polls.
        status_path: the run's ``status.json``.
        console: where to show it; without a terminal, one line per change.
        look_again: the command that shows the run again, told on Ctrl-C.
        stop: the command that ends it, likewise.
        observer: called with every new status.
        reader: gives the status where the file cannot be seen from here.
        patience_seconds: how long a cluster that does not answer is asked again.

    Returns:
        The job's exit code and the last status.

    Raises:
        ClusterError: the cluster gave no answer for that long; the run is left alone.
    """
    view: _LiveView | LineView = _LiveView(console) if console.is_terminal else LineView(console)
    started = time.time()
    patience = _Patience(view, patience_seconds, 4 * poll_seconds, f"Look again: {look_again}   Stop it: {stop}")
    try:
        with view:
            read_latest = reader or _file_reader(status_path, started)
            status = _watch(job, read_latest, view, observer, poll_seconds, patience)
            exit_code = patience.ask(lambda: _exit_code(job))
    except KeyboardInterrupt:
        farewell = f"Stopped looking; the run goes on. Look again: {look_again}   Stop it: {stop}"
        console.print(farewell, markup=False, highlight=False, soft_wrap=True)
        return Followed(None, read_status(status_path), detached=True)
    return Followed(exit_code, status)


def _exit_code(job: Job) -> int:
    code = job.exit_code()
    if code is None:
        return 0 if job.state() == "SUCCEEDED" else 1
    return code


def print_failure(job: Job, exit_code: int, console: Console) -> None:
    """The last lines of a failed job's log, and its exit code."""
    console.print(f"The job ended with exit code {exit_code}. Its last lines:", style="red")
    try:
        lines = job.last_log_lines(LOG_LINES)
    except ClusterError as error:  # the job's own exit code says more than this one would
        lines = [f"cannot be had: {error}"]
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def status_line(status: RunStatus) -> str:
    """The run in one line: stage, step, harm against the limit, multiplier, time left."""
    parts = [f"{status.run}: {status.stage or status.state}"]
    if status.stage_index:
        parts[0] += f" ({status.stage_index}/{status.stages_total})"
    if status.steps:
        parts.append(f"step {status.step}/{status.steps}")
    parts += [measure_text(name, measure) for name, measure in status.measures.items()]
    if status.reward is not None:
        parts.append(f"reward {status.reward:.2f}")
    if status.seconds_left is not None:
        parts.append(f"{clock_text(status.seconds_left)} left")
    if status.message:
        parts.append(status.message)
    return " · ".join(parts)


def measure_text(name: str, measure: MeasureStatus) -> str:
    """``harm 0.083 ≤ 0.1 · multiplier 1.20``."""
    if measure.value is None:
        return f"{name} not measured yet, limit {measure.limit:.3g}"
    relation = "≤" if measure.value <= measure.limit else ">"
    return f"{name} {measure.value:.3f} {relation} {measure.limit:.3g} · multiplier {measure.multiplier:.2f}"


def clock_text(seconds: float) -> str:
    """``1:05`` or ``2:03:04``."""
    minutes, remaining = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{remaining:02d}" if hours else f"{minutes}:{remaining:02d}"


def panel(status: RunStatus) -> RenderableType:
    """The live view: stages, progress, constraints, warnings, link."""
    stages = Table.grid(padding=(0, 2))
    for name, stage in status.stages.items():
        mark, style = _MARKS[stage.state]
        seconds = (
            clock_text(stage.seconds) if stage.seconds else ("already complete" if stage.state == "skipped" else "")
        )
        stages.add_row(
            Text(mark, style=style), Text(name, style=style), Text(seconds, style="dim"), _progress(status, name)
        )
    rows: list[RenderableType] = [Text(status.run, style="bold"), stages]
    for name, measure in status.measures.items():
        is_met = measure.value is not None and measure.value <= measure.limit
        rows.append(Text(measure_text(name, measure), style="green" if is_met else "yellow"))
    rows += [Text(f"warning: {warning}", style="bold yellow") for warning in status.warnings]
    footer = [f"{clock_text(status.seconds_elapsed)} elapsed"]
    if status.seconds_left is not None:
        footer.append(f"about {clock_text(status.seconds_left)} left")
    footer += [
        text for text in (status.message, f"dashboard {status.dashboard_url}" if status.dashboard_url else "") if text
    ]
    rows.append(Text(" · ".join(footer), style="dim"))
    return Group(*rows)


def _progress(status: RunStatus, stage: str) -> RenderableType:
    if stage != status.stage or not status.steps or status.stages[stage].state != "running":
        return Text("")
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=status.steps, completed=status.step, width=30), f"{status.step}/{status.steps}")
    return row


def _watch(
    job: Job,
    reader: Reader,
    view: _LiveView | LineView,
    observer: Observer | None,
    poll_seconds: float,
    patience: _Patience,
) -> RunStatus | None:
    def look() -> tuple[bool, RunStatus | None]:
        over = job.state() in JOB_OVER
        return over, reader(over)

    last_shown: RunStatus | None = None
    while True:
        over, status = patience.ask(look)
        if status is not None and status != last_shown:
            view.show(status)
            last_shown = status
            if observer is not None:
                observer(status)
        elif status is None:
            view.waiting()
        if over:
            return last_shown
        time.sleep(poll_seconds)


class _Patience:
    """Asks again while the cluster gives no answer, says so once, and at last gives up, which is no matter to the run."""

    def __init__(self, view: _LiveView | LineView, seconds: float, pause: float, commands: str) -> None:
        self._view, self._seconds, self._pause, self._commands = view, seconds, pause, commands

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """The answer, when it comes.

        Raises:
            ClusterError: none came for as long as it was worth.
        """
        since: float | None = None
        while True:
            try:
                answer = question()
            except ClusterError as error:
                now = time.monotonic()
                if since is None:
                    since = now
                    self._view.say(f"asking again for {self._seconds:.0f} s: {error}")
                if now - since >= self._seconds:
                    raise ClusterError(
                        f"stopped looking after {self._seconds:.0f} s without an answer ({error}); the run goes on if its cluster "
                        f"does. {self._commands}"
                    ) from error
                time.sleep(self._pause)
            else:
                if since is not None:
                    self._view.say("the cluster answers again")
                return answer


def _file_reader(path: Path, started: float) -> Reader:
    def read(over: bool) -> RunStatus | None:
        status = read_status(path)
        if status is not None and not over and _older_than(path, started) and status.state in OVER:
            return None  # what an earlier attempt left behind
        return status

    return read


def _older_than(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime < moment
    except FileNotFoundError:
        return True


class _LiveView:
    """A panel that is drawn over itself."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *details: object) -> None:
        self._live.stop()

    def show(self, status: RunStatus) -> None:
        self._live.update(panel(status))

    def waiting(self) -> None:
        self._live.update(Text("waiting for the job to start …", style="dim"))

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LineView:
    """One line per change of stage, step or state; the clock alone is no change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[object, ...] | None = None
        self._warned: set[str] = set()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *details: object) -> None:
        return None

    def show(self, status: RunStatus) -> None:
        """Print what has changed."""
        for warning in status.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._print(f"warning: {warning}")
        tenth = status.step * 10 // status.steps if status.steps and not status.measures else status.step
        change = (status.state, status.stage, tenth, status.message)
        if change != self._last:
            self._last = change
            self._print(status_line(status))

    def waiting(self) -> None:
        """Say once that nothing is there yet."""
        if self._last is None:
            self._last = ()
            self._print("waiting for the job to start …")

    def say(self, text: str) -> None:
        """Print a line that is not the run's own."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
