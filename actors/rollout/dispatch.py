"""Which generator draws which requests, and what has been delivered; pure.

Invariant: every request is delivered exactly once, whatever dies, as long as some generator goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from configs.exits import SteelyardError
from learner.records import GenerationRequest, RolloutMeta


class DuplicateRequest(SteelyardError):
    """Two requests of one batch have the same id; a bug in the caller."""


class Dispatch:
    """The requests of one batch: waiting, running at a generator, or delivered.

    Args:
        names: all generators, also those that are away.
        wave_size: requests of one call to a generator at most.
        deterministic: waves are cut from the requests sorted by prompt id and belong to generators in turn; otherwise an
            idle generator takes its share of what is waiting.
    """

    def __init__(
        self, requests: Sequence[GenerationRequest], names: Sequence[str], *, wave_size: int, deterministic: bool
    ) -> None:
        self._requests = {request.request_id: request for request in requests}
        if len(self._requests) != len(requests):
            raise DuplicateRequest(f"{len(requests)} requests have only {len(self._requests)} different ids")
        self._wave_size = wave_size
        self._running: dict[str, list[str]] = {}
        self._delivered: set[str] = set()
        self.duplicates = 0
        """Samples that came a second time and were dropped."""
        self.retries = 0
        """Requests that were handed out again."""
        self._own: dict[str, deque[list[str]]] = {name: deque() for name in names}
        self._shared: deque[str] = deque()
        if deterministic:
            self._deal(sorted(requests, key=lambda request: (request.prompt_id, request.request_id)), names)
        else:
            self._shared.extend(self._requests)

    def _deal(self, requests: Sequence[GenerationRequest], names: Sequence[str]) -> None:
        waves = -(-len(requests) // self._wave_size)
        waves = -(-waves // len(names)) * len(names)  # every generator gets as many
        size = -(-len(requests) // max(1, waves))
        for index in range(waves):
            wave = [request.request_id for request in requests[index * size : (index + 1) * size]]
            if wave:
                self._own[names[index % len(names)]].append(wave)

    @property
    def done(self) -> bool:
        """Everything is delivered."""
        return len(self._delivered) == len(self._requests)

    @property
    def remaining(self) -> int:
        """Requests not delivered yet."""
        return len(self._requests) - len(self._delivered)

    @property
    def waiting(self) -> int:
        """Requests that no generator is drawing; a count for people, which another thread may ask for."""
        return len(self._shared) + sum(len(wave) for waves in list(self._own.values()) for wave in list(waves))

    def next_wave(self, name: str, *, sharers: int) -> list[GenerationRequest]:
        """What an idle generator is to draw now; empty when nothing waits for it.

        Args:
            sharers: generators that serve, this one included.
        """
        ids: list[str] = []
        while self._own[name] and not ids:
            ids = self._news(self._own[name].popleft())
        if not ids:
            self._shared = deque(self._news(self._shared))
            count = min(self._wave_size, -(-self._left_in_shares() // max(1, sharers)), len(self._shared))
            ids = [self._shared.popleft() for _ in range(count)]
        if ids:
            self._running[name] = ids
        return [self._requests[request_id] for request_id in ids]

    def _left_in_shares(self) -> int:
        """Waiting or running: shares are cut from all that is left, so they come out even."""
        return len(self._shared) + sum(len(ids) for ids in self._running.values())

    def _news(self, request_ids: Iterable[str]) -> list[str]:
        return [request_id for request_id in request_ids if request_id not in self._delivered]

    def deliver(self, metas: Sequence[RolloutMeta]) -> list[int]:
        """Rows of a chunk that are news; the others came before, or were never asked for."""
        rows = []
        for row, meta in enumerate(metas):
            if meta.request_id in self._requests and meta.request_id not in self._delivered:
                self._delivered.add(meta.request_id)
                rows.append(row)
            else:
                self.duplicates += 1
        return rows

    def finished(self, name: str) -> None:
        """A generator's call has ended; what it did not deliver waits again."""
        self.retries += self._requeue(self._running.pop(name, []))

    def lost(self, name: str) -> None:
        """A generator is gone; what it was drawing, and what was kept for it, waits for the others."""
        self.finished(name)
        while self._own[name]:
            self._requeue(self._own[name].popleft())

    def undeliver(self, request_ids: Sequence[str]) -> None:
        """Samples that were delivered and then lost with a node: draw them again."""
        self._delivered.difference_update(request_ids)
        self.retries += self._requeue(request_ids)

    def _requeue(self, request_ids: Sequence[str]) -> int:
        again = self._news(request_ids)
        self._shared.extend(again)
        return len(again)
