"""What a collected batch is made of: rows that may be learned from, rows set aside, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from learner.records import RolloutMeta, ScoredSample


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
