"""Asking a real server on loopback: retries, deadlines, garbage, what is kept in the cache and what is not."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from actors.judging.judges.cached_endpoint import CachedEndpoint
from actors.judging.judges.chat_endpoint import IN_A_ROW, ChatEndpoint, ChatRequest, EndpointOptions, Reply
from actors.judging.judges.response_cache import FILE, ResponseCache, cache_key
from configs.exits import ConfigError, DataError, StoppedError
from tests.chat_server import completion, garbage, serve, status, trickle

QUICK = EndpointOptions(timeout_seconds=5.0, tries=3, concurrency=4, first_wait_seconds=0.01, longest_wait_seconds=0.5)


def request(text: str, seed: int | None = None) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), 16, 0.0, seed)


def ask(endpoint: ChatEndpoint, *texts: str) -> list[Reply]:
    found = dict(endpoint.ask([request(text) for text in texts]))
    return [found[index] for index in range(len(texts))]


def last(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_answers_come_back_in_place_with_reason_and_tokens_and_the_key_is_sent() -> None:
    def answer(body: dict[str, Any], times: int) -> Any:
        return completion(last(body).upper(), "length", 3) if last(body) == "cut" else last(body).upper()

    with serve(answer) as server:
        endpoint = ChatEndpoint(server.url + "/", key="secret-key", options=QUICK)
        replies = ask(endpoint, "a", "cut", "b")
        assert endpoint.model == "scripted"  # the only one that the server lists
    assert [reply.text for reply in replies] == ["A", "CUT", "B"]
    assert (replies[1].finish_reason, replies[1].tokens) == ("length", 3)
    assert set(server.keys) == {"Bearer secret-key"}
    assert server.bodies[0]["model"] == "scripted"
    assert "seed" not in server.bodies[0]


def test_too_many_requests_and_server_errors_are_asked_again_and_retry_after_is_heeded() -> None:
    def answer(body: dict[str, Any], times: int) -> Any:
        if times == 1:
            return status(429, **{"Retry-After": "0.3"}) if last(body) == "busy" else status(503)
        return "at last"

    with serve(answer) as server:
        begin = time.monotonic()
        replies = ask(ChatEndpoint(server.url, options=QUICK), "busy", "down")
    assert [reply.text for reply in replies] == ["at last", "at last"]
    assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (garbage, "no JSON"),
        (lambda: {"choices": []}, "no choices"),
        (lambda: {"choices": [{"message": {"content": ["parts"]}}]}, "no text"),
        (lambda: [1, 2], "no JSON object"),
        (lambda: status(400), "the server said 400"),
        (lambda: completion(None), "no text"),
    ],
)
def test_garbage_is_a_fault_and_never_an_answer(reply: Any, reason: str) -> None:
    def answer(body: dict[str, Any], times: int) -> Any:
        found = reply() if last(body) == "bad" else "fine"
        return found if not isinstance(found, list) else __import__("fastapi").responses.JSONResponse(found)

    with serve(answer) as server:
        bad, good = ask(ChatEndpoint(server.url, options=QUICK), "bad", "good")
    assert bad.fault is not None
    assert reason in bad.fault
    assert good.text == "fine"


def test_a_reply_that_trickles_ends_at_the_deadline() -> None:
    options = EndpointOptions(timeout_seconds=1.5, tries=1)  # time for a busy machine to list its models
    with serve(lambda body, times: trickle(6.0)) as server:
        begin = time.monotonic()
        (reply,) = ask(ChatEndpoint(server.url, options=options), "slow")
    assert "within 1.5 s" in (reply.fault or "")
    assert time.monotonic() - begin < 5


def test_a_server_that_stays_down_ends_the_asking_with_one_line_and_what_came_is_kept() -> None:
    def answer(body: dict[str, Any], times: int) -> Any:
        return "early" if last(body) in ("0", "1") else status(500)

    cache = ResponseCache(None)
    options = EndpointOptions(timeout_seconds=5, tries=2, concurrency=1, first_wait_seconds=0.01)
    with serve(answer) as server:
        endpoint = CachedEndpoint(ChatEndpoint(server.url, options=options), cache)
        with pytest.raises(StoppedError, match=f"{IN_A_ROW} requests in a row failed .*same command goes on"):
            endpoint.ask_all([request(str(number)) for number in range(40)])
        asked = len(server.bodies)
        assert asked == 2 + 2 * IN_A_ROW  # nobody is asked any more
        assert [reply.text for reply in endpoint.ask_all([request("0"), request("1")])] == ["early", "early"]
        assert len(server.bodies) == asked


def test_a_refused_key_an_absent_server_and_several_models_say_what_to_do() -> None:
    with serve(lambda body, times: status(401)) as server, pytest.raises(DataError, match="refuses the key"):
        ask(ChatEndpoint(server.url, options=QUICK), "x")
    with pytest.raises(DataError, match="is the server running"):
        ChatEndpoint(server.url, options=QUICK)  # it is down by now
    with serve(lambda body, times: "x", models=("one", "two")) as server:
        with pytest.raises(ConfigError, match="one, two"):
            ChatEndpoint(server.url, options=QUICK)
        assert ChatEndpoint(server.url, "two", options=QUICK).model == "two"
    with pytest.raises(ConfigError, match="no password"):
        ChatEndpoint("http://me:word@127.0.0.1:1/v1", options=QUICK)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "http:///v1",
        "http://127.0.0.1:80a/v1",
        "http://127.0.0.1:99999/v1",
        "http://[x/v1",
        "http://999.1.1.1/v1",
    ],
)
def test_what_is_no_address_is_one_line_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a model"):
        ChatEndpoint(url, options=QUICK)
    scheme, _, rest = url.partition("//")
    with pytest.raises(ConfigError) as refused:
        ChatEndpoint(f"{scheme}//me:word@{rest}?key=other", options=QUICK)
    assert "word" not in str(refused.value)
    assert "other" not in str(refused.value)


@pytest.mark.parametrize("key", ["schlüssel", "one\ntwo"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match="its key holds a character") as refused:
        ChatEndpoint("http://127.0.0.1:9/v1", key=key, options=QUICK)
    assert key not in str(refused.value)


def test_no_more_requests_run_at_a_time_than_allowed() -> None:
    def answer(body: dict[str, Any], times: int) -> str:
        time.sleep(0.05)
        return "x"

    with serve(answer) as server:
        options = EndpointOptions(concurrency=3)
        ask(ChatEndpoint(server.url, options=options), *map(str, range(12)))
    assert 1 < server.most_running <= 3


# --- cache -------------------------------------------------------------------------------------------------------------


def test_a_second_run_asks_nobody_and_equal_requests_are_asked_once(tmp_path: Path) -> None:
    with serve(lambda body, times: last(body)) as server:
        for _ in range(2):
            cache = ResponseCache(tmp_path / "cache")
            endpoint = CachedEndpoint(ChatEndpoint(server.url, options=QUICK), cache)
            replies = endpoint.ask_all([request("a"), request("b"), request("a"), request("a", seed=1)])
            assert [reply.text for reply in replies] == ["a", "b", "a", "a"]
            cache.close()
    assert len(server.bodies) == 3
    assert (tmp_path / "cache" / FILE).stat().st_mode & 0o077 == 0  # for this user alone


def test_faults_are_not_kept() -> None:
    cache = ResponseCache(None)
    with serve(lambda body, times: garbage() if times <= 3 else "better now") as server:
        endpoint = CachedEndpoint(ChatEndpoint(server.url, options=QUICK), cache)
        assert endpoint.ask_all([request("a")])[0].fault is not None
        assert endpoint.ask_all([request("a")])[0].text == "better now"


def write_many(folder: str, who: int) -> None:
    cache = ResponseCache(Path(folder))
    for number in range(150):
        cache.put(cache_key({"number": number}), {"who": who, "number": number})
    cache.close()


def test_two_processes_write_one_cache_and_the_first_answer_stays(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(str(tmp_path), who)) for who in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    cache = ResponseCache(tmp_path)
    assert all((cache.get(cache_key({"number": number})) or {})["number"] == number for number in range(150))
    first = cache.get(cache_key({"number": 3}))
    cache.put(cache_key({"number": 3}), {"who": "late"})
    assert cache.get(cache_key({"number": 3})) == first


def test_a_file_that_is_no_cache_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, certainly not one" * 50)
    with pytest.raises(DataError, match="remove it"):
        ResponseCache(tmp_path)
