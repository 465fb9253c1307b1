"""Where a token is found, and what is said about a bad one; against a server that asks for one."""

from __future__ import annotations

import http.server
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.jobs import submission as jobs
from cluster.resources import auth
from configs.exits import ClusterError, ConfigError


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (auth.MODE, auth.TOKEN, auth.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


class AsksForToken(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        shown = self.headers.get("Authorization")
        self.send_response({None: 401, "Bearer right": 404}.get(shown, 403))
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def guarded_address() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), AsksForToken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_new_token_is_its_owners_alone_and_stays(tmp_path: Path):
    path = auth.make_token_file(tmp_path / "state" / "auth_token")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = auth.read_token_file(path)
    assert len(token) == 2 * auth.TOKEN_BYTES
    assert auth.read_token_file(auth.make_token_file(path)) == token


def test_a_file_that_others_can_read_is_refused(tmp_path: Path):
    path = auth.make_token_file(tmp_path / "auth_token")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"can be read by others \(mode 0644\): chmod 600 it"):
        auth.read_token_file(path)


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path: Path):
    (tmp_path / "empty").touch(0o600)
    for name, said in (("empty", "is empty"), ("none", "cannot be read")):
        with pytest.raises(ConfigError, match=said):
            auth.read_token_file(tmp_path / name)


def test_the_token_is_looked_for_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert auth.known_token() is None
    assert not auth.follow_cluster()
    default = auth.make_token_file(auth.default_token_file())
    assert auth.known_token() == default.read_text()
    default.chmod(0o644)  # as `ray get-auth-token --generate` leaves it
    assert auth.known_token() == default.read_text()
    assert stat.S_IMODE(default.stat().st_mode) == 0o600
    named = auth.make_token_file(tmp_path / "named")
    monkeypatch.setenv(auth.TOKEN_PATH, str(named))
    assert auth.known_token() == named.read_text()
    monkeypatch.setenv(auth.TOKEN, "in-the-environment")
    assert auth.known_token() == "in-the-environment"


def test_a_process_with_a_token_shows_it(monkeypatch: pytest.MonkeyPatch):
    auth.make_token_file(auth.default_token_file())
    monkeypatch.setenv(auth.MODE, "disabled")
    assert not auth.follow_cluster()  # said on purpose
    monkeypatch.delenv(auth.MODE)
    assert auth.follow_cluster()
    assert "no cluster answers there, or it refuses this token" in auth.unreachable(token_shown=True)


def test_a_cluster_that_wants_a_token_is_one_clear_line(guarded_address: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ClusterError, match=r"asks for a token: put the cluster's into .*auth_token \(mode 0600\)"):
        jobs.connect(guarded_address)
    monkeypatch.setenv(auth.TOKEN, "wrong")
    with pytest.raises(ClusterError, match="refuses this token"):
        jobs.connect(guarded_address)


def test_no_token_goes_into_an_error_or_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded_address: str):
    monkeypatch.setenv(auth.TOKEN, "wrong-and-secret")
    with pytest.raises(ClusterError) as caught:
        jobs.connect(guarded_address)
    assert "wrong-and-secret" not in str(caught.value)
