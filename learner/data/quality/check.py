"""One pass over parsed rows: what is wrong with each, and what they say together."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from learner.data.kinds import KINDS, finding
from learner.data.quality.labels import Labels
from learner.data.quality.lengths import Shapes
from learner.data.quality.repeats import Places, Prompts, Repeats
from learner.data.quality.rows import row_findings, unsafe_without_category
from learner.data.quality.votes import Votes, repeated_agreement
from learner.data.quality.whole import whole_findings
from learner.data.records import Finding, Parsed, PreferencePair, Severity

FIRST = 20
"""Rows that are named for every kind of finding."""
_FILE_BITS = 24
_FILES = 1000
"""Files that are counted apart."""
_EXAMPLE = 300
"""Characters of a finding's message that are kept."""


@dataclass(frozen=True)
class Place:
    """Where a row is."""

    file: str
    row: int


@dataclass
class Tally:
    """One kind of finding over the whole source."""

    kind: str
    severity: Severity
    example: str
    """The first message."""
    count: int = 0
    """Rows; 1 of a finding about the whole source."""
    places: list[Place] = field(default_factory=list)
    """The first `FIRST`."""

    def document(self) -> dict[str, Any]:
        """Plain values."""
        rows = [place.row for place in self.places]
        return {"kind": self.kind, "severity": self.severity, "count": self.count, "rows": rows}


@dataclass(frozen=True)
class Quality:
    """What one pass found."""

    rows: int
    ok_rows: int
    quarantined: int
    findings: tuple[Tally, ...]
    """Errors first, then by count."""
    balance: dict[str, Any]
    agreement: dict[str, Any]
    files: int

    def document(self) -> dict[str, Any]:
        """Plain values without nan; the caller adds ``file`` and ``format``."""
        return {
            "rows": self.rows,
            "ok_rows": self.ok_rows,
            "quarantined": self.quarantined,
            "findings": [tally.document() for tally in self.findings],
            "balance": self.balance,
            "agreement": self.agreement,
        }


