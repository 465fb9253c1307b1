"""Chunks of samples at the scorers: every role scores each chunk once, and a scorer that dies or falls silent is replaced.

Invariant: a row is either scored by every role or set aside with a reason; no row is scored twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actors.rollout.collected import GeneratedRow, Quarantined, ScoredRow
from actors.rollout.scored_sample import fault_names, scored_sample
from actors.scoring.group import Scorer, ScorerGroup
from actors.scoring.model_scorer import ScoreMeta
from learner.deadlines import RemoteFailure, ValueLost, fetch, user_error
from learner.records import RolloutMeta

ARRIVED_SECONDS = 20.0
"""To fetch metadata that is known to be there."""


@dataclass
class Chunk:
    """Samples on their way through the scorers."""

    ref: Any
    """ObjectRef of the RolloutChunk."""
    metas: tuple[RolloutMeta, ...]
    new_rows: list[int]
    """Rows that are not duplicates."""
    results: dict[str, tuple[ScoreMeta, Any]] = field(default_factory=dict)
    """Role to its scalars and ScoreChunk reference."""


@dataclass
class _ScoreCall:
    """One chunk at one scorer."""

    chunk: Chunk
    scorer: Scorer
    actor: Any
    scores: Any
    start: float
    """On the monotonic clock, seconds."""


class ChunkScoring:
    """The scoring half of one batch.

    Args:
        deadline_seconds: a scorer that has not answered anything for so long is replaced.
        redraw: draws the samples of a chunk again that was lost with its node, for this reason.
    """

    def __init__(self, scorers: ScorerGroup, *, deadline_seconds: float, redraw: Callable[[Chunk, str], None]) -> None:
        self._scorers, self._deadline_seconds, self._redraw = scorers, deadline_seconds, redraw
        self.calls: dict[Any, _ScoreCall] = {}
        """Running calls by the reference of their ScoreMeta."""
        self.rows: list[GeneratedRow] = []
        self.quarantined: list[Quarantined] = []
        self.faults: Counter[str] = Counter()
        self.busy_seconds = 0.0
        """Scorers' own work, added up."""
        self._last_answer: dict[str, float] = {}
        """Scorer to when it last answered: chunks wait for one another there, and only its silence is a fault."""

    def submit(self, chunk: Chunk) -> None:
        """Ask one scorer of every role for the scores of a chunk."""
        for role in self._scorers.roles:
            self._score(chunk, self._scorers.choose(role))

    def _score(self, chunk: Chunk, scorer: Scorer) -> None:
        meta, scores = scorer.actor.score.remote(chunk.ref)
        scorer.running += 1
        self.calls[meta] = _ScoreCall(chunk, scorer, scorer.actor, scores, time.monotonic())

    def take(self, ref: Any) -> None:
        """Take the answer of a call that is ready.

        Raises:
            SteelyardError: a scorer's error that is meant for the user. ScorerLost: too many deaths.
        """
        call = self.calls.pop(ref)
        try:
            meta: ScoreMeta = fetch(ref, deadline_seconds=ARRIVED_SECONDS, operation=f"{call.scorer.name}.score")
        except ValueLost as error:
            self._answered(call)
            self._lose(call.chunk, str(error))
            return
        except RemoteFailure as error:
            raised = user_error(error)
            if raised is not None:
                raise raised from error
            self._score_again(call, str(error))
            return
        self._answered(call)
        self._last_answer[call.scorer.name] = time.monotonic()
        self.busy_seconds += meta.busy_seconds
        call.chunk.results[call.scorer.role] = (meta, call.scores)
        # Rows are settled once, with the last role's answer: before that a later role could still set one aside.
        if len(call.chunk.results) == len(self._scorers.roles):
            self._settle(call.chunk)

    def replace_silent(self) -> None:
        """Score again, at a scorer started in its place, what a silent scorer has not answered in time."""
        clock_seconds = time.monotonic()
        for ref, call in list(self.calls.items()):
            # The clock runs from a scorer's last answer, not from the call: it works on one chunk after the other.
            waiting_since = max(call.start, self._last_answer.get(call.scorer.name, 0.0))
            if clock_seconds - waiting_since <= self._deadline_seconds:
                continue
            del self.calls[ref]
            reason = f"{call.scorer.name}.score did not answer within {self._deadline_seconds:g} s"
            self._score_again(call, reason)

    def _score_again(self, call: _ScoreCall, reason: str) -> None:
        # Restart before choosing: the new call must go to a living actor.
        self._scorers.restart(call.scorer, call.actor, reason)
        self._score(call.chunk, self._scorers.choose(call.scorer.role))

    def _lose(self, chunk: Chunk, reason: str) -> None:
        """Forget every call for a chunk that was lost with its node, before its samples are drawn again."""
        for ref in [ref for ref, call in self.calls.items() if call.chunk is chunk]:
            self._answered(self.calls.pop(ref))
        self._redraw(chunk, reason)

    @staticmethod
    def _answered(call: _ScoreCall) -> None:
        """The call no longer counts among those of its scorer; those of an actor that was replaced were forgotten with it."""
        if call.actor is call.scorer.actor:
            call.scorer.running = max(0, call.scorer.running - 1)

    def _settle(self, chunk: Chunk) -> None:
        """All roles have answered: keep each row, or set it aside."""
        metas = [meta for meta, _ in chunk.results.values()]
        refs = tuple(scores for _, scores in chunk.results.values())
        for row in chunk.new_rows:
            rollout = chunk.metas[row]
            sample, reason = scored_sample(rollout, row, metas, set(self._scorers.models.signals))
            if sample is None:
                self.quarantined.append(Quarantined(rollout, reason))
                self.faults.update(fault_names(rollout.request_id, metas))
            else:
                self.rows.append(ScoredRow(rollout, chunk.ref, row, sample, refs))
