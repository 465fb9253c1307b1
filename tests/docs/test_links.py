"""README, CHANGELOG and the pages of docs/: each relative link leads to a file, each anchor to a heading, each page into the nav."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"#{1,6} +(.+)")


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page without its blocks of code."""
    code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings as repository pages make them: small letters, no punctuation, dashes for spaces."""
    slugs: set[str] = set()
    for _, line in prose(page):
        if match := HEADING.fullmatch(line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            slugs.add(slug if slug not in slugs else f"{slug}-1")
    return slugs


def broken_links(page: Path) -> Iterator[str]:
    for number, line in prose(page):
        for link in LINK.findall(line):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.is_relative_to(ROOT) or not target.exists():
                yield f"{page.relative_to(ROOT)}:{number}: {link}: there is no such file"
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                yield f"{page.relative_to(ROOT)}:{number}: {link}: there is no such heading"


def test_each_relative_link_and_anchor_leads_somewhere():
    assert [problem for page in PAGES for problem in broken_links(page)] == []


def test_a_wrong_path_and_a_wrong_anchor_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# One `two`: three!\n\n```\n# not a heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#one-two-three) [b](other.md#not-a-heading) [c](gone.md) [d](https://example.org)\n")
    assert list(broken_links(page)) == [
        "page.md:1: other.md#not-a-heading: there is no such heading",
        "page.md:1: gone.md: there is no such file",
    ]


def test_each_page_is_in_the_navigation_of_the_site():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\nnot_in_nav:")[0]
    listed = re.findall(r"[\w/]+\.md", nav)
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert sorted(listed) == sorted(pages | {"index.md", "changelog.md"})


def test_each_source_file_that_a_page_names_exists():
    """Paths in code font, such as `learner/algorithms/update.py`."""
    name = re.compile(
        r"`((?:actors|cluster|configs|docs|learner|serving|tests)/[\w/.-]+\.(?:py|yaml|yml|sh|lock|json|txt))"
    )
    missing = [
        f"{page.relative_to(ROOT)}:{number}: {path}"
        for page in PAGES
        for number, line in prose(page)
        for path in name.findall(line)
        if not (ROOT / path).exists()
    ]
    assert missing == []
