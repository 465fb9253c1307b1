"""Worlds for the crowd's tests: the packaged default, and the shared reference where this checkout has it beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.crowd.world import DEFAULT_WORLD_PATH, World
from actors.crowd.world_reader import load_world
from tests.paths import SHARED

SHARED_SANDBOX = SHARED / "sandbox"


@pytest.fixture(scope="session")
def default_world() -> World:
    return load_world(None)


@pytest.fixture(scope="session")
def shared_sandbox() -> Path:
    if not SHARED_SANDBOX.is_dir():
        pytest.skip(f"no reference sandbox at {SHARED_SANDBOX}")
    return SHARED_SANDBOX


@pytest.fixture
def raw_world() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(DEFAULT_WORLD_PATH.read_text(encoding="utf-8"))
    return raw


@pytest.fixture
def write_world(tmp_path: Path) -> Callable[[Any], Path]:
    def write(raw: Any) -> Path:
        path = tmp_path / "world.json"
        path.write_text(json.dumps(raw), encoding="utf-8")
        return path

    return write
