"""One Ray Train job for every supervised stage of a run: its workers stay, and take tasks from a mailbox actor.

Starting workers costs more than a small stage takes, so they start once. When every worker gives a task up for the same
reason they stay; otherwise the job ends (one may wait in a collective that the other never joins), and the next `run`
starts a new one.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from configs.exits import DataError, SteelyardError, StoppedError
from configs.schema.resources import DeadlineSettings, SupervisedSettings
from learner.deadlines import Deadline, fetch
from learner.supervised.direct import DirectTask, train_direct
from learner.supervised.mailbox import Mailbox, MailboxState, Outcome, TaskProgress
from learner.supervised.preference import PreferenceTask, train_preference
from learner.supervised.sft import SftTask, train_sft
from learner.supervised.training import TrainingContext

Task = SftTask | PreferenceTask | DirectTask

ANSWER_SECONDS = 60.0
"""Deadline of a mailbox call, which answers within POLL_SECONDS unless the machine is overloaded."""

STOP_SECONDS = 45.0
"""How long the job may take to end by itself; Ray Train's controller looks at its workers every 2 s."""


class TrainFailure(StoppedError):
    """A supervised task failed, or its workers did; the message names the task."""


# --- the workers ------------------------------------------------------------------------------------------------------


def work(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs until the mailbox says to end.

    Args:
        config: ``mailbox`` (actor handle), ``settings`` (SupervisedSettings), ``deterministic``.
    """
    import deepspeed  # noqa: F401  (2 s: before the first task asks for it)
    import ray.train.torch

    from learner.engine.collective import TorchRanks

    mailbox, settings = config["mailbox"], config["settings"]
    set_up_worker(settings, deterministic=config["deterministic"])
    device = ray.train.torch.get_device()
    ranks = TorchRanks(device)
    mailbox.join.remote(ranks.rank, ray.get_runtime_context().current_actor)
    number = 0
    while True:
        envelope = _ask(mailbox.take.remote(number))
        if envelope is None:
            continue
        if not envelope.task:
            return
        number = envelope.number

        def report(progress: TaskProgress, number: int = number) -> None:
            mailbox.report.remote(number, progress)

        context = TrainingContext(ranks, settings.zero_stage, device, report, settings.checkpoint_activations)
        try:
            outcome = Outcome(metrics=_run_task(_ask(envelope.task[0]), context))
        except SteelyardError as error:
            outcome = Outcome(problem=str(error), of_data=isinstance(error, DataError))
        # Every failure is told, for the driver counts them: only when all ranks failed alike do the workers stay.
        if outcome.metrics is None or ranks.rank == 0:
            mailbox.finish.remote(number, ranks.rank, outcome)


def set_up_worker(settings: SupervisedSettings, *, deterministic: bool) -> None:
    """Threads and determinism of this process, before its first task."""
    import torch

    torch.set_num_threads(1 if deterministic else settings.threads)
    torch.use_deterministic_algorithms(deterministic)


def _ask(ref: Any, seconds: float = ANSWER_SECONDS) -> Any:
    return fetch(ref, deadline_seconds=seconds, operation="the mailbox of supervised tasks")


def _run_task(task: Task, context: TrainingContext) -> dict[str, float]:
    import torch

    torch.manual_seed(task.seed)
    if isinstance(task, SftTask):
        return train_sft(task, context)
    return train_direct(task, context) if isinstance(task, DirectTask) else train_preference(task, context)


# --- the driver's side ------------------------------------------------------------------------------------------------


class SupervisedSession:
    """The supervised stages' workers, as the driver sees them.

    Nothing starts before `start` (which does not wait, so that a run can do other things meanwhile) or the first `run`.

    Args:
        storage_path: where Ray Train may keep its own files; every node must reach it.
        deterministic: one thread and deterministic kernels; the same seed and number of workers then give the same
            weights, bit for bit.
    """

    def __init__(
        self,
        settings: SupervisedSettings,
        deadlines: DeadlineSettings,
        storage_path: Path | str,
        *,
        deterministic: bool = False,
    ) -> None:
        self._settings = settings
        self._deadlines = deadlines
        self._storage_path = Path(storage_path).absolute()
        self._deterministic = deterministic
        self._job: _Job | None = None

    def start(self) -> None:
        """Begin to start the workers, if none are there."""
        if self._job is not None and not self._job.usable:
            self.close()
        if self._job is None:
            self._job = _Job(self._settings, self._deadlines, self._storage_path, self._deterministic)

    def run(self, task: Task, progress: Callable[[TaskProgress], None] = lambda _: None) -> dict[str, float]:
        """Run one task on the workers and wait for it; returns its metrics.

        Args:
            progress: called in this thread, about twice a second.

        Raises:
            DataError: the task's data cannot be used; names the task.
            TrainFailure: anything else that ended the task: a loss that is not finite, a dead worker, a deadline.
        """
        self.start()
        assert self._job is not None
        try:
            return self._job.run(_absolute(task), progress)
        finally:
            if not self._job.usable:
                self.close()

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        job, self._job = self._job, None
        if job is not None:
            job.end()

    def __enter__(self) -> SupervisedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Job:
    """One Ray Train job from its start to its end, in a background thread, with its mailbox."""

    def __init__(
        self, settings: SupervisedSettings, deadlines: DeadlineSettings, storage_path: Path, deterministic: bool
    ) -> None:
        self._settings = settings
        self._deadlines = deadlines
        self._started = time.monotonic()
        self._idle = True
        self._error: BaseException | None = None
        self._mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        self._thread = threading.Thread(
            target=self._fit, args=(storage_path, deterministic), name="supervised-training", daemon=True
        )
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Whether it can take a task."""
        return self._thread.is_alive() and self._idle

    def _fit(self, storage_path: Path, deterministic: bool) -> None:
        from ray.train import TrainingFailedError

        try:
            _trainer(self._settings, self._deadlines, storage_path, deterministic, self._mailbox).fit()
        except (TrainingFailedError, RayError) as error:
            self._error = error

    def run(self, task: Task, progress: Callable[[TaskProgress], None]) -> dict[str, float]:
        """See `SupervisedSession.run`."""
        self._idle = False
        self._ask(self._mailbox.post.remote((ray.put(task),)), task, self._deadlines.start_seconds)
        until: Deadline | None = None
        step = -1
        while True:
            state: MailboxState = self._ask(self._mailbox.look.remote(step), task)
            if state.outcome is not None:
                if state.progress is not None and state.progress.step > step:
                    progress(state.progress)
                self._idle = state.outcome.metrics is not None or self._ask(self._mailbox.all_failed.remote(), task)
                return _metrics(task, state.outcome)
            if state.progress is not None and state.progress.step > step:
                step = state.progress.step
                progress(state.progress)
            if state.ready == self._settings.workers and until is None:
                # The task's time starts when all workers are up; until then the deadline of the start counts.
                until = Deadline(self._deadlines.train_seconds)
            self._check(task, state.ready, until)

    def _ask(self, ref: Any, task: Task, seconds: float = ANSWER_SECONDS) -> Any:
        try:
            return _ask(ref, seconds)
        except StoppedError as error:
            raise TrainFailure(f"task '{task.name}' was lost: {error}") from error

    def _check(self, task: Task, ready: int, until: Deadline | None) -> None:
        workers = self._settings.workers
        if not self._thread.is_alive():
            # The outcome may have been posted between the last look and the end of the job.
            state: MailboxState = self._ask(self._mailbox.look.remote(-1), task)
            if state.outcome is not None:
                _metrics(task, state.outcome)
            raise TrainFailure(f"task '{task.name}' failed: {_reason(self._error)}") from self._error
        waited = time.monotonic() - self._started
        if until is None and waited > self._deadlines.start_seconds:
            raise TrainFailure(
                f"task '{task.name}': {ready} of {workers} Ray Train workers were up after {waited:.0f} s; they need "
                f"{self._settings.cpus:g} CPUs each: free some, or raise resources.deadlines.start_seconds"
            )
        if until is not None and until.remaining() == 0.0:
            raise TrainFailure(
                f"task '{task.name}' did not end within {until.seconds:g} s: raise resources.deadlines.train_seconds"
            )

    def end(self) -> None:
        """End the workers: asked when idle, killed when busy; then the mailbox."""
        with contextlib.suppress(StoppedError):
            if self._idle:
                _ask(self._mailbox.post.remote(()))
                self._thread.join(STOP_SECONDS)
            if self._thread.is_alive():
                for worker in _ask(self._mailbox.workers.remote()):
                    ray.kill(worker)
        self._thread.join(STOP_SECONDS)
        ray.kill(self._mailbox)


def _metrics(task: Task, outcome: Outcome) -> dict[str, float]:
    if outcome.metrics is None:
        failure = DataError if outcome.of_data else TrainFailure
        raise failure(f"task '{task.name}' failed: {outcome.problem}")
    return outcome.metrics


def _reason(error: BaseException | None) -> str:
    """The worker's own exception in one line, where Ray Train tells it."""
    if error is None:
        return "its workers have ended"
    failures = list((getattr(error, "worker_failures", None) or {}).items())
    if not failures:
        return f"{type(error).__name__}: {_last_line(error)}"
    rank, first = failures[0]
    return f"worker {rank} ended with {type(first).__name__}: {_last_line(first)}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _absolute(task: Task) -> Task:
    """Workers run in another directory: relative paths would be lost."""
    if isinstance(task, SftTask):
        return replace(task, data=task.data.absolute(), model=task.model.absolute(), output=task.output.absolute())
    return replace(task, data=task.data.absolute(), policy=task.policy.absolute(), output=task.output.absolute())


def _trainer(
    settings: SupervisedSettings, deadlines: DeadlineSettings, storage_path: Path, deterministic: bool, mailbox: Any
) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    on_gpu = settings.gpus > 0
    threads = 1 if deterministic else settings.threads
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if not on_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    elif deterministic:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    resources = {"CPU": settings.cpus} | ({"GPU": settings.gpus} if on_gpu else {})
    return TorchTrainer(
        work,
        train_loop_config={"mailbox": mailbox, "settings": settings, "deterministic": deterministic},
        torch_config=TorchConfig(
            backend="nccl" if on_gpu else "gloo", timeout_s=max(1, round(min(1800.0, deadlines.train_seconds)))
        ),
        scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=f"supervised-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage_path),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            worker_runtime_env={"env_vars": environment},
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
