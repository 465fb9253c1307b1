"""An endpoint that asks nothing twice: what was answered before comes from the cache, what is new goes into it at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.judging.judges.chat_endpoint import ChatEndpoint, ChatRequest, Reply
from actors.judging.judges.response_cache import ResponseCache, cache_key


class CachedEndpoint:
    """A chat endpoint with a cache, by address, model, messages, sampling and seed."""

    def __init__(self, endpoint: ChatEndpoint, cache: ResponseCache) -> None:
        self._endpoint, self._cache = endpoint, cache

    @property
    def model(self) -> str:
        """The model's id."""
        return self._endpoint.model

    def ask_all(
        self, requests: Sequence[ChatRequest], progress: Callable[[int], object] = lambda count: None
    ) -> list[Reply]:
        """The replies, in the order of the requests. Faults are not kept: they are asked again the next time.

        Args:
            progress: told how many replies are new here, one call per bunch.

        Raises:
            DataError, StoppedError: as `ChatEndpoint.ask`; what came before is in the cache.
        """
        keys = [self._key(request) for request in requests]
        replies: dict[str, Reply] = {}
        for key in dict.fromkeys(keys):
            if (cached := self._cache.get(key)) is not None:
                replies[key] = Reply(cached["text"], cached["finish_reason"], cached["tokens"])
        missing = [
            (key, request) for key, request in dict(zip(keys, requests, strict=True)).items() if key not in replies
        ]
        progress(len(requests) - sum(key not in replies for key in keys))
        for index, reply in self._endpoint.ask([request for _, request in missing]):
            key = missing[index][0]
            if reply.fault is None:
                self._cache.put(key, {"text": reply.text, "finish_reason": reply.finish_reason, "tokens": reply.tokens})
            replies[key] = reply
            progress(1)
        return [replies[key] for key in keys]

    def _key(self, request: ChatRequest) -> str:
        return cache_key(
            {
                "url": self._endpoint.url,
                "model": self._endpoint.model,
                "messages": [dict(message) for message in request.messages],
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "seed": request.seed,
            }
        )
