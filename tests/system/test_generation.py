"""Two real vLLM engines, a scorer and a weight sender on a real Ray: delivery, repeatability, weight updates, death.

All tests share the engines and run in the order written: the later ones change weights and kill an engine.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import Tensor

from actors.events import ActorEvent
from actors.generation.fleet_health import FleetPolicy, Health
from actors.generation.group import GeneratorGroup
from actors.generation.start import GeneratorSpec
from actors.generation.vllm_engine import RequestRefused
from actors.generation.weight_publisher import WeightPublisher
from actors.rollout.collected import Collected
from actors.rollout.pool import RolloutPool
from actors.scoring.group import ScorerGroup
from actors.scoring.model_scorer import ScorerModels
from configs.schema.resources import DeadlineSettings, GeneratorSettings, ScorerSettings, TransportSettings
from learner.deadlines import fetch
from learner.engine.transport.gloo import GlooSender, SendReport, StoreAddress, TransportStore
from learner.engine.transport.plan import BucketPlan, PlanMismatch, plan_buckets
from learner.models.modules import forward_end_scores, forward_response_logprobs, load_policy, load_score_model
from learner.records import GenerationRequest, RolloutChunk, SamplingSettings

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

DEADLINES = DeadlineSettings(start_seconds=240, generate_seconds=60, score_seconds=60, broadcast_seconds=30)
MAX_LENGTH = 128
FIRST_WORD_ID = 6
"""Ids below are special tokens; see `learner.data.tokenizer`."""
TOLERANCE = 1e-4
"""Nats. Engine and Hugging Face in float32 differ by up to 1.4e-5 (measured); other weights differ by 0.01 and more."""
BUCKET_BYTES = 64 * 1024


class StaleBucketSender(GlooSender):
    """Sends the old content of one bucket, with a checksum that is right for it: only a look at the outputs can tell."""

    withheld = 2

    def __init__(self, *arguments: Any, old: dict[str, Tensor], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._old = old

    def _fill(self, bucket: Any, index: int, stream: Any, plan: BucketPlan, version: int) -> Tensor:
        fresh = super()._fill(bucket, index, stream, plan, version)
        if index != self.withheld:
            return fresh
        names = [parameter.name for parameter, _ in plan.of_bucket(bucket)]
        return super()._fill(bucket, index, iter([(name, self._old[name]) for name in names]), plan, version)


class SenderActor:
    """Stands for learner rank 0: the same transport calls, on weights read from folders."""

    def __init__(self) -> None:
        self._store = TransportStore(ray.util.get_node_ip_address(), timeout_seconds=30)
        self._model: Any = None
        self._old: dict[str, Tensor] = {}
        self._sender: GlooSender | None = None

    def load(self, path: Path) -> None:
        self._old = dict(self._model.named_parameters()) if self._model is not None else {}
        self._model = load_policy(path)

    def plan(self, dtype: str, bucket_bytes: int, drop: str | None) -> BucketPlan:
        shapes = [(name, tensor.shape) for name, tensor in self._model.named_parameters() if name != drop]
        return plan_buckets(shapes, dtype=dtype, bucket_bytes=bucket_bytes)

    def address(self) -> StoreAddress:
        return self._store.address

    def connect(self, epoch: int, world_size: int, stale_bucket: bool) -> None:
        self._sender = None
        options: dict[str, Any] = {"world_size": world_size, "epoch": epoch, "timeout_seconds": 30}
        if stale_bucket:
            self._sender = StaleBucketSender(self._store.address, old=self._old, **options)
        else:
            self._sender = GlooSender(self._store.address, **options)

    def send(self, plan: BucketPlan, version: int) -> SendReport:
        assert self._sender is not None
        return self._sender.broadcast(self._model.named_parameters(), plan, version)


class Sender:
    """A `WeightSender` in front of the actor."""

    def __init__(self) -> None:
        self.actor: Any = ray.remote(num_cpus=0)(SenderActor).remote()
        self.stale_bucket = False
        self.drop: str | None = None

    def load(self, path: Path) -> None:
        fetch(self.actor.load.remote(path), deadline_seconds=120, operation="sender.load")

    def bucket_plan(self, *, dtype: str, bucket_bytes: int) -> BucketPlan:
        plan: BucketPlan = fetch(
            self.actor.plan.remote(dtype, bucket_bytes, self.drop), deadline_seconds=60, operation="sender.plan"
        )
        return plan

    def store_address(self) -> StoreAddress:
        address: StoreAddress = fetch(self.actor.address.remote(), deadline_seconds=60, operation="sender.address")
        return address

    def open_transport(self, *, epoch: int, world_size: int) -> Any:
        return self.actor.connect.remote(epoch, world_size, self.stale_bucket)

    def publish(self, plan: BucketPlan, version: int) -> SendReport:
        report: SendReport = fetch(self.actor.send.remote(plan, version), deadline_seconds=60, operation="sender.send")
        return report


@dataclass
class House:
    """Everything the tests share."""

    models: Any
    generators: GeneratorGroup
    scorers: ScorerGroup
    pool: RolloutPool
    sender: Sender
    publisher: WeightPublisher
    events: list[ActorEvent] = field(default_factory=list)


@pytest.fixture(scope="module")
def house(ray_session: None, tiny_models: Any) -> Iterator[House]:
    events: list[ActorEvent] = []
    settings = GeneratorSettings(count=2, cpus=0.5, max_concurrent=32, flush_samples=4, kv_cache_bytes=64 * 2**20)
    generators = GeneratorGroup(
        GeneratorSpec(tiny_models.tokenizer, settings, MAX_LENGTH),
        tiny_models.policy,
        DEADLINES,
        on_event=events.append,
        policy=FleetPolicy(max_restarts=2, start_seconds=DEADLINES.start_seconds, backoff_seconds=0.1),
    )
    models = ScorerModels({"reward": tiny_models.reward, "cost/harm": tiny_models.cost}, tiny_models.policy, 0.7)
    scorers = ScorerGroup(ScorerSettings(cpus=0.5, tokens_per_batch=512), models, DEADLINES, on_event=events.append)
    sender = Sender()
    sender.load(tiny_models.policy)
    publisher = WeightPublisher(generators, sender, TransportSettings(bucket_bytes=BUCKET_BYTES), DEADLINES)
    pool = RolloutPool(generators, scorers, DEADLINES, on_event=events.append)
    scorers.wait_ready()
    generators.wait_serving()
    yield House(tiny_models, generators, scorers, pool, sender, publisher, events)
    generators.shutdown()
    scorers.shutdown()
    ray.kill(sender.actor)


def requests(tag: str, count: int, *, temperature: float = 0.7, most: int = 20) -> list[GenerationRequest]:
    rng = np.random.default_rng(7)
    sampling = SamplingSettings(temperature=temperature, max_response_tokens=most)
    return [
        GenerationRequest(
            f"{tag}-{index:04d}",
            f"p{index}",
            (2, 4, *(int(word) for word in rng.integers(FIRST_WORD_ID, 150, int(rng.integers(5, 30)))), 5),
            index,
            sampling,
        )
        for index in range(count)
    ]


def chunks(collected: Collected) -> dict[str, tuple[Any, np.ndarray, np.ndarray]]:
    """Request id (without its tag) to meta, token ids and behaviour log-probs."""
    refs = list(dict.fromkeys(row.chunk for row in collected.rows))
    bodies: dict[Any, RolloutChunk] = dict(zip(refs, fetch(refs, deadline_seconds=30, operation="chunks"), strict=True))
    found = {}
    for row in collected.rows:
        body = bodies[row.chunk]
        assert body.meta[row.row] == row.rollout
        found[row.rollout.request_id.split("-")[1]] = (
            row.rollout,
            body.token_ids[row.row],
            body.behaviour_logprobs[row.row],
        )
    return found


def reference_logprobs(path: Path, sequences: list[list[int]]) -> list[np.ndarray]:
    """Hugging Face in float32, one sequence at a time: log-probs of tokens 1 to the last."""
    model = load_policy(path)
    out = []
    with torch.inference_mode():
        for sequence in sequences:
            ids = torch.tensor([sequence])
            logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            out.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].numpy())
    return out


SEQUENCES = [[2, 4, *range(FIRST_WORD_ID + shift, FIRST_WORD_ID + shift + 30), 5] for shift in (0, 17, 51, 90)]


def parity(house: House, name: str, path: Path) -> float:
    """Largest difference in nats between a generator's log-probs of fixed sequences and those of a folder's model."""
    call = house.generators.actor(name).logprobs.remote(SEQUENCES)
    engine = fetch(call, deadline_seconds=60, operation=f"{name}.logprobs")
    expected = reference_logprobs(path, SEQUENCES)
    return max(float(np.abs(one - other).max()) for one, other in zip(engine, expected, strict=True))


def test_every_sample_comes_once_scored_and_stamped(house: House) -> None:
    wanted = requests("once", 100)
    collected = house.pool.collect(wanted)
    assert [row.rollout.request_id for row in collected.scored] == [one.request_id for one in wanted]
    assert not collected.quarantined and not collected.duplicates
    assert {row.rollout.weight_version for row in collected.rows} == {0}
    assert {row.rollout.generator for row in collected.rows} == {"generator-0", "generator-1"}
    assert len({row.chunk for row in collected.rows}) >= 100 // (2 * 32), "samples must leave before the batch is done"
    times = collected.timings
    assert 0 < times.first_sample_seconds <= times.generate_seconds <= times.total_seconds
    assert times.score_busy_seconds > 0 and 0 <= times.overlap_efficiency <= 1
    for meta, token_ids, logprobs in chunks(collected).values():
        assert len(token_ids) == meta.prompt_length + meta.response_length
        assert len(logprobs) == meta.response_length and (logprobs <= 0).all()
        assert meta.finish_reason == ("stop" if token_ids[-1] == 3 else "length")


def test_behaviour_logprobs_and_scores_are_those_of_the_models(house: House) -> None:
    collected = house.pool.collect(requests("exact", 24))
    policy, reward = load_policy(house.models.policy), load_score_model(house.models.reward)
    drawn = chunks(collected)
    for row in collected.scored:
        meta, token_ids, behaviour = drawn[row.rollout.request_id.split("-")[1]]
        ids = torch.from_numpy(token_ids.astype(np.int64))[None]
        lengths = [torch.tensor([value]) for value in (meta.prompt_length, meta.response_length)]
        with torch.inference_mode():
            expected = forward_response_logprobs(policy, ids, *lengths, temperature=0.7)[0].numpy()
            score = float(forward_end_scores(reward, ids, torch.tensor([len(token_ids)])))
        scored = fetch(row.scores[0], deadline_seconds=10, operation="scores")
        assert np.abs(behaviour - expected).max() < TOLERANCE
        assert np.abs(scored.reference_logprobs[row.row] - expected).max() < 1e-5
        assert row.sample.reward == pytest.approx(score, abs=1e-5)


def test_the_same_seeds_draw_the_same_samples(house: House) -> None:
    first, second = (chunks(house.pool.generate_only(requests(tag, 40))) for tag in ("a", "b"))
    assert all(np.array_equal(first[key][1], second[key][1]) for key in first)
    assert len({tuple(ids) for _, ids, _ in first.values()}) == 40


def test_deterministic_batches_repeat_bit_for_bit(house: House) -> None:
    pool = RolloutPool(house.generators, house.scorers, DEADLINES, deterministic=True)
    wanted = requests("d", 90)
    first, second = pool.collect(wanted), pool.collect(list(reversed(wanted)))
    differ = [(a.rollout, b.rollout) for a, b in zip(first.rows, second.rows, strict=True) if a.rollout != b.rollout]
    assert not differ, differ
    assert [row.sample.reward for row in first.scored] == [row.sample.reward for row in second.scored]
    bodies = [chunks(first), chunks(second)]
    assert all(np.array_equal(bodies[0][key][2], bodies[1][key][2]) for key in bodies[0])


@pytest.mark.parametrize(
    ("prompt", "words"), [((2,) * 120, "exceed max_length"), ((), "empty prompt"), ((2, 9999), "token id outside")]
)
def test_a_request_that_cannot_be_served_is_refused_and_the_engine_lives(
    house: House, prompt: tuple[int, ...], words: str
) -> None:
    good = requests("good", 4)
    bad = GenerationRequest("bad-0", "p-bad", prompt, 1, SamplingSettings(max_response_tokens=20))
    with pytest.raises(RequestRefused, match=words):
        house.pool.collect([*good, bad])
    assert len(house.pool.generate_only(good).rows) == 4
    assert house.generators.health.serving() == house.generators.names


def test_a_generator_answers_pings_while_it_draws(house: House) -> None:
    actor = house.generators.actor("generator-0")
    stream = actor.generate.remote(requests("long", 200, most=60))
    begin = time.monotonic()
    pings = 0
    while not stream.completed().future().done() and time.monotonic() - begin < 60:
        fetch(actor.ping.remote(), deadline_seconds=20, operation="generator-0.ping")
        pings += 1
    assert pings > 3


def test_other_parameters_than_the_engines_are_refused_by_name(house: House) -> None:
    house.sender.drop = "model.norm.weight"
    with pytest.raises(PlanMismatch, match=r"generator-\d cannot take.*not sent: model\.norm\.weight"):
        WeightPublisher(house.generators, house.sender, TransportSettings(), DEADLINES).publish(1)
    with pytest.raises(PlanMismatch, match=r"not sent: model\.norm\.weight"):
        house.publisher.check()
    house.sender.drop = None
    house.publisher.check()
    assert house.generators.health.reachable() == house.generators.names


def test_after_a_broadcast_the_engines_hold_the_new_weights(house: House) -> None:
    before = {name: parity(house, name, house.models.policy) for name in house.generators.names}
    assert max(before.values()) < TOLERANCE
    house.sender.load(house.models.other_policy)
    report = house.publisher.publish(1)
    assert report.version == 1 and report.generators == tuple(house.generators.names) and len(report.send.checksums) > 3
    for name in house.generators.names:
        assert parity(house, name, house.models.other_policy) < TOLERANCE
        assert parity(house, name, house.models.policy) > 100 * TOLERANCE
    collected = house.pool.collect(requests("new", 24))
    assert {row.rollout.weight_version for row in collected.rows} == {1}
    for meta, token_ids, behaviour in chunks(collected).values():
        ids = torch.from_numpy(token_ids.astype(np.int64))[None]
        with torch.inference_mode():
            expected = forward_response_logprobs(
                load_policy(house.models.other_policy),
                ids,
                torch.tensor([meta.prompt_length]),
                torch.tensor([meta.response_length]),
                0.7,
            )[0].numpy()
        assert np.abs(behaviour - expected).max() < TOLERANCE


def test_the_parity_check_fails_when_one_bucket_is_withheld(house: House) -> None:
    house.sender.load(house.models.policy)
    house.sender.stale_bucket = True
    faulty = WeightPublisher(house.generators, house.sender, TransportSettings(bucket_bytes=BUCKET_BYTES), DEADLINES)
    faulty.publish(2)
    house.sender.stale_bucket = False
    for name in house.generators.names:
        assert parity(house, name, house.models.policy) > 10 * TOLERANCE, "the check has no power"
    mended = WeightPublisher(house.generators, house.sender, TransportSettings(bucket_bytes=BUCKET_BYTES), DEADLINES)
    mended.publish(3)
    for name in house.generators.names:
        assert parity(house, name, house.models.policy) < TOLERANCE


def test_weights_can_be_taken_from_a_folder(house: House) -> None:
    house.generators.load_from(house.models.other_policy, 4)
    assert house.generators.health.serving() == house.generators.names
    for name in house.generators.names:
        assert parity(house, name, house.models.other_policy) < TOLERANCE


def test_a_killed_generator_loses_no_request_and_serves_again_after_the_next_update(house: House) -> None:
    house.sender.load(house.models.policy)
    publisher = WeightPublisher(house.generators, house.sender, TransportSettings(bucket_bytes=BUCKET_BYTES), DEADLINES)
    publisher.publish(5)
    victim = fetch(
        house.generators.actor("generator-1").ping.remote(), deadline_seconds=20, operation="generator-1.ping"
    )
    wanted = requests("kill", 800, most=60)
    threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
    collected = house.pool.collect(wanted)
    assert sorted(row.rollout.request_id for row in collected.rows) == [one.request_id for one in wanted]
    assert collected.generator_deaths == 1, "the generator was to die in the middle of the batch"
    assert house.generators.health.health("generator-1") is not Health.SERVING
    alone = house.pool.collect(requests("alone", 16))
    assert {row.rollout.generator for row in alone.rows} == {"generator-0"}

    end = time.monotonic() + DEADLINES.start_seconds
    while house.generators.health.health("generator-1") is not Health.STALE and time.monotonic() < end:
        house.generators.poll(seconds=0.5)
    assert house.generators.health.serving() == ["generator-0"], "back, but not before it has the current weights"
    report = publisher.publish(6)
    assert report.generators == ("generator-0", "generator-1") and report.epoch > 1
    assert parity(house, "generator-1", house.models.policy) < TOLERANCE
    both = house.pool.collect(requests("both", 64))
    assert {row.rollout.generator for row in both.rows} == {"generator-0", "generator-1"}
    assert {row.rollout.weight_version for row in both.rows} == {6}
    kinds = [event.kind for event in house.events if event.actor == "generator-1"]
    assert kinds[-4:] == ["died", "restarting", "started", "serving"]


def test_a_killed_scorer_is_started_again_and_every_sample_scored(house: House) -> None:
    scorer = house.scorers.scorers[0]
    pid = fetch(scorer.actor.ping.remote(), deadline_seconds=20, operation="scorer-0.ping")
    os.kill(pid, signal.SIGKILL)
    wanted = requests("scorer", 40)
    collected = house.pool.collect(wanted)
    assert [row.rollout.request_id for row in collected.scored] == [one.request_id for one in wanted]
    assert scorer.restarts == 1
