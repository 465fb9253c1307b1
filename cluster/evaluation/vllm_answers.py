"""Answers drawn by vLLM generators on our own Ray head, as a run draws them. Ray is imported when the first answer is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from actors.judging.by_judge.transformers_answers import Drawn
from cluster.evaluation.local import LocalModel
from cluster.run_folder.digests import file_digest
from configs.exits import ClusterError
from configs.schema.resources import DeadlineSettings, GeneratorSettings, ResourceSettings
from learner.model_files.remote_code import read_config_document
from learner.records import GenerationRequest

if TYPE_CHECKING:
    from cluster.resources.engines import Engines

BUNCH = 512
"""Samples that are drawn before their texts are fetched and kept."""
GPU_CACHE_BYTES = 8 * 2**30
SMALL = 64
"""Requests up to which one generator is enough."""


class VllmAnswers:
    """Generators that stay warm from one model to the next, where its parameters have the same names and shapes."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._engines: Engines | None = None
        self._fits: object = None
        self._joined = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def draw(self, model: LocalModel, requests: Sequence[GenerationRequest]) -> Iterator[Drawn]:
        """The answers, bunch by bunch.

        Raises:
            ClusterError: the head or its engines do not start. StoppedError: the generators were lost.
        """
        self._join()
        from actors.judging.pairs.chunk_texts import read_chunks
        from learner.deadlines import fetch_result

        engines = self._for(model, len(requests))
        pool = engines.rollout_pool(model.folder, model.folder)
        for start in range(0, len(requests), BUNCH):
            rows = pool.generate_only(requests[start : start + BUNCH]).rows
            chunks = list(dict.fromkeys(row.chunk for row in rows))
            call = read_chunks.remote(str(model.folder), *chunks)
            yield from fetch_result(call, deadline_seconds=DeadlineSettings().score_seconds, operation="read_chunks")

    def close(self) -> None:
        """End the generators and leave the cluster; the head goes on, as after a run."""
        if self._engines is not None:
            self._engines.close()
            self._engines = None
        if self._joined:
            import ray

            ray.shutdown()
            self._joined = False

    def _join(self) -> None:
        if self._joined:
            return
        from cluster.resources.connection import join_own_head

        join_own_head(self._storage)
        import ray

        from cluster.resources.connection import NAMESPACE

        try:
            ray.init(address=os.environ["RAY_ADDRESS"], namespace=f"{NAMESPACE}eval-{os.getpid()}", log_to_driver=False)
        except ConnectionError as error:
            raise ClusterError("the local Ray head does not answer: `steelyard head stop`, then try again") from error
        self._joined = True

    def _for(self, model: LocalModel, requests: int) -> Engines:
        """Engines that can hold the model: the warm ones, or new ones in their place."""
        from cluster.resources.engines import Engines
        from learner.engine.transport.plan import folder_shapes

        count = 1 if requests <= SMALL else 2
        fits = (folder_shapes(model.folder), file_digest(model.folder / "tokenizer.json"), model.positions, count)
        if self._engines is not None and fits != self._fits:
            self._engines.close()
            self._engines = None
        if self._engines is None:
            settings = ResourceSettings(generators=_generators(count, model))
            self._engines, self._fits = Engines(settings, model.positions, self._storage), fits
        return self._engines


def _generators(count: int, model: LocalModel) -> GeneratorSettings:
    import torch

    if torch.cuda.is_available():
        cache = max(GPU_CACHE_BYTES, 2 * _sequence_bytes(model, 2))
        values: dict[str, Any] = {"count": 1, "gpus": 1.0, "dtype": "bfloat16", "kv_cache_bytes": cache}
    else:
        cache = max(GeneratorSettings().kv_cache_bytes, 2 * _sequence_bytes(model, 4))
        values = {"count": count, "kv_cache_bytes": cache}
    return GeneratorSettings.model_validate(values)


def _sequence_bytes(model: LocalModel, number_bytes: int) -> int:
    """Keys and values of one sequence of full length: vLLM does not start with room for less."""
    config = read_config_document(model.folder)
    heads = int(config.get("num_attention_heads") or 1)
    width = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    layers, kv_heads = int(config.get("num_hidden_layers") or 0), int(config.get("num_key_value_heads") or heads)
    return 2 * layers * kv_heads * width * model.positions * number_bytes
