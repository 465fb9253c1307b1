"""Ray's token authentication: where a token is found, what its file must look like, and what a refusal means.

A cluster that was started with a token lets no one in without it, and says so badly: a driver waits 20 s and reports that
it cannot connect. Here the token is found in the places that Ray itself looks in, handed on, and a refusal is one line.
A token is never logged, nor put into a job's environment: jobs inherit it from the node that they run on.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from configs.exits import ClusterError, ConfigError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TOKEN_BYTES = 32


def default_token_file() -> Path:
    """Where Ray keeps a user's token."""
    return Path.home() / ".ray" / "auth_token"


def make_token_file(path: Path) -> Path:
    """Write a new token that only its owner may read, unless one is there; returns the path.

    Raises:
        ConfigError: the one that is there can be read by others, or is empty.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        read_token_file(path)
        return path
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(TOKEN_BYTES))
    return path


def read_token_file(path: Path) -> str:
    """The token in a file.

    Raises:
        ConfigError: no such file, it is empty, or others than its owner may read it.
    """
    try:
        file_status = path.stat()
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path}: cannot be read ({error})") from error
    # A mounted secret belongs to root and has the modes its cluster gave it; one's own file is one's own to close.
    if file_status.st_uid == os.getuid() and stat.S_IMODE(file_status.st_mode) & 0o077:
        raise ConfigError(
            f"token file {path} can be read by others (mode {stat.S_IMODE(file_status.st_mode):04o}): chmod 600 it"
        )
    if not token:
        raise ConfigError(f"token file {path} is empty: make a new one, or copy the cluster's")
    return token


def known_token(environment: Mapping[str, str] | None = None) -> str | None:
    """This user's token, from where Ray looks: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, ``~/.ray/auth_token``.

    Raises:
        ConfigError: a token file is named, or there, and cannot be used.
    """
    environment = os.environ if environment is None else environment
    if token := environment.get(TOKEN, "").strip():
        return token
    if token_path := environment.get(TOKEN_PATH):
        return read_token_file(Path(token_path))
    default = default_token_file()
    if not default.exists():
        return None
    if default.stat().st_uid == os.getuid():
        default.chmod(0o600)  # Ray itself writes this file with the mode of any other
    return read_token_file(default)


def follow_cluster() -> bool:
    """Let this process show its token to the cluster it joins, where it has one; whether it has. Before Ray is imported.

    `ray start` turns authentication on where it finds a token; the processes that join do not follow by themselves.
    """
    if MODE not in os.environ and known_token() is not None:
        os.environ[MODE] = "token"
    return os.environ.get(MODE, "").lower() == "token"


def bearer(token: str | None) -> dict[str, str]:
    """The HTTP header that shows a token; none without one."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def refusal(status: int, where: str) -> ClusterError | None:
    """What an HTTP status says about the token; None where it is about something else.

    Args:
        where: the cluster's address.
    """
    if status == 401:
        return ClusterError(
            f"the cluster at {where} asks for a token: put the cluster's into {default_token_file()} (mode 0600), or name "
            f"its file in {TOKEN_PATH}"
        )
    if status == 403:
        return ClusterError(
            f"the cluster at {where} refuses this token: {TOKEN}, {TOKEN_PATH} or {default_token_file()} holds another "
            "cluster's; copy the token file of its head node"
        )
    return None


def unreachable(token_shown: bool) -> str:
    """Why a driver may fail to join a cluster: Ray calls a missing or wrong token a failed connection."""
    if token_shown:
        return "no cluster answers there, or it refuses this token (Ray does not tell the two apart)"
    return (
        f"no cluster answers there, or it asks for a token: then set {MODE}=token, and {TOKEN_PATH} to the file that holds "
        "the cluster's (Ray does not tell the two apart)"
    )
