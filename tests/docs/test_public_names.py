"""docs/extending.md promises names: each can be imported, and each scorer can be named in YAML."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.paths import ROOT

PAGE = ROOT / "docs" / "extending.md"


def listed() -> list[tuple[str, str]]:
    """(module, name) of the page's table."""
    table = (
        PAGE.read_text(encoding="utf-8").partition("<!-- PUBLIC_NAMES -->")[2].partition("<!-- /PUBLIC_NAMES -->")[0]
    )
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    return [(row[1].strip().strip("`"), name) for row in rows for name in re.findall(r"`(\w+)`", row[2])]


def test_the_table_is_read():
    assert ("actors.scoring.gold", "unsafe_cost") in listed()
    assert len(listed()) > 20


@pytest.mark.parametrize(("module", "name"), listed())
def test_each_public_name_can_be_imported(module: str, name: str):
    assert hasattr(importlib.import_module(module), name)
