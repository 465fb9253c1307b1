"""Requests in, scored samples out: generation and scoring overlap, every request comes back exactly once, whatever dies.

Bulk stays in the object store; the driver holds metadata, scores and references.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.events import ActorEvent, OnEvent, ignore
from actors.generation.group import GeneratorGroup
from actors.rollout.dispatch import Dispatch
from actors.rollout.verdicts import fault_names, judge_row, overlap_efficiency
from actors.scoring.group import Scorer, ScorerGroup
from actors.scoring.model_scorer import ScoreMeta
from configs.exits import StoppedError
from configs.schema.resources import DeadlineSettings
from learner.deadlines import RemoteFailure, RemoteTimeout, ValueLost, fetch, next_item, poll, user_error
from learner.records import GenerationRequest, RolloutMeta, ScoredSample

WAVE_ROUNDS = 4
"""Requests of one call to a generator at most, in multiples of what it decodes at a time: long calls keep its batch full,
short ones let generators finish together."""

POLL_SECONDS = 0.25
"""Between two looks at the actors' health while nothing arrives."""

ARRIVED_SECONDS = 20.0
"""To fetch metadata that is known to be there."""


@dataclass(frozen=True)
class GeneratedRow:
    """One sample and where its tokens are."""

    rollout: RolloutMeta
    chunk: Any
    """ObjectRef of the RolloutChunk."""
    row: int
    """Index in the chunk."""


@dataclass(frozen=True)
class ScoredRow(GeneratedRow):
    """One sample that may be learned from."""

    sample: ScoredSample
    scores: tuple[Any, ...]
    """ObjectRefs of the ScoreChunks of the same chunk, one per scorer role; rows as in `chunk`."""


@dataclass(frozen=True)
class Quarantined:
    """A sample set aside because something about it is unknown."""

    rollout: RolloutMeta
    reason: str


@dataclass(frozen=True)
class CollectTimings:
    """Where the time of one batch went."""

    total_seconds: float
    generate_seconds: float
    """Until the last sample had been drawn."""
    first_sample_seconds: float
    score_busy_seconds: float
    """Scorers' own work, added up."""
    overlap_efficiency: float
    """Share of the scorers' work that was done while samples were still being drawn, 0 to 1."""
    response_tokens: int


@dataclass(frozen=True)
class Collected:
    """One batch, sorted by request id."""

    rows: tuple[GeneratedRow, ...]
    quarantined: tuple[Quarantined, ...]
    duplicates: int
    """Samples that came twice and were dropped."""
    generator_deaths: int
    timings: CollectTimings
    scorer_faults: Mapping[str, int] = field(default_factory=dict)
    """``<signal>/<ScorerFault>`` to how many of `quarantined` have no such score for that reason."""
    retries: int = 0
    """Requests handed out again, after a generator died or a chunk was lost."""

    @property
    def scored(self) -> tuple[ScoredRow, ...]:
        """The rows of `RolloutPool.collect`."""
        return tuple(row for row in self.rows if isinstance(row, ScoredRow))


@dataclass
class _Stream:
    """One running call to a generator."""

    items: Any
    call: str
    actor: Any
    chunk: Any = None
    """A chunk whose metas have not come yet."""
    last_item: float = field(default_factory=time.monotonic)


@dataclass
class _Chunk:
    """Samples on their way through the scorers."""

    ref: Any
    metas: tuple[RolloutMeta, ...]
    news: list[int]
    """Rows that are not duplicates."""
    results: dict[str, tuple[ScoreMeta, Any]] = field(default_factory=dict)
    """Role to its scalars and ScoreChunk reference."""


@dataclass
class _ScoreCall:
    """One chunk at one scorer."""

    chunk: _Chunk
    scorer: Scorer
    actor: Any
    scores: Any
    begun: float


class RolloutPool:
    """Collects batches from a group of generators and, for `collect`, a group of scorers.

    Args:
        republish: brings the current weights to generators that came back; called when nothing serves any more.
            None: that stops the run.
    """

    def __init__(
        self,
        generators: GeneratorGroup,
        scorers: ScorerGroup | None,
        deadlines: DeadlineSettings,
        *,
        deterministic: bool = False,
        on_event: OnEvent = ignore,
        republish: Callable[[], None] | None = None,
    ) -> None:
        self._generators, self._scorers, self._deadlines = generators, scorers, deadlines
        self._deterministic, self._on_event, self._republish = deterministic, on_event, republish
        self._collection: _Collection | None = None

    def queue_depths(self) -> dict[str, int]:
        """Requests waiting and running, and chunks at the scorers, at this moment; from any thread."""
        collection = self._collection
        if collection is None:
            return {"requests_waiting": 0, "requests_running": 0, "chunks_scoring": 0}
        return collection.depths()

    def collect(self, requests: Sequence[GenerationRequest]) -> Collected:
        """Draw and score all requests; a sample with a missing or non-finite score is quarantined.

        Raises:
            RequestRefused: a request no engine can serve. FleetLost, ScorerLost: too many deaths.
        """
        assert self._scorers is not None, "collect needs scorers"
        return self._run(_Collection(self, requests, self._scorers))

    def generate_only(self, requests: Sequence[GenerationRequest]) -> Collected:
        """Draw all requests. Raises as `collect`."""
        return self._run(_Collection(self, requests, None))

    def _run(self, collection: _Collection) -> Collected:
        self._collection = collection
        try:
            return collection.run()
        finally:
            self._collection = None


