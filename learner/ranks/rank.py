"""One learner rank: a Ray actor that owns its share of the policy and the critics.

Rank contract: the group calls every method of this class on all ranks at once (except `address`, `bucket_plan`,
`open_store` and `open_transport`), for each is collective. Bulk goes from producers to ranks by reference and
from ranks to files; only scalars return to the driver.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import nn

from configs.schema.ppo import PpoSettings
from configs.schema.resources import LearnerSettings
from configs.schema.run import GROUP_ALGORITHMS
from configs.schema.signals import ConstraintSettings
from configs.schema.supervised import ReferenceSettings
from learner.algorithms.experience import BadBatch, RankShard, Samples, assemble
from learner.algorithms.policy_batch import Experience
from learner.algorithms.ptx import PtxData
from learner.algorithms.update import Critic, PolicyLearner, update_policy
from learner.deadlines import fetch
from learner.engine.collective import TorchRanks
from learner.engine.deepspeed_engine import DeepSpeedTrainEngine, init_process_group
from learner.engine.micro_batch_size import micro_batch_tokens
from learner.engine.transport.gloo import GlooSender, SendReport, StoreAddress, TransportStore
from learner.engine.transport.plan import BucketPlan, TransportError, plan_buckets
from learner.models.modules import ResponseLogprobs, checkpoint_layers, load_policy, load_tokenizer
from learner.ranks import checkpoint
from learner.ranks.critics import critic_signals, named_shapes, new_critic, plain_name, save_policy_folder
from learner.ranks.rollout_files import rollout_file, write_rollouts
from learner.records import SignalTerms, StepResult
from learner.signals.measure import Measure


@dataclass(frozen=True)
class LoadRequest:
    """What a group learns: models, settings and scales. Loading again starts a new run in the same processes."""

    policy_path: Path
    reward_model_path: Path | None
    """Start of the reward critic; None of a signal that this run trained no model for: the policy's trunk is taken."""
    cost_paths: Mapping[str, Path]
    """Cost model per constraint that has one of this run; separate cost critics start from it."""
    ppo: PpoSettings
    constraints: Mapping[str, ConstraintSettings]
    reward_normaliser: tuple[float, float] = (0.0, 1.0)
    """Mean and spread on the preference set; (0, 1) leaves rewards as they are."""
    maximises: bool = True
    """False: objective `none`."""
    cost_means: Mapping[str, float] = field(default_factory=dict)
    """Mean g per constraint, where its value head starts."""
    reward_start: float = 0.0
    """Mean of the normalised reward, where the value head of a reward without a model of this run starts."""
    ptx_path: Path | None = None
    seed: int = 0
    weight_version: int = 0
    algorithm: str = "ppo_lag"
    """One of ``configs.schema.run.LOOP_ALGORITHMS``."""
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    """`masks_by_token_id` is the learner's; the driver sees to the others."""


@dataclass(frozen=True)
class RankFacts:
    """Who answered."""

    name: str
    pid: int
    node: str
    device: str
    seconds: float


