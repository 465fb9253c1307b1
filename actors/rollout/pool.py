"""Requests in, scored samples out: generation and scoring overlap, every request comes back exactly once, whatever dies.

Bulk stays in the object store; the driver holds metadata, scores and references.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.events import ActorEvent, OnEvent, ignore
from actors.generation.group import GeneratorGroup
from actors.rollout.chunk_scoring import ARRIVED_SECONDS, Chunk, ChunkScoring
from actors.rollout.collected import Collected, CollectTimings, GeneratedRow
from actors.rollout.dispatch import Dispatch
from actors.rollout.scored_sample import overlap_efficiency
from actors.scoring.group import ScorerGroup
from configs.exits import StoppedError
from configs.schema.resources import DeadlineSettings
from learner.deadlines import RemoteFailure, RemoteTimeout, fetch, next_item, poll, user_error
from learner.records import GenerationRequest, RolloutMeta

WAVE_ROUNDS = 4
"""Requests of one call to a generator at most, in multiples of what it decodes at a time: long calls keep its batch full,
short ones let generators finish together."""

POLL_SECONDS = 0.25
"""Between two looks at the actors' health while nothing arrives."""


@dataclass
class _Stream:
    """One running call to a generator."""

    items: Any
    call: str
    actor: Any
    chunk: Any = None
    """A chunk whose metas have not come yet."""
    last_item: float = field(default_factory=time.monotonic)


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
        self._pool = pool
        self._generators, self._deadlines = pool._generators, pool._deadlines
        self._dispatch = Dispatch(
            requests,
            self._generators.names,
            deterministic=pool._deterministic,
            wave_size=WAVE_ROUNDS * self._generators.settings.max_concurrent,
        )
        self._streams: dict[str, _Stream] = {}
        self._scoring = (
            None
            if scorers is None
            else ChunkScoring(scorers, deadline_seconds=pool._deadlines.score_seconds, redraw=self._redraw)
        )
        self._unscored_rows: list[GeneratedRow] = []
        """Of a collection without scorers."""
        self._deaths = 0
        self._begin = time.perf_counter()
        self._first_seconds = self._generate_seconds = 0.0
        self._tokens = 0

    @property
    def _score_calls(self) -> Mapping[Any, Any]:
        return {} if self._scoring is None else self._scoring.calls

    def depths(self) -> dict[str, int]:
        """See `RolloutPool.queue_depths`."""
        unfinished, waiting = self._dispatch.remaining, self._dispatch.waiting
        running = max(0, unfinished - waiting)
        return {"requests_waiting": waiting, "requests_running": running, "chunks_scoring": len(self._score_calls)}

    def run(self) -> Collected:
        """Until everything is delivered."""
        try:
            # To the end of every call: an engine that still sums up its last call would hold up what comes next.
            while not (self._dispatch.done and not self._score_calls and not self._streams):
                # Work is handed out before the wait, so that no generator idles through it.
                self._assign()
                waiting = [*(stream.items for stream in self._streams.values()), *self._score_calls]
                ready = poll(waiting, seconds=POLL_SECONDS)
                ready_streams = {id(item) for item in ready}
                for name, stream in list(self._streams.items()):  # a copy: taking from one stream may remove others
                    if id(stream.items) in ready_streams:
                        self._take(name, stream)
                if self._scoring is not None:
                    for ref in ready:
                        # Asked at each turn: a chunk that was lost with its node takes its other calls with it.
                        if ref in self._scoring.calls:
                            self._scoring.take(ref)
                # Silence is judged after taking what is ready, or a busy driver would blame actors for its own delay.
                self._give_up_silent()
                if self._scoring is not None:
                    self._scoring.replace_silent()
                self._generators.poll()
                # Last: `poll` may have restarted a generator, whose old stream would never yield again.
                self._note_lost()
        except BaseException:
            # An engine goes on drawing until it is told to stop, and would hold up the next call.
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
                # The handle is kept with the call: the name may belong to another process by the time it answers.
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
                ref = next_item(stream.items, operation=operation)
                if ref is None:
                    if stream.chunk is not None:  # the last item without a partner is the call's error: raise it
                        fetch(stream.chunk, deadline_seconds=ARRIVED_SECONDS, operation=operation)
                    del self._streams[name]
                    self._dispatch.finished(name)
                    return
                stream.last_item = time.monotonic()
                self._generators.health.heard(name)
                if stream.chunk is None:
                    stream.chunk = ref
                else:
                    self._arrived(stream.chunk, fetch(ref, deadline_seconds=ARRIVED_SECONDS, operation=operation))
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
        # Duplicates end here, before any scorer sees them: a sample is scored and learned from once.
        new_rows = self._dispatch.deliver(metas)
        self._generate_seconds = time.perf_counter() - self._begin
        self._first_seconds = self._first_seconds or self._generate_seconds
        if not new_rows:
            return
        self._tokens += sum(metas[row].response_length for row in new_rows)
        if self._scoring is None:
            self._unscored_rows.extend(GeneratedRow(metas[row], chunk, row) for row in new_rows)
            return
        self._scoring.submit(Chunk(chunk, metas, new_rows))

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

    def _redraw(self, chunk: Chunk, reason: str) -> None:
        """The chunk was lost with its node: draw its samples again."""
        self._dispatch.undeliver([chunk.metas[row].request_id for row in chunk.new_rows])
        self._pool._on_event(ActorEvent(chunk.metas[0].generator, "chunk_lost", reason))

    # --- the end -----------------------------------------------------------------------------------------------------

    def _result(self) -> Collected:
        total = time.perf_counter() - self._begin
        scoring = self._scoring
        busy = 0.0 if scoring is None else scoring.busy_seconds
        rows = self._unscored_rows if scoring is None else scoring.rows
        quarantined = [] if scoring is None else scoring.quarantined
        timings = CollectTimings(
            total_seconds=total,
            generate_seconds=self._generate_seconds,
            first_sample_seconds=self._first_seconds,
            score_busy_seconds=busy,
            overlap_efficiency=overlap_efficiency(total, self._generate_seconds, busy),
            response_tokens=self._tokens,
        )
        return Collected(
            rows=tuple(sorted(rows, key=lambda row: row.rollout.request_id)),
            quarantined=tuple(sorted(quarantined, key=lambda row: row.rollout.request_id)),
            duplicates=self._dispatch.duplicates,
            generator_deaths=self._deaths,
            timings=timings,
            scorer_faults={} if scoring is None else dict(sorted(scoring.faults.items())),
            retries=self._dispatch.retries,
        )
