"""A model behind an OpenAI-compatible address: chat completions with deadlines, retries, and so many at a time.

Invariant: a reply is what the server said, whole, or there is none and a reason; nothing is guessed. The key is sent to this
address alone and is in no message, no file and no cache.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from configs.exits import ConfigError, DataError, StoppedError
from learner.records import Message

MOST_BYTES = 8 * 2**20
"""Of one reply: more is no chat completion."""
IN_A_ROW = 5
"""Requests that failed one after another, each after all its tries, before no more are sent."""
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class EndpointOptions:
    """How an address is asked."""

    timeout_seconds: float = 120.0
    """For one try, from connecting to the last byte."""
    tries: int = 5
    concurrency: int = 8
    first_wait_seconds: float = 1.0
    """Before the second try; doubles, with some chance in it, up to `longest_wait_seconds`. A Retry-After goes first."""
    longest_wait_seconds: float = 60.0


@dataclass(frozen=True)
class ChatRequest:
    """One completion to ask for."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    seed: int | None = None


@dataclass(frozen=True)
class Reply:
    """What came of a request: a text, or a fault."""

    text: str = ""
    finish_reason: str = "stop"
    tokens: int | None = None
    """Of the completion, where the server counts."""
    fault: str | None = None


class _Refused(Exception):
    """The server will not answer this request, however often it is asked."""


class _Again(Exception):
    """The server may answer later."""

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


