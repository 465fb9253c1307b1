"""The pages are in plain English: none of the rare words that a reader would have to look up."""

from __future__ import annotations

import re

from tests.paths import ROOT

RARE = re.compile(
    r"\b(mend(s|ed|ing)?|whoever|nobody|somebody|anybody|beside|anew|afresh|lie|lies|thereby|hence|till|whence)\b", re.I
)
WRITTEN_BY_CODE = {"docs/results.md", "docs/metrics.md"}
"""Their words are in the code that writes them."""


def test_no_page_has_a_rare_word():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    rare = [
        f"{name}:{number}: {match[0]}"
        for page in pages
        if (name := str(page.relative_to(ROOT))) not in WRITTEN_BY_CODE
        for number, line in enumerate(_by_hand(page.read_text(encoding="utf-8")).splitlines(), 1)
        for match in RARE.finditer(line)
    ]
    assert rare == []


def _by_hand(text: str) -> str:
    """Without the tables that code writes, line for line."""
    return re.sub(
        r"<!-- (FINDINGS|RESULTS\w*|DEMO_TABLE)\b.*?<!-- /\1 -->",
        lambda match: "\n" * match[0].count("\n"),
        text,
        flags=re.S,
    )
