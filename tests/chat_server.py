"""A real HTTP server on loopback that speaks the OpenAI chat API, with answers that a test scripts: slow, broken and rude ones too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

Answer = Callable[[dict[str, Any], int], Any]
"""The request's body and how often this very body came, to a text, a whole JSON document, or a Response."""


class ChatServer:
    """What was asked of it, and what it answers."""

    def __init__(self, answer: Answer, models: tuple[str, ...] = ("scripted",)) -> None:
        self.answer, self.models = answer, models
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""
        self.running = self.most_running = 0
        self._lock = threading.Lock()
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/chat/completions")(self._complete)

    def _models(self) -> dict[str, Any]:
        return {"data": [{"id": name} for name in self.models]}

    async def _complete(self, request: Request) -> Response:
        import anyio

        body = await request.json()
        with self._lock:
            self.bodies.append(body)
            self.keys.append(request.headers.get("authorization"))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            times = self.bodies.count(body)
        try:
            found = await anyio.to_thread.run_sync(self.answer, body, times)
        finally:
            with self._lock:
                self.running -= 1
        if isinstance(found, Response):
            return found
        return JSONResponse(completion(found) if isinstance(found, str) else found)


def completion(text: str | None, finish_reason: str = "stop", tokens: int | None = 7) -> dict[str, Any]:
    """A chat completion as OpenAI's servers write it."""
    message = {"role": "assistant", "content": text}
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], **usage}


def status(code: int, **headers: str) -> Response:
    """An error of the server's."""
    return JSONResponse({"error": {"message": "scripted"}}, code, headers=headers)


def garbage() -> Response:
    """A page in place of JSON, with status 200, as a proxy may send."""
    return Response("<html>welcome</html>", media_type="text/html")


def trickle(seconds: float) -> Response:
    """A reply that comes byte by byte and is never whole in time."""

    def drip() -> Iterator[bytes]:
        for _ in range(int(seconds / 0.05)):
            yield b" "
            time.sleep(0.05)

    return StreamingResponse(drip(), media_type="application/json")


@contextmanager
def serve(answer: Answer, models: tuple[str, ...] = ("scripted",)) -> Iterator[ChatServer]:
    """The server, up until the block ends."""
    chat = ChatServer(answer, models)
    server = uvicorn.Server(uvicorn.Config(chat.app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the scripted server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    chat.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield chat
    finally:
        server.should_exit = True
        thread.join(timeout=10)
