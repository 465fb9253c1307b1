"""What the driver spends per sample on dispatch, fleet, scores and status, as the number of generators grows.

    python tests/bench/control_path.py [--generators 64 256] [--samples 16] [--batches 5] [--per-process 16]

Generators and scorers are light Ray actors that answer at once in the real protocol (streams of chunk and metas, probes,
scores as two objects); `RolloutPool`, `GeneratorGroup`, `ScorerGroup`, `Dispatch` and `StatusWriter` are the real ones. So
that hundreds fit on one machine, several fake generators share a process; each has calls and streams of its own. Sizes take
turns batch by batch, and what is compared is the driver's CPU time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.generation.generator import EngineInfo
from actors.generation.group import GeneratorGroup
from actors.generation.start import GeneratorSpec
from actors.rollout.pool import RolloutPool
from actors.scoring.group import ScorerGroup
from actors.scoring.model_scorer import ScoreMeta, ScorerModels
from cluster.run_folder.status import StatusWriter
from configs.schema.resources import DeadlineSettings, GeneratorSettings, ScorerSettings
from learner.records import GenerationRequest, RolloutChunk, RolloutMeta, SamplingSettings, ScoreChunk

RESPONSE = 8
CHUNK = 16


class Host:
    """A process of several fake generators."""

    def ready(self, name: str) -> EngineInfo:
        return EngineInfo(name, 0, "", 0, 0.0, (), "", "")

    def ping(self, name: str) -> int:
        return 0

    def abort(self, name: str, call: str) -> None: ...

    @ray.method(num_returns="streaming")
    def generate(self, name: str, requests: Sequence[GenerationRequest], call: str) -> Iterator[Any]:
        for start in range(0, len(requests), CHUNK):
            part = requests[start : start + CHUNK]
            metas = tuple(
                RolloutMeta(one.request_id, one.prompt_id, len(one.prompt_token_ids), RESPONSE, "length", 0, name)
                for one in part
            )
            ids = tuple(np.zeros(len(one.prompt_token_ids) + RESPONSE, dtype=np.int32) for one in part)
            yield RolloutChunk(metas, ids, tuple(np.zeros(RESPONSE, dtype=np.float32) for _ in part))
            yield metas


class Bound:
    """A method of one fake generator."""

    def __init__(self, method: Any, name: str) -> None:
        self._method, self._name = method, name

    def options(self, **options: Any) -> Bound:
        return Bound(self._method.options(**options), self._name)

    def remote(self, *arguments: Any) -> Any:
        return self._method.remote(self._name, *arguments)


class Handle:
    """What a group takes for a generator's actor handle."""

    def __init__(self, host: Any, name: str) -> None:
        self.ready, self.ping = Bound(host.ready, name), Bound(host.ping, name)
        self.abort, self.generate = Bound(host.abort, name), Bound(host.generate, name)


class FakeScorer:
    """A scorer that knows its answer."""

    def ready(self) -> int:
        return 0

    @ray.method(num_returns=2)
    def score(self, chunk: RolloutChunk) -> tuple[ScoreMeta, ScoreChunk]:
        ids = tuple(meta.request_id for meta in chunk.meta)
        scores = {"reward": tuple(0.5 for _ in ids), "cost/harm": tuple(-0.5 for _ in ids)}
        arrays = {name: np.asarray(values, dtype=np.float32) for name, values in scores.items()}
        reference = tuple(np.zeros(RESPONSE, dtype=np.float32) for _ in ids)
        return ScoreMeta(ids, scores, {}, 0.0, 0), ScoreChunk(ids, arrays, reference)


class Generators(GeneratorGroup):
    """The real group over fake generators."""

    def __init__(self, count: int, per_process: int) -> None:
        hosts = -(-count // per_process)
        actor = ray.remote(num_cpus=0, max_concurrency=per_process + 2)(Host)
        self._hosts = [actor.remote() for _ in range(hosts)]
        spec = GeneratorSpec(Path(), GeneratorSettings(count=count), 128)
        super().__init__(spec, Path(), DeadlineSettings())

    def _start(self, name: str) -> None:
        host = self._hosts[int(name.rsplit("-", 1)[1]) % len(self._hosts)]
        self._actors[name] = Handle(host, name)
        self._starting[name] = self._actors[name].ready.remote()


class Scorers(ScorerGroup):
    """The real group over fake scorers."""

    def _start(self, name: str, models: ScorerModels) -> Any:
        return ray.remote(num_cpus=0)(FakeScorer).remote()


class Fleet:
    """One size, ready to collect."""

    def __init__(self, count: int, per_process: int, folder: Path) -> None:
        self.count = count
        self.generators = Generators(count, per_process)
        models = ScorerModels({"reward": Path(), "cost/harm": Path()}, Path())
        scorers = Scorers(ScorerSettings(replicas=2), models, DeadlineSettings())
        scorers.wait_ready()
        self.generators.wait_serving()
        self.pool = RolloutPool(self.generators, scorers, DeadlineSettings())
        self.status = StatusWriter(folder / f"{count}.json", run="bench", stages=["ppo"])
        self.batches = 0

    def batch(self, samples: int) -> tuple[float, float]:
        """Collect `samples` per generator and tell the status; returns CPU and wall seconds of the driver per sample."""
        self.batches += 1
        total = self.count * samples
        sampling = SamplingSettings(max_response_tokens=RESPONSE)
        requests = [
            GenerationRequest(f"{self.batches}-{index}", f"p{index}", (1, 2, 3), index, sampling)
            for index in range(total)
        ]
        cpu, wall = time.process_time(), time.perf_counter()
        collected = self.pool.collect(requests)
        health = self.generators.health
        states = [
            {"name": name, "state": health.health(name).value, "weight_version": health.weight_version(name)}
            for name in self.generators.names
        ]
        self.status.update(step=self.batches, steps=self.batches, generators=states)
        spent = (time.process_time() - cpu) / total, (time.perf_counter() - wall) / total
        assert len(collected.scored) == total and collected.duplicates == 0
        return spent


def measure(sizes: Sequence[int], samples: int, batches: int, per_process: int) -> list[dict[str, float]]:
    """Medians per size, in milliseconds per sample."""
    with tempfile.TemporaryDirectory() as folder:
        fleets = [Fleet(size, per_process, Path(folder)) for size in sizes]
        for fleet in fleets:
            fleet.batch(samples)  # what is imported and connected on first use
        spent: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
        for _ in range(batches):
            for fleet in fleets:
                spent[fleet.count].append(fleet.batch(samples))
    return [
        {
            "generators": size,
            "samples": size * samples,
            "driver_cpu_ms_per_sample": 1000 * statistics.median(cpu for cpu, _ in spent[size]),
            "wall_ms_per_sample": 1000 * statistics.median(wall for _, wall in spent[size]),
        }
        for size in sizes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--samples", type=int, default=16, help="per generator and batch")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--per-process", type=int, default=16)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sy-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=4, include_dashboard=False, _temp_dir=folder, object_store_memory=200 * 2**20, log_to_driver=False
        )
        try:
            for row in measure(asked.generators, asked.samples, asked.batches, asked.per_process):
                print(json.dumps(row), flush=True)
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
