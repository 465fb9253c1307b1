"""Answers that were given before, so that a second run asks no one: one SQLite file, safe with several processes.

A key is the sha256 of everything that an answer depends on: the model, the messages, how it was sampled, the seed. The first
answer that is written for a key stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.exits import DataError

FILE = "responses.sqlite"
_WAIT_SECONDS = 60.0
"""For another process that writes."""


def cache_key(parts: Mapping[str, Any]) -> str:
    """sha256 (hex) of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ResponseCache:
    """Key to a JSON object.

    Args:
        folder: made where it is not there, for this user alone; None keeps everything in memory and forgets it.

    Raises:
        DataError: the file is no cache, or the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = ":memory:" if folder is None else str(folder / FILE)
        self._lock = threading.Lock()
        with self._errors():
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # what models and judges said is private
            self._connection = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
            )
            self._connection.commit()
        self.hits = self.misses = 0

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer under a key; None where there is none."""
        with self._lock, self._errors():
            row = self._connection.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
            self.hits, self.misses = self.hits + (row is not None), self.misses + (row is None)
            return None if row is None else json.loads(row[0])

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep an answer; it is on disk when this returns."""
        with self._lock, self._errors():
            text = json.dumps(value, ensure_ascii=True, allow_nan=False)
            self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, text))
            self._connection.commit()

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise DataError(
                f"{self._path}: the cache of answers cannot be used ({error}): remove it, or give --cache or --no-cache"
            ) from error
