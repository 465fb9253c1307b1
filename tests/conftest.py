"""Options and hypothesis profile of the whole test suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

COMMITTED_VECTORS = Path(__file__).parent / "golden" / "vectors"

AUTH_MODE = "RAY_AUTH_MODE"

# Repeatable and quiet: the same examples on every machine, no time limit per example, no database folder.
settings.register_profile("repository", deadline=None, database=None, derandomize=True, max_examples=60)
settings.load_profile("repository")


@pytest.fixture(autouse=True)
def authentication_stays_as_it_was() -> Iterator[None]:
    """Rays that later tests start would ask for a token that they do not show."""
    before = os.environ.get(AUTH_MODE)
    yield
    left = os.environ.get(AUTH_MODE)
    if left != before:
        os.environ.pop(AUTH_MODE) if before is None else os.environ.update({AUTH_MODE: before})
        pytest.fail(f"{AUTH_MODE}={left} is left behind, and was {before}: monkeypatch it")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--golden-dir: check another folder of vectors in the format of tests/golden/vectors/README.md."""
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=COMMITTED_VECTORS,
        metavar="DIR",
        help="folder of golden *.json vectors (default: the committed copy)",
    )