class QualityCheck:
    """Takes rows one by one; memory grows by some tens of bytes a row, whatever its length."""

    def __init__(self, *, fixed_order: bool = False, against: Prompts | None = None) -> None:
        """``fixed_order``: the format itself puts the winner first; ``against``: prompts that must not come here."""
        self._fixed_order, self._against = fixed_order, against
        self._tallies: dict[tuple[str, Severity], Tally] = {}
        self._files: dict[str, list[int]] = {}
        self._names: list[str] = []
        self._places = array("Q")
        self._quarantined = 0
        self._shapes, self._labels, self._votes = Shapes(), Labels(), Votes()
        self._prompts, self._repeats = Prompts(), Repeats()
        self._uncategorised = Tally("unsafe_without_category", "note", "")

    def add(self, parsed: Parsed) -> tuple[Finding, ...]:
        """Count a row; returns all its findings, the parser's first. One error among them: the row is to be set aside."""
        findings = parsed.findings
        if parsed.record is not None:
            findings += row_findings(parsed.record, {finding_.kind for finding_ in findings})
        bad = any(finding_.severity == "error" for finding_ in findings)
        if parsed.record is None and not bad:
            findings, bad = (*findings, finding("unreadable", "the row gave no record")), True
        place = Place(parsed.file, parsed.row)
        self._tally(findings, place)
        counts = self._file_counts(parsed.file)
        counts[0] += 1
        counts[1] += bad
        if bad:
            self._quarantined += 1
        elif parsed.record is not None:
            self._add_good(parsed)
            if unsafe_without_category(parsed.record):
                _count(self._uncategorised, place)
        return findings

    def _add_good(self, parsed: Parsed) -> None:
        record = parsed.record
        assert record is not None  # the caller's case
        self._repeats.add(len(self._places), record)
        self._places.append(parsed.row << _FILE_BITS | self._file_number(parsed.file))
        self._prompts.add(record.prompt)
        self._shapes.add(record)
        self._labels.add(record)
        if isinstance(record, PreferencePair):
            self._votes.add(record)

    def finish(self) -> Quality:
        """Look for what only all rows together show, and sum up."""
        repeated, prompts = self._prompts.repeats()
        self._tally_rows("repeated_prompt", repeated)
        pairs, responses = self._repeats.pair_findings(), self._repeats.response_findings()
        for kind, rows in (*pairs.items(), *responses.items()):
            self._tally_rows(kind, rows)
        leakage = None
        if self._against is not None:
            leaked, leakage = self._prompts.leaks(self._against)
            self._tally_rows("leaked_prompt", leaked)
        if self._labels.categories.counts and self._uncategorised.count:
            self._tallies["unsafe_without_category", "note"] = self._uncategorised
        balance = {
            **self._labels.document(),
            "winner_first_by_format": self._fixed_order,
            "lengths": self._shapes.lengths(),
            "turns": self._shapes.turns(),
            "different": {"prompts": prompts, **self._repeats.counts()},
            "leakage": leakage,
            "files": [
                {"file": name, "rows": counts[0], "quarantined": counts[1]} for name, counts in self._files.items()
            ],
        }
        agreement = {"votes": self._votes.document(), "repeated": repeated_agreement(self._repeats.patterns())}
        for whole in whole_findings(balance, agreement, fixed_order=self._fixed_order):
            self._tallies[whole.kind, whole.severity] = Tally(whole.kind, whole.severity, whole.message, count=1)
        total = sum(counts[0] for counts in self._files.values())
        if not total:
            self._tallies["no_rows", "error"] = Tally("no_rows", "error", "the source has no rows", count=1)
        good = total - self._quarantined
        return Quality(total, good, self._quarantined, self._sorted(), balance, agreement, len(self._files))

    def _tally(self, findings: Sequence[Finding], place: Place) -> None:
        """Count a row once for each kind that it has."""
        for kind, severity in dict.fromkeys((row_finding.kind, row_finding.severity) for row_finding in findings):
            tally = self._tallies.get((kind, severity))
            if tally is None:
                message = next(row_finding.message for row_finding in findings if row_finding.kind == kind)
                tally = self._tallies[kind, severity] = Tally(kind, severity, message[:_EXAMPLE])
            _count(tally, place)

    def _tally_rows(self, kind: str, positions: Places) -> None:
        """Count good rows by their positions, which ascend."""
        if not len(positions):
            return
        key = (kind, KINDS[kind].severity)
        tally = self._tallies.setdefault(key, Tally(*key, ""))
        tally.count += len(positions)
        tally.places = (tally.places + [self._place(int(index)) for index in positions[:FIRST]])[:FIRST]

    def _place(self, position: int) -> Place:
        packed = self._places[position]
        return Place(self._names[packed & (1 << _FILE_BITS) - 1], packed >> _FILE_BITS)

    def _file_counts(self, name: str) -> list[int]:
        """Rows and bad rows of a file."""
        key = name if name in self._files or len(self._files) < _FILES else "(others)"
        return self._files.setdefault(key, [0, 0])

    def _file_number(self, name: str) -> int:
        """Rows of one file follow one another, so only the last name is looked at."""
        if not self._names or self._names[-1] != name:
            self._names.append(name)
        return len(self._names) - 1

    def _sorted(self) -> tuple[Tally, ...]:
        grave = {"error": 0, "warning": 1, "note": 2}
        return tuple(
            sorted(self._tallies.values(), key=lambda tally: (grave[tally.severity], -tally.count, tally.kind))
        )


def prompts_of(rows: Iterable[Parsed]) -> Prompts:
    """The prompts of all rows that have one, good or bad, for `QualityCheck`'s ``against``."""
    prompts = Prompts()
    for parsed in rows:
        if parsed.record is not None:
            prompts.add(parsed.record.prompt)
    return prompts


def _count(tally: Tally, place: Place) -> None:
    tally.count += 1
    if len(tally.places) < FIRST:
        tally.places.append(place)
