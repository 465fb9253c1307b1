"""What a row of preference data is once it has been read, whatever its format.

A parser never raises on a row: it gives a `Parsed`, with the record where there is one, and what it found wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Message = Mapping[str, str]
"""``role`` (``user``, ``assistant`` or ``system``) and ``content``."""

Question = Literal["better", "safer", "safe_0", "safe_1"]
"""What an annotator was asked about a pair."""

Severity = Literal["error", "warning", "note"]

EXCERPT = 200
"""Characters of a raw row that are kept for the quarantine."""


@dataclass(frozen=True)
class Vote:
    """One annotator's answer to one question about a pair."""

    annotator: str
    question: Question
    answer: int
    """Of ``better`` and ``safer`` the index of the response; of ``safe_0`` and ``safe_1`` 1 for safe, 0 for unsafe."""


@dataclass(frozen=True)
class PreferencePair:
    """Two responses to one conversation, and what is known about them; helpfulness and safety are apart."""

    prompt: tuple[Message, ...]
    """The conversation so far; ends with a user turn."""
    responses: tuple[str, str]
    better: int | None = None
    """Index of the more helpful response; None: unknown."""
    safer: int | None = None
    """Index of the safer response; None: unknown."""
    safe: tuple[bool | None, bool | None] = (None, None)
    categories: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Kinds of harm in each response, in the source's own words."""
    severity: tuple[int | None, int | None] = (None, None)
    """0 (none) to 3 (severe), as in PKU-SafeRLHF 2024."""
    votes: tuple[Vote, ...] = ()
    pair_id: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledResponse:
    """One response with a safety label, as in BeaverTails."""

    prompt: tuple[Message, ...]
    response: str
    safe: bool
    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptOnly:
    """A conversation that waits for its response."""

    prompt: tuple[Message, ...]
    category: str | None = None
    tags: tuple[str, ...] = ()
    prompt_id: str | None = None


Record = PreferencePair | LabelledResponse | PromptOnly


@dataclass(frozen=True)
class Finding:
    """Something about a row that its reader should know; an ``error`` puts the row into the quarantine."""

    kind: str
    severity: Severity
    message: str


@dataclass(frozen=True)
class Parsed:
    """One row of a file, read as far as it could be."""

    file: str
    row: int
    """From 1: the line of a JSONL file, the record of a CSV or Parquet file (a CSV's heading is not counted)."""
    record: Record | None
    """None: the row cannot be used."""
    findings: tuple[Finding, ...]
    excerpt: str
    """The first `EXCERPT` characters of the raw row."""

    @property
    def error(self) -> Finding | None:
        """The first finding that puts the row into the quarantine; None: the row is good."""
        return next((finding for finding in self.findings if finding.severity == "error"), None)