class LearnerRank:
    """The actor `learner-<rank>`."""

    def __init__(self, name: str, rank: int, settings: LearnerSettings, deterministic: bool) -> None:
        self._name, self._rank, self._settings, self._deterministic = name, rank, settings, deterministic
        torch.set_num_threads(1 if deterministic else settings.threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        self._request: LoadRequest | None = None
        self._learner: PolicyLearner | None = None
        self._policy: nn.Module | None = None
        self._engines: list[DeepSpeedTrainEngine] = []
        self._weight_version = 0
        self._store: TransportStore | None = None
        self._sender: GlooSender | None = None

    def __repr__(self) -> str:
        return self._name  # what Ray's dashboard and logs call this actor

    def address(self) -> tuple[str, int]:
        """An address and free port of this node, where ranks may meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def join(self, address: str, port: int, world_size: int, timeout_seconds: float) -> RankFacts:
        """Join the other ranks; a collective call fails after `timeout_seconds`."""
        start = time.perf_counter()
        self._device = torch.device("cuda", 0) if self._settings.gpus > 0 else torch.device("cpu")
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        init_process_group(
            rank=self._rank,
            world_size=world_size,
            address=address,
            port=port,
            backend=backend,
            timeout_seconds=timeout_seconds,
        )
        self._ranks = TorchRanks(self._device)
        seconds = time.perf_counter() - start
        return RankFacts(self._name, os.getpid(), ray.util.get_node_ip_address(), str(self._device), seconds)

    def load(self, request: LoadRequest) -> None:
        """Build policy, critics and fresh optimisers; what was loaded before is dropped."""
        self._drop_models()
        _seed_everything(request.seed)
        self._request = request
        self._weight_version = request.weight_version
        ppo, mean_and_std = request.ppo, request.reward_normaliser
        policy = load_policy(request.policy_path)
        self._pad_token_id = int(policy.config.pad_token_id)
        self._excluded_token_ids = _excluded_token_ids(request)
        self._policy = ResponseLogprobs(policy)
        actor = self._engine(self._policy, ppo.actor_learning_rate)
        critics = []
        has_critics = request.algorithm not in GROUP_ALGORITHMS
        for signals in critic_signals(ppo.critics, list(request.constraints)) if has_critics else []:
            module = new_critic(
                signals,
                request.reward_model_path,
                request.cost_paths,
                mean_and_std,
                request.constraints,
                request.cost_means,
                policy_path=request.policy_path,
                reward_start=request.reward_start,
            )
            critics.append(Critic(self._engine(module, ppo.critic_learning_rate), signals))
        self._learner = PolicyLearner(
            actor=actor,
            critics=tuple(critics),
            ranks=self._ranks,
            settings=ppo,
            measures={
                name: Measure(
                    constraint.measure,
                    alpha=constraint.alpha,
                    scale=constraint.effective_scale,
                    upper_confidence=constraint.upper_confidence,
                )
                for name, constraint in request.constraints.items()
            },
            algorithm=request.algorithm,
            reward_mean=mean_and_std[0],
            reward_std=mean_and_std[1],
            maximises=request.maximises,
            ptx=PtxData.read(request.ptx_path) if request.ptx_path is not None and ppo.ptx_coefficient > 0 else None,
            seed=request.seed,
            tokens_per_micro_batch=micro_batch_tokens(self._settings),
        )

    def _engine(self, module: nn.Module, rate: float) -> DeepSpeedTrainEngine:
        assert self._request is not None
        settings = self._settings
        if settings.checkpoint_activations:
            checkpoint_layers(module)
        engine = DeepSpeedTrainEngine(
            module,
            learning_rate=rate,
            gradient_clip=self._request.ppo.gradient_clip,
            zero_stage=settings.zero_stage,
            dtype=settings.dtype,
            offload=settings.offload,
        )
        self._engines.append(engine)
        return engine

    def _drop_models(self) -> None:
        self._learner, self._policy = None, None
        while self._engines:
            self._engines.pop().close()
        gc.collect()

    def step(
        self, shard: RankShard, terms: SignalTerms, step: int, rollouts: Path | None, fetch_seconds: float
    ) -> StepResult:
        """Fetch this rank's samples, learn from them once, and write them to `rollouts` where that is given.

        Raises:
            BadBatch: the samples cannot be used.
            NonFiniteUpdate: the update was stopped.
        """
        start = time.perf_counter()
        learner = self._loaded()
        samples = self._fetch(shard, fetch_seconds)
        fetched = time.perf_counter()
        update = update_policy(learner, samples, terms, step)
        # After the update: a step that was stopped leaves the version of the weights that are still there.
        self._weight_version += 1
        seconds = {"fetch": fetched - start, **update.phase_seconds}
        if rollouts is not None:
            self._write(rollouts, update.experience, terms, step)
            seconds["write"] = time.perf_counter() - start - sum(seconds.values())
        metrics = {**update.metrics, **_gpu_memory(self._rank)}
        return StepResult(step, self._weight_version, metrics, seconds, update.notes)

    def _fetch(self, shard: RankShard, fetch_seconds: float) -> Samples:
        assert self._request is not None
        rollout_refs = list(dict.fromkeys(row.rollout for row in shard.rows))
        score_refs = list(dict.fromkeys(ref for row in shard.rows for ref in row.scores))
        chunks = fetch(
            [*rollout_refs, *score_refs],
            deadline_seconds=fetch_seconds,
            operation=f"{self._name}: samples and scores of the batch",
        )
        problem: BadBatch | None = None
        try:
            samples = assemble(
                shard,
                dict(zip(rollout_refs, chunks[: len(rollout_refs)], strict=True)),
                dict(zip(score_refs, chunks[len(rollout_refs) :], strict=True)),
                list(self._request.constraints),
                self._pad_token_id,
                needs_reward=self._request.maximises,
                excluded_token_ids=self._excluded_token_ids,
            )
        except BadBatch as error:
            problem = error
        # Together: a rank that raised alone would leave the others waiting in their first collective call.
        if float(self._ranks.max(torch.tensor(float(problem is not None)))):
            raise problem or BadBatch("another learner rank could not use its samples; its own error says why")
        return samples

    def _write(self, folder: Path, experience: Experience, terms: SignalTerms, step: int) -> None:
        write_rollouts(rollout_file(folder, step, self._rank), experience, terms.multipliers, step)

    # --- weights out -------------------------------------------------------------------------------------------------

    def bucket_plan(self, dtype: str, bucket_bytes: int) -> BucketPlan:
        """The wire contract for the loaded policy, to engines of this dtype. Not collective: ask rank 0."""
        self._loaded()
        assert self._policy is not None
        return plan_buckets(named_shapes(self._policy), dtype=dtype, bucket_bytes=bucket_bytes)

    def open_store(self, timeout_seconds: float) -> StoreAddress:
        """Rank 0: where the members of weight groups meet; the same for the actor's whole life."""
        if self._store is None:
            self._store = TransportStore(ray.util.get_node_ip_address(), timeout_seconds=timeout_seconds)
        return self._store.address

    def open_transport(self, epoch: int, world_size: int, timeout_seconds: float) -> None:
        """Rank 0: wait for all generators of this epoch's weight group; an earlier group is dropped.

        Raises:
            TransportError: not all came in time.
        """
        address = self.open_store(timeout_seconds)
        self._sender = None  # first leave the old group: its sockets must not outlive its members
        self._sender = GlooSender(address, world_size=world_size, epoch=epoch, timeout_seconds=timeout_seconds)

    def publish(self, plan: BucketPlan, version: int) -> SendReport | None:
        """Send the policy's weights; all ranks gather, rank 0 sends and reports.

        Raises:
            TransportError: rank 0 lost a generator; build the group again as the next epoch.
        """
        groups = self._loaded().actor.gathered_parameters(plan.bucket_bytes)
        stream = ((plain_name(name), tensor) for group in groups for name, tensor in group)
        if self._rank == 0:
            if self._sender is None:
                raise TransportError(f"{self._name} is in no weight group: open_transport comes before publish")
            return self._sender.broadcast(stream, plan, version)
        # Only rank 0 sends, but gathering is collective: every rank goes through the same stream to its end.
        for _ in stream:
            pass
        return None

    def save_policy(self, path: Path) -> None:
        """Write the policy as a Hugging Face folder; rank 0 writes, all ranks gather."""
        learner = self._loaded()
        state: dict[str, torch.Tensor] = {}
        for group in learner.actor.gathered_parameters(bucket_bytes=64 * 2**20):
            if self._rank == 0:
                state |= {plain_name(name): tensor.to("cpu", copy=True) for name, tensor in group}
        if self._rank == 0:
            assert self._request is not None
            save_policy_folder(state, self._request.policy_path, path)
        self._barrier()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def save_checkpoint(self, path: Path, step: int, driver_state: Mapping[str, Any]) -> None:
        """Write policy, critics, optimisers and RNG of all ranks and the driver's state; rank 0 seals it at the end."""
        learner = self._loaded()
        if self._rank == 0:
            checkpoint.begin(path)
        self._barrier()  # the folder is there before any rank writes into it
        staging = checkpoint.staging_folder(path)
        learner.actor.save(staging / "actor")
        for critic in learner.critics:
            critic.engine.save(staging / _folder(critic))
        torch.save({"rng": _rng_state(), "weight_version": self._weight_version}, staging / f"rank-{self._rank}.pt")
        self._barrier()  # every rank's files are complete before the manifest lists them
        if self._rank == 0:
            checkpoint.commit(path, step=step, driver_state=driver_state, facts=self._facts())
        self._barrier()  # no rank goes on to change what is not sealed yet

    def load_checkpoint(self, path: Path) -> dict[str, Any]:
        """Go on from a checkpoint, after `load` with the same request; returns the driver's state.

        Raises:
            CheckpointError: it is incomplete, damaged, or of another number of ranks, ZeRO stage or set of signals.
        """
        learner = self._loaded()
        manifest = checkpoint.verify(path)
        if manifest["facts"] != self._facts():
            raise checkpoint.CheckpointError(
                f"checkpoint {path} was saved by {manifest['facts']}, this group is {self._facts()}: start it alike"
            )
        learner.actor.load(path / "actor")
        for critic in learner.critics:
            critic.engine.load(path / _folder(critic))
        rank_state = torch.load(path / f"rank-{self._rank}.pt", weights_only=False)
        _restore_rng(rank_state["rng"])
        # Never back: the generators may have seen this number, or a higher one, with other weights.
        self._weight_version = max(self._weight_version + 1, int(rank_state["weight_version"]))
        return {**checkpoint.read_driver_state(path), "step": manifest["step"], "weight_version": self._weight_version}

    def _facts(self) -> dict[str, Any]:
        learner = self._loaded()
        return {
            "algorithm": learner.algorithm,
            "ranks": self._ranks.size,
            "zero_stage": self._settings.zero_stage,
            "dtype": self._settings.dtype,
            "critics": [list(critic.signals) for critic in learner.critics],
        }

    def _barrier(self) -> None:
        self._ranks.sum(torch.zeros(1))

    def _loaded(self) -> PolicyLearner:
        if self._learner is None:
            raise BadBatch(f"{self._name} has no models yet: call load first")
        return self._learner


def _folder(critic: Critic) -> str:
    return "critic-" + "-".join(signal.replace("/", "_") for signal in critic.signals)


def _excluded_token_ids(request: LoadRequest) -> tuple[int, ...]:
    """The ids that the papers' masks leave out, where the reference setting asks for it."""
    if not request.reference.masks_by_token_id:
        return ()
    tokenizer = load_tokenizer(request.policy_path)
    return tuple(int(token_id) for token_id in (tokenizer.pad_token_id, tokenizer.unk_token_id) if token_id is not None)


def _gpu_memory(rank: int) -> dict[str, float]:
    """Bytes that this rank has held at most; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {f"gpu_memory/{rank}": float(torch.cuda.max_memory_allocated())}


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _rng_state() -> dict[str, Any]:
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rng(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
