"""Bookkeeping of chunks at the scorers, without Ray: the actors are plain objects behind the group's own interface."""

from __future__ import annotations

import pytest

from actors.rollout import chunk_scoring
from actors.rollout.chunk_scoring import Chunk, ChunkScoring
from actors.scoring.group import Scorer
from learner.deadlines import ValueLost


class Method:
    def remote(self, _chunk: object) -> tuple[object, object]:
        return object(), object()


class Actor:
    score = Method()


class Group:
    """Two roles of one scorer each."""

    roles = ("reward", "cost-harm")

    def __init__(self) -> None:
        self.scorers = {role: Scorer(f"scorer-{role}", role, None, Actor()) for role in self.roles}

    def choose(self, role: str) -> Scorer:
        return self.scorers[role]


def test_a_chunk_lost_by_two_roles_in_one_poll_is_drawn_once_and_leaves_nobody_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*_args: object, **_options: object) -> object:
        raise ValueLost("the node is gone")

    monkeypatch.setattr(chunk_scoring, "fetch", lost)
    group, redrawn = Group(), []
    scoring = ChunkScoring(group, deadline_seconds=60, redraw=lambda chunk, _reason: redrawn.append(chunk))
    chunk, other = Chunk(object(), (), []), Chunk(object(), (), [])
    scoring.submit(chunk)
    scoring.submit(other)
    ready = [ref for ref, call in scoring.calls.items() if call.chunk is chunk]
    for ref in ready:
        if ref in scoring.calls:
            scoring.take(ref)
    assert redrawn == [chunk] and len(scoring.calls) == 2
    assert [scorer.running for scorer in group.scorers.values()] == [1, 1]
