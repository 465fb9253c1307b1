"""docs/commands.md lists the commands that there are, and no page names one that there is not."""

from __future__ import annotations

import re

from typer.main import get_command

from cluster.commands.main import app
from configs.exits import Exit
from tests.paths import ROOT

PAGE = ROOT / "docs" / "commands.md"
COMMAND = re.compile(r"(?:^|`)(?:\.venv/bin/)?steelyard ([a-z]+)", re.M)


def verbs() -> set[str]:
    return set(get_command(app).commands)


def test_the_page_lists_each_command():
    assert sorted(set(COMMAND.findall(PAGE.read_text(encoding="utf-8")))) == sorted(verbs())


def test_no_page_names_a_command_that_is_not_there():
    pages = (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    unknown = [
        f"{page.relative_to(ROOT)}: steelyard {verb}"
        for page in pages
        for verb in COMMAND.findall(page.read_text(encoding="utf-8"))
        if verb not in verbs()
    ]
    assert unknown == []


def test_the_page_lists_each_exit_code():
    codes = re.findall(r"^\| (\d) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert [int(code) for code in codes] == sorted(Exit)
