"""The learner group: all ranks as Ray actors, and the calls the driver makes of them.

Invariant: a method returns only when every rank has done its part; when one fails, all are taken to be out of step, and
the group must be loaded from a checkpoint or started again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from configs.schema.resources import DeadlineSettings, LearnerSettings
from learner.algorithms.experience import BatchRow, deal_rows
from learner.deadlines import Deadline, fetch
from learner.engine.transport.gloo import SendReport, StoreAddress
from learner.engine.transport.plan import BucketPlan
from learner.ranks.rank import LearnerRank, LoadRequest, RankFacts
from learner.records import SignalTerms, StepResult


class LearnerGroup:
    """`learner-0` … `learner-<n-1>`; made by `start`."""

    def __init__(self, ranks: Sequence[Any], deadlines: DeadlineSettings, facts: Sequence[RankFacts]) -> None:
        self.ranks = list(ranks)
        """Actor handles, in rank order."""
        self.facts = list(facts)
        self._deadlines = deadlines
        self._request: LoadRequest | None = None

    @classmethod
    def start(
        cls,
        settings: LearnerSettings,
        deadlines: DeadlineSettings,
        *,
        deterministic: bool = False,
        name: str = "learner",
        scheduling: Sequence[Any] = (),
    ) -> LearnerGroup:
        """Start the ranks and let them meet.

        Args:
            scheduling: a Ray scheduling strategy per rank (placement-group bundles); empty leaves it to Ray.

        Raises:
            RemoteTimeout, RemoteFailure: an actor did not come up; those that did are ended.
        """
        actor_class = ray.remote(LearnerRank)
        ranks: list[Any] = []
        for rank in range(settings.ranks):
            options: dict[str, Any] = {
                "name": f"{name}-{rank}",
                "num_cpus": settings.cpus,
                "num_gpus": settings.gpus,
                "runtime_env": {"env_vars": _environment(settings, deterministic)},
            }
            if scheduling:
                options["scheduling_strategy"] = scheduling[rank]
            ranks.append(actor_class.options(**options).remote(f"{name}-{rank}", rank, settings, deterministic))
        try:
            return cls(ranks, deadlines, _introduce(ranks, deadlines))
        except BaseException:
            # Also those that came up: they wait in a collective for the rank that did not.
            for actor in ranks:
                ray.kill(actor)
            raise

    def load(self, request: LoadRequest) -> None:
        """Load models and start fresh optimisers on all ranks; again for the next arm of a comparison."""
        self._all("load", self._deadlines.start_seconds, request)
        self._request = request

    def step(
        self, rows: Sequence[BatchRow], terms: SignalTerms, step: int, *, rollouts: Path | None = None
    ) -> StepResult:
        """One optimiser step on a batch; `rollouts` is a folder that every rank can write.

        Raises:
            BadBatch: a request is in the batch twice, or there are fewer rows than ranks.
            RemoteFailure: a rank stopped the update (its message names the request) or died.
        """
        assert self._request is not None, "load comes before step"
        shards = deal_rows(rows, ranks=len(self.ranks), seed=self._request.seed, step=step)
        seconds = self._deadlines.learn_seconds
        calls = [
            actor.step.options(name=f"step {step}").remote(shard, terms, step, rollouts, seconds)
            for actor, shard in zip(self.ranks, shards, strict=True)
        ]
        results: list[StepResult] = fetch(calls, deadline_seconds=seconds, operation=f"learner group: step {step}")
        slowest = {phase: max(result.phase_seconds[phase] for result in results) for phase in results[0].phase_seconds}
        # The same on every rank, but for what names its rank; of numbers, rank 0's word counts.
        metrics = {name: value for result in reversed(results) for name, value in result.metrics.items()}
        return StepResult(step, results[0].weight_version, metrics, slowest, results[0].notes)

    def bucket_plan(self, *, dtype: str, bucket_bytes: int) -> BucketPlan:
        """The wire contract that generators and `publish` share; made again after `load` of another model."""
        call = self.ranks[0].bucket_plan.remote(dtype, bucket_bytes)
        plan: BucketPlan = fetch(
            call, deadline_seconds=self._deadlines.start_seconds, operation="learner-0: bucket_plan"
        )
        return plan

    def store_address(self) -> StoreAddress:
        """Where generators meet rank 0 to join a weight group."""
        seconds = self._deadlines.broadcast_seconds
        address: StoreAddress = fetch(
            self.ranks[0].open_store.remote(seconds), deadline_seconds=seconds, operation="learner-0: open_store"
        )
        return address

    def open_transport(self, *, epoch: int, world_size: int) -> Any:
        """Make rank 0 join a weight group; returns a reference to wait for, after the generators were asked to join."""
        return self.ranks[0].open_transport.remote(epoch, world_size, self._deadlines.broadcast_seconds)

    def publish(self, plan: BucketPlan, version: int) -> SendReport:
        """Send the weights to every generator of the group; ask the generators to receive *before* this call waits.

        Raises:
            RemoteFailure: a generator was lost; start the next epoch.
        """
        calls = [actor.publish.options(name=f"publish weights {version}").remote(plan, version) for actor in self.ranks]
        seconds = self._deadlines.broadcast_seconds
        reports = fetch(calls, deadline_seconds=seconds, operation=f"learner group: publish weight version {version}")
        report: SendReport = reports[0]
        return report

    def save_policy(self, path: Path) -> None:
        """Write the policy as a Hugging Face folder."""
        self._all("save_policy", self._deadlines.start_seconds, path)

    def save_checkpoint(self, path: Path, step: int, driver_state: Mapping[str, Any]) -> None:
        """Write everything a resumed run needs; `driver_state` is JSON and comes back from `load_checkpoint`."""
        self._all("save_checkpoint", self._deadlines.start_seconds, path, step, dict(driver_state))

    def load_checkpoint(self, path: Path) -> dict[str, Any]:
        """Go on from a checkpoint, after `load` with the same request; returns the driver's state and its `step`."""
        state: dict[str, Any] = self._all("load_checkpoint", self._deadlines.start_seconds, path)[0]
        return state

    def shutdown(self) -> None:
        """End the actors."""
        for actor in self.ranks:
            ray.kill(actor)
        self.ranks = []

    def _all(self, method: str, seconds: float, *arguments: Any) -> list[Any]:
        calls = [getattr(actor, method).remote(*arguments) for actor in self.ranks]
        answers: list[Any] = fetch(calls, deadline_seconds=seconds, operation=f"learner group: {method}")
        return answers


def _introduce(ranks: Sequence[Any], deadlines: DeadlineSettings) -> list[RankFacts]:
    deadline = Deadline(deadlines.start_seconds)
    address, port = fetch(
        ranks[0].address.remote(), deadline_seconds=deadline.remaining(), operation="learner rank 0: address"
    )
    calls = [actor.join.remote(address, port, len(ranks), deadlines.learn_seconds) for actor in ranks]
    facts: list[RankFacts] = fetch(calls, deadline_seconds=deadline.remaining(), operation="learner group: join")
    return facts


def _environment(settings: LearnerSettings, deterministic: bool) -> dict[str, str]:
    """Set where the actor starts, for OpenMP and DeepSpeed read it at import."""
    threads = "1" if deterministic else str(settings.threads)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "LOCAL_RANK": "0",
        "DS_ACCELERATOR": "cuda" if settings.gpus > 0 else "cpu",
        "TOKENIZERS_PARALLELISM": "false",
    }
