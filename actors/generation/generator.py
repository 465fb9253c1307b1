"""The generator actor: one vLLM engine, driven by hand so that samples leave as they finish.

Calls run one after another, except those of the `health` group, which answer while samples are drawn.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray

from actors.generation.vllm_engine import Engine
from configs.exits import ConfigError
from configs.schema.resources import GeneratorSettings
from learner.data.tokenizer import load_tokenizer
from learner.engine.transport.gloo import StoreAddress
from learner.engine.transport.plan import BucketPlan
from learner.records import GenerationRequest, RolloutChunk, RolloutMeta

HEALTH = "health"
"""Concurrency group of calls that never wait for the engine."""

EXIT_DELAY_SECONDS = 1.0
"""Time for an error to travel before the process of a spoilt engine ends."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineInfo:
    """What a started generator says of itself."""

    name: str
    pid: int
    node: str
    weight_version: int
    start_seconds: float
    parameter_names: tuple[str, ...]
    vllm_version: str
    torch_version: str


def generator_environment(settings: GeneratorSettings) -> dict[str, str]:
    """Environment of a generator's process; it must be there before the process imports vLLM."""
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(settings.threads),
    }
    if settings.gpus == 0:
        environment |= {
            # A sampler helper would be compiled for 13 s at the first log-prob; eager is as fast here.
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }
    return environment


class Generator:
    """The actor ``generator-<i>``.

    Args:
        model_path: Hugging Face folder of the weights to start with, which are version `weight_version`.
        tokenizer_path: folder whose tokenizer_config.json names the end token.
        deterministic: one thread.
    """

    def __init__(
        self,
        name: str,
        model_path: Path,
        tokenizer_path: Path,
        settings: GeneratorSettings,
        max_length: int,
        deterministic: bool = False,
        weight_version: int = 0,
    ) -> None:
        begin = time.perf_counter()
        self._name, self._settings = name, settings
        if deterministic and settings.threads != 1:
            raise ConfigError(f"deterministic needs resources.generators.threads: 1, not {settings.threads}")
        self._engine = Engine(
            name,
            model_path,
            settings,
            end_token_id=_end_token_id(tokenizer_path),
            max_length=max_length,
            weight_version=weight_version,
            deterministic=deterministic,
        )
        self._aborted = ""
        self._seconds = time.perf_counter() - begin

    def ready(self) -> EngineInfo:
        """Answers once the engine is up."""
        import torch
        import vllm

        return EngineInfo(
            self._name,
            os.getpid(),
            ray.util.get_node_ip_address(),
            self._engine.weight_version,
            self._seconds,
            self._engine.parameter_names,
            vllm.__version__,
            torch.__version__,
        )

    @ray.method(concurrency_group=HEALTH)
    def ping(self) -> int:
        """The process id, at any time."""
        return os.getpid()

    @ray.method(concurrency_group=HEALTH)
    def abort(self, call: str) -> None:
        """End that call of `generate` after its current engine step; its unfinished requests are dropped."""
        self._aborted = call

    def __repr__(self) -> str:
        return self._name  # what Ray's dashboard and logs call this actor

    def sleep(self) -> None:
        """Give the GPU's memory back until `wake`; nothing may be asked in between but weights."""
        self._engine.sleep()

    def wake(self, part: str) -> None:
        """Take the memory of ``weights``, or of the ``kv_cache``, again; nothing to do for an engine that is awake."""
        self._engine.wake(part)

    def weight_version(self) -> int:
        """Of the weights that the next sample is drawn with."""
        return self._engine.weight_version

    @ray.method(num_returns="streaming")
    def generate(
        self, requests: Sequence[GenerationRequest], call: str = "unnamed"
    ) -> Iterator[RolloutChunk | tuple[RolloutMeta, ...]]:
        """Draw all requests; yields in turn a RolloutChunk and its metas, in chunks of at least `flush_samples`.

        The metas come after their chunk: who has read them knows that the chunk is in the object store.

        Args:
            call: its name for `abort`, never used before.

        Raises:
            RequestRefused: a request cannot be served; none was started, the engine lives on.
        """
        finished: list[tuple[RolloutMeta, np.ndarray, np.ndarray]] = []
        samples = self._engine.generate(requests)
        for sample in samples:
            finished.append(sample)
            if len(finished) >= self._settings.flush_samples:
                # One by one: Ray drives this generator by send(), which `yield from` a tuple does not take.
                chunk, metas = _packed(finished)
                yield chunk
                yield metas
                finished = []
            if self._aborted == call:
                break
        samples.close()  # type: ignore[attr-defined]  # a generator at run time, typed as an Iterator
        if finished:
            chunk, metas = _packed(finished)
            yield chunk
            yield metas

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probs of given sequences at temperature 1, float32 ``[T-1]`` each, of tokens 1 to the last."""
        return self._engine.logprobs(sequences)

    def check_plan(self, plan: BucketPlan) -> None:
        """Raises PlanMismatch when the learner would send other parameters than this engine holds."""
        self._engine.check_plan(plan)

    def join_group(
        self, address: StoreAddress, epoch: int, rank: int, world_size: int, plan: BucketPlan, timeout_seconds: float
    ) -> None:
        """Join the weight group of an epoch; returns when all members have come.

        Raises:
            PlanMismatch: the learner would send other parameters than this engine holds.
            TransportError: not all came in time. In both cases the engine lives on.
        """
        self._engine.join_group(
            address,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            plan=plan,
            timeout_seconds=timeout_seconds,
            own_host=ray.util.get_node_ip_address(),
        )

    def receive_weights(self, version: int) -> float:
        """Take part in one broadcast; returns its seconds. After an error this process exits: start another.

        Raises:
            TransportError: a bucket was lost or damaged, or the sender is gone.
        """
        return self._update(version, None)

    def load_from(self, path: Path, version: int) -> float:
        """Take the weights of a Hugging Face folder as `version`; returns the seconds. After an error this process exits."""
        return self._update(version, path)

    def _update(self, version: int, folder: Path | None) -> float:
        begin = time.perf_counter()
        try:
            self._engine.update_weights(version, folder)
        except BaseException:
            # Half-loaded layers cannot be told from good ones: this engine must not serve again.
            _log.exception("%s: the update to weight version %d failed; the process exits", self._name, version)
            threading.Timer(EXIT_DELAY_SECONDS, os._exit, (1,)).start()
            raise
        return time.perf_counter() - begin

    def shutdown(self) -> None:
        """End this process; the caller sees the actor die."""
        ray.actor.exit_actor()


def _packed(samples: list[tuple[RolloutMeta, np.ndarray, np.ndarray]]) -> tuple[RolloutChunk, tuple[RolloutMeta, ...]]:
    metas = tuple(meta for meta, _, _ in samples)
    return RolloutChunk(metas, tuple(ids for _, ids, _ in samples), tuple(values for _, _, values in samples)), metas


def _end_token_id(tokenizer_path: Path) -> int:
    token_id = load_tokenizer(tokenizer_path).eos_token_id
    if token_id is None:
        raise ConfigError(f"{tokenizer_path} has a tokenizer without an end token: a response could never end")
    return int(token_id)
