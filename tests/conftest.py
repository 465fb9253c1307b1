"""Options and hypothesis profile of the whole test suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

COMMITTED_VECTORS = Path(__file__).parent / "golden" / "vectors"

# Repeatable and quiet: the same examples on every machine, no time limit per example, no database folder.
settings.register_profile("repository", deadline=None, database=None, derandomize=True, max_examples=60)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--golden-dir: check another folder of vectors in the format of tests/golden/vectors/README.md."""
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=COMMITTED_VECTORS,
        metavar="DIR",
        help="folder of golden *.json vectors (default: the committed copy)",
    )