class _Collection:
    """One batch on its way."""

    def __init__(self, pool: RolloutPool, requests: Sequence[GenerationRequest], scorers: ScorerGroup | None) -> None:
        self._pool, self._scorers = pool, scorers
        self._generators, self._deadlines = pool._generators, pool._deadlines
        self._dispatch = Dispatch(
            requests,
            self._generators.names,
            deterministic=pool._deterministic,
            wave_size=WAVE_ROUNDS * self._generators.settings.max_concurrent,
        )
        self._streams: dict[str, _Stream] = {}
        self._calls: dict[Any, _ScoreCall] = {}
        self._rows: list[GeneratedRow] = []
        self._quarantined: list[Quarantined] = []
        self._faults: Counter[str] = Counter()
        self._answered: dict[str, float] = {}
        """Scorer to when it last answered: chunks wait for one another there, and only its silence is a fault."""
        self._deaths = 0
        self._begin = time.perf_counter()
        self._first = self._generated = self._busy = 0.0
        self._tokens = 0

    def depths(self) -> dict[str, int]:
        """See `RolloutPool.queue_depths`."""
        unfinished, waiting = self._dispatch.remaining, self._dispatch.waiting
        running = max(0, unfinished - waiting)
        return {"requests_waiting": waiting, "requests_running": running, "chunks_scoring": len(self._calls)}

    def run(self) -> Collected:
        """Until everything is delivered."""
        try:
            # To the end of every call: an engine that still sums up its last call would hold up what comes next.
            while not (self._dispatch.done and not self._calls and not self._streams):
                self._assign()
                waiting = [*(stream.items for stream in self._streams.values()), *self._calls]
                ready = poll(waiting, seconds=POLL_SECONDS)
                streams = {id(item) for item in ready}
                for name, stream in list(self._streams.items()):
                    if id(stream.items) in streams:
                        self._take(name, stream)
                for ref in [ref for ref in ready if ref in self._calls]:
                    self._take_scores(ref)
                self._give_up_silent()
                self._give_up_slow_scores()
                self._generators.poll()
                self._note_lost()
        except BaseException:
            for stream in self._streams.values():
                stream.actor.abort.remote(stream.call)
            raise
        return self._result()

    # --- generation --------------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Give idle generators something to do."""
        if self._dispatch.done:
            return
        serving = self._generators.health.serving()
        for name in serving:
            if name in self._streams:
                continue
            wave = self._dispatch.next_wave(name, sharers=len(serving))
            if wave:
                actor = self._generators.actor(name)
                call = uuid.uuid4().hex
                generate_call = actor.generate.options(
                    name=f"draw {len(wave)}, weights {self._generators.health.weight_version(name)}"
                )
                self._streams[name] = _Stream(generate_call.remote(wave, call), call, actor)
        if not serving and not self._streams:
            self._nothing_serves()

    def _nothing_serves(self) -> None:
        health = self._generators.health
        if not health.reachable() or self._generators.can_refresh:
            return  # one is being started, or fetches its weights
        if self._pool._republish is None:
            raise StoppedError(
                f"all generators were lost while weight version {health.target_version} was in use: run again to go on"
            )
        self._pool._republish()

    def _take(self, name: str, stream: _Stream) -> None:
        """Take what a generator has ready."""
        operation = f"{name}.generate"
        try:
            while True:
                ref = next_item(stream.items, what=operation)
                if ref is None:
                    if stream.chunk is not None:  # the last item without a partner is the call's error: raise it
                        fetch(stream.chunk, deadline_seconds=ARRIVED_SECONDS, what=operation)
                    del self._streams[name]
                    self._dispatch.finished(name)
                    return
                stream.last_item = time.monotonic()
                self._generators.health.heard(name)
                if stream.chunk is None:
                    stream.chunk = ref
                else:
                    self._arrived(stream.chunk, fetch(ref, deadline_seconds=ARRIVED_SECONDS, what=operation))
                    stream.chunk = None
                if not poll([stream.items], seconds=0):
                    return
        except (RemoteFailure, RemoteTimeout) as error:
            refused = user_error(error) if isinstance(error, RemoteFailure) else None
            if refused is not None:
                del self._streams[name]
                raise refused from error
            # A chunk without its metas is not counted as delivered.
            self._lost(name, str(error))

    def _arrived(self, chunk: Any, metas: tuple[RolloutMeta, ...]) -> None:
        news = self._dispatch.deliver(metas)
        self._generated = time.perf_counter() - self._begin
        self._first = self._first or self._generated
        if not news:
            return
        self._tokens += sum(metas[row].response_length for row in news)
        if self._scorers is None:
            self._rows.extend(GeneratedRow(metas[row], chunk, row) for row in news)
            return
        arrived = _Chunk(chunk, metas, news)
        for role in self._scorers.roles:
            self._score(arrived, self._scorers.choose(role))

    def _lost(self, name: str, reason: str) -> None:
        self._generators.failed(name, reason)
        self._note_lost()

    def _note_lost(self) -> None:
        """Hand on what generators that died (or came back as another process) were drawing, or were to draw."""
        health = self._generators.health
        up = set(health.reachable())
        for name in self._generators.names:
            stream = self._streams.get(name)
            unreachable = name not in up
            if stream is not None and (unreachable or self._generators.actor(name) is not stream.actor):
                del self._streams[name]
                self._deaths += 1
                self._dispatch.lost(name)
            elif unreachable and health.serving():
                self._dispatch.lost(name)

    def _give_up_silent(self) -> None:
        limit_seconds = self._deadlines.generate_seconds
        for name, stream in list(self._streams.items()):
            if time.monotonic() - stream.last_item > limit_seconds:
                self._lost(name, f"{name}.generate delivered no sample for {limit_seconds:g} s")

    # --- scoring -----------------------------------------------------------------------------------------------------

    def _score(self, chunk: _Chunk, scorer: Scorer) -> None:
        meta, scores = scorer.actor.score.remote(chunk.ref)
        scorer.running += 1
        self._calls[meta] = _ScoreCall(chunk, scorer, scorer.actor, scores, time.monotonic())

    def _take_scores(self, ref: Any) -> None:
        call = self._calls.pop(ref)
        try:
            meta: ScoreMeta = fetch(ref, deadline_seconds=ARRIVED_SECONDS, what=f"{call.scorer.name}.score")
        except ValueLost as error:
            self._redraw(call.chunk, str(error))
            return
        except RemoteFailure as error:
            raised = user_error(error)
            if raised is not None:
                raise raised from error
            self._score_again(call, str(error))
            return
        call.scorer.running = max(0, call.scorer.running - 1)
        self._answered[call.scorer.name] = time.monotonic()
        self._busy += meta.busy_seconds
        call.chunk.results[call.scorer.role] = (meta, call.scores)
        assert self._scorers is not None
        if len(call.chunk.results) == len(self._scorers.roles):
            self._settle(call.chunk)

    def _score_again(self, call: _ScoreCall, reason: str) -> None:
        assert self._scorers is not None
        self._scorers.restart(call.scorer, call.actor, reason)
        self._score(call.chunk, self._scorers.choose(call.scorer.role))

    def _redraw(self, chunk: _Chunk, reason: str) -> None:
        """The chunk was lost with its node: draw its samples again, and forget its other scores."""
        for ref in [ref for ref, call in self._calls.items() if call.chunk is chunk]:
            del self._calls[ref]
        self._dispatch.undeliver([chunk.metas[row].request_id for row in chunk.news])
        self._pool._on_event(ActorEvent(chunk.metas[0].generator, "chunk_lost", reason))

    def _settle(self, chunk: _Chunk) -> None:
        """All roles have answered: judge each row."""
        metas = [meta for meta, _ in chunk.results.values()]
        refs = tuple(scores for _, scores in chunk.results.values())
        assert self._scorers is not None
        for row in chunk.news:
            rollout = chunk.metas[row]
            sample, reason = judge_row(rollout, row, metas, set(self._scorers.models.signals))
            if sample is None:
                self._quarantined.append(Quarantined(rollout, reason))
                self._faults.update(fault_names(rollout.request_id, metas))
            else:
                self._rows.append(ScoredRow(rollout, chunk.ref, row, sample, refs))

    def _give_up_slow_scores(self) -> None:
        limit_seconds = self._deadlines.score_seconds
        clock_seconds = time.monotonic()
        for ref, call in list(self._calls.items()):
            if clock_seconds - max(call.begun, self._answered.get(call.scorer.name, 0.0)) <= limit_seconds:
                continue
            del self._calls[ref]
            self._score_again(call, f"{call.scorer.name}.score did not answer within {limit_seconds:g} s")

    # --- the end -----------------------------------------------------------------------------------------------------

    def _result(self) -> Collected:
        total = time.perf_counter() - self._begin
        timings = CollectTimings(
            total_seconds=total,
            generate_seconds=self._generated,
            first_sample_seconds=self._first,
            score_busy_seconds=self._busy,
            overlap_efficiency=overlap_efficiency(total, self._generated, self._busy),
            response_tokens=self._tokens,
        )
        return Collected(
            rows=tuple(sorted(self._rows, key=lambda row: row.rollout.request_id)),
            quarantined=tuple(sorted(self._quarantined, key=lambda row: row.rollout.request_id)),
            duplicates=self._dispatch.duplicates,
            generator_deaths=self._deaths,
            timings=timings,
            scorer_faults=dict(sorted(self._faults.items())),
            retries=self._dispatch.retries,
        )