def check_address(url: str) -> SplitResult:
    """The parts of an address that can be asked; asks no one.

    Raises:
        ConfigError: it is none, or holds a password.
    """
    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        public_part = url.partition("?")[0].rpartition("@")[2]  # what stands before or after may be a secret
        raise ConfigError(f"{public_part!r} is no address of a model: give one such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ConfigError("an address must hold no password: name an environment variable with the key instead")
    return parts


def sendable(key: str) -> bool:
    """Whether a header can carry the key: printable ASCII. Others fail while they are sent, some of them in a message."""
    return key.isascii() and key.isprintable()


class ChatEndpoint:
    """One model at one address.

    Args:
        url: up to ``/v1``; ``/chat/completions`` is added.
        model: its id there; None: the only one that the server lists.
        key: sent as a bearer token.

    Raises:
        ConfigError: no http address, a key that no header can carry, or several models to choose from.
        DataError: no server answers there, or not as an OpenAI-compatible server does.
    """

    def __init__(
        self, url: str, model: str | None = None, *, key: str | None = None, options: EndpointOptions | None = None
    ) -> None:
        parts = check_address(url)
        if key is not None and not sendable(key):
            raise ConfigError(
                f"{url}: its key holds a character that no header can carry: give the key as it was issued"
            )
        self.url = url.rstrip("/")
        self._options = options or EndpointOptions()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=self._options.concurrency)
        # A proxy has no business between this machine and itself.
        self._client = httpx.Client(
            headers=headers,
            timeout=self._options.timeout_seconds,
            limits=limits,
            trust_env=parts.hostname not in _LOOPBACK,
            follow_redirects=False,
        )
        self._stopped = threading.Event()
        self.requests = 0
        """Sent over the network, retries included."""
        self.model = self._find_model(model)

    def ask(self, requests: Sequence[ChatRequest]) -> Iterator[tuple[int, Reply]]:
        """Every request's index and reply, in the order in which they come.

        Raises:
            DataError: the server refuses the key or the model.
            StoppedError: several requests in a row failed after all their tries; what came before stands.
        """
        self._stopped.clear()
        failed, waiting = 0, iter(enumerate(requests))
        running: dict[Future[Reply], int] = {}
        with ThreadPoolExecutor(self._options.concurrency) as pool:
            try:
                while True:
                    while len(running) < self._options.concurrency and (item := next(waiting, None)) is not None:
                        running[pool.submit(self._tries, item[1])] = item[0]
                    if not running:
                        return
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        index, reply = running.pop(future), future.result()
                        failed = 0 if reply.fault is None or reply.finish_reason == "refused" else failed + 1
                        if failed >= IN_A_ROW:
                            raise StoppedError(
                                f"{self.url}: {failed} requests in a row failed ({reply.fault}); what was answered is kept: "
                                "the same command goes on when the server is back"
                            )
                        yield index, reply
            finally:
                self._stopped.set()  # those that wait for their next try give up
                for future in running:
                    future.cancel()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _find_model(self, model: str | None) -> str:
        try:
            document = self._send("GET", "/models", None)
        except (_Refused, _Again) as error:
            if model is not None and isinstance(error, _Refused):
                return model  # not every server lists its models
            raise DataError(f"{self.url}: {error}: is the server running, and is this its address?") from error
        names = [str(entry.get("id")) for entry in document.get("data") or [] if isinstance(entry, dict)]
        if model is not None:
            return model
        if len(names) != 1:
            listed = ", ".join(names[:8]) or "none"
            raise ConfigError(f"{self.url}: which model? the server lists {listed}: name one")
        return names[0]

    def _tries(self, request: ChatRequest) -> Reply:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        } | ({} if request.seed is None else {"seed": request.seed})
        pause, reason = self._options.first_wait_seconds, ""
        for turn in range(self._options.tries):
            try:
                return _reply(self._send("POST", "/chat/completions", body))
            except _Refused as error:
                return Reply(fault=str(error), finish_reason="refused")
            except _Again as error:
                reason = str(error)
                seconds = error.after_seconds if error.after_seconds is not None else pause * random.uniform(0.5, 1.0)
            pause *= 2
            if turn + 1 < self._options.tries and self._stopped.wait(min(seconds, self._options.longest_wait_seconds)):
                break
        return Reply(fault=f"{reason} (asked {turn + 1} times)", finish_reason="failed")

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        self.requests += 1
        deadline = time.monotonic() + self._options.timeout_seconds
        try:
            with self._client.stream(method, self.url + path, json=body) as response:
                raw = bytearray()
                for block in response.iter_bytes():
                    raw += block
                    if len(raw) > MOST_BYTES:
                        raise _Refused(f"the server sent more than {MOST_BYTES >> 20} MiB")
                    if time.monotonic() > deadline:  # a server that sends byte by byte never times out of itself
                        raise _Again(f"no whole reply within {self._options.timeout_seconds:g} s")
        except httpx.TimeoutException as error:
            raise _Again(f"no reply within {self._options.timeout_seconds:g} s") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Again(f"the connection failed ({_line(str(error)) or type(error).__name__})") from error
        return self._document(response, bytes(raw))

    def _document(self, response: httpx.Response, raw: bytes) -> dict[str, Any]:
        status = response.status_code
        if status in (401, 403):
            raise DataError(f"{self.url}: the server refuses the key ({status}): name the variable that holds it")
        if status in _RETRIED:
            raise _Again(f"the server said {status}", _retry_after(response))
        if status == 404 and response.request.method == "POST":
            raise DataError(f"{self.url}: no chat completions or no model '{self.model}' there (404)")
        if status != 200:
            raise _Refused(f"the server said {status}: {_line(raw.decode('utf-8', 'replace'))}")
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise _Again("the reply is no JSON") from error
        if not isinstance(document, dict):
            raise _Again("the reply is no JSON object")
        return document


def _parts(url: str) -> SplitResult | None:
    """None where it cannot be taken apart, or has a host or port that no server has."""
    try:
        httpx.URL(url)  # stricter: letters of a host, numbers of an IPv4 address
        parts = urlsplit(url)
        return None if parts.port == 0 else parts  # reading the port checks it
    except (ValueError, httpx.InvalidURL):
        return None


def _reply(document: Mapping[str, Any]) -> Reply:
    try:
        choice = document["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Again("the reply has no choices") from error
    if text is None and isinstance(choice["message"].get("refusal"), str):
        text = choice["message"]["refusal"]  # OpenAI's own field for a model that declines
    if not isinstance(text, str):
        raise _Again("the reply has no text")
    usage = document.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    tokens = count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**31 else None
    return Reply(text.encode("utf-8", "replace").decode(), reason if isinstance(reason, str) else "stop", tokens)


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 3600 else None


def _line(text: str) -> str:
    return " ".join(text.split())[:160]
