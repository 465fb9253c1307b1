"""One golden test per *.json in --golden-dir."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise ``golden_file`` with every vector file; an empty or missing folder is an error, not a pass."""
    if "golden_file" not in metafunc.fixturenames:
        return
    folder: Path = metafunc.config.getoption("--golden-dir")
    files = sorted(folder.glob("*.json"))
    if not files:
        raise pytest.UsageError(f"no *.json in {folder}: give --golden-dir a folder of golden vectors")
    metafunc.parametrize("golden_file", files, ids=[file.stem for file in files])
