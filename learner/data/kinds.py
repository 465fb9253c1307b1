"""Every kind of finding about data: how grave it is, what it means and what to do. docs/data.md shows this table.

`python -m learner.data.kinds docs/data.md` writes the table into that page again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from learner.data.records import Finding, Severity

OPENING, CLOSING = "<!-- FINDINGS -->", "<!-- /FINDINGS -->"
"""Between these lines of the page the table is written."""


@dataclass(frozen=True)
class Kind:
    """What a finding of this kind tells a reader; an error sets its row aside."""

    severity: Severity
    meaning: str
    remedy: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        # The file, and the row as it is in it.
        "unreadable": Kind(
            "error",
            "The source cannot be opened, or its format cannot be told.",
            "Follow the message; name the format with --format.",
        ),
        "not_data": Kind(
            "error",
            "The file holds something else, such as a web page or an archive.",
            "Download it again; check that its name says what it is.",
        ),
        "truncated_file": Kind(
            "error", "The file ends in the middle; what came before was read.", "Download it again."
        ),
        "bad_encoding": Kind("error", "The row is not UTF-8 text.", "Save the file as UTF-8."),
        "bad_json": Kind("error", "The line is not one JSON object.", "Repair the line, or leave it out."),
        "bad_csv": Kind("error", "The record does not have the heading's columns.", "Repair its quotes or separators."),
        "too_long_row": Kind("error", "The row is longer than is read into memory.", "Leave it out, or split it."),
        "missing_field": Kind(
            "error",
            "A field that the format needs is not there, or is null.",
            "Add it, or name another format with --format.",
        ),
        "wrong_type": Kind(
            "error", "A field has a value of another type, or out of its range.", "Write it as the format says."
        ),
        "unknown_column": Kind(
            "note",
            "A field that the format does not know; it was not read (an error in the native schema).",
            "Check its spelling, if it should count.",
        ),
        "ranking_assumed": Kind(
            "note",
            "No name says what the order of HH-RLHF's pairs ranks; it was taken for `better`.",
            "Name the file or its folder `harmless…` or `helpful…`, or give --ranking.",
        ),
        "no_rows": Kind("error", "The source has no row at all.", "Check that it is the file you mean."),
        "not_expressible": Kind(
            "error",
            "The target format of a conversion has no way to write the row.",
            "Convert to another format, such as `native`.",
        ),
        # One conversation.
        "broken_order": Kind(
            "error",
            "User and assistant do not take turns so that a user turn ends the prompt.",
            "Repair the roles, or leave the row out.",
        ),
        "empty_prompt": Kind("error", "The prompt, or a turn of it, has no text.", "Leave the row out."),
        "repeated_role": Kind(
            "warning",
            "One role has two turns in a row; they were joined with a blank line.",
            "Look at some: often a pasted answer.",
        ),
        "role_word_in_answer": Kind(
            "warning",
            "An answer holds a role's marker, such as `Human:`.",
            "Look at some: a model learns to write both sides.",
        ),
        "leading_space": Kind(
            "note", "A turn begins with a space; the space was dropped.", "Nothing, unless spaces mean something."
        ),
        # One pair.
        "prompt_mismatch": Kind(
            "error",
            "The two transcripts do not share one prompt, so their answers cannot be compared.",
            "Leave the row out.",
        ),
        "empty_chosen": Kind("error", "The preferred response has no text.", "Leave the row out."),
        "empty_rejected": Kind("error", "The other response has no text.", "Leave the row out."),
        "empty_response": Kind("error", "A response has no text.", "Leave the row out."),
        "identical_responses": Kind(
            "error",
            "Both responses are the same text, yet one is ranked higher (a warning where nothing ranks them).",
            "Leave the row out.",
        ),
        "contradictory_labels": Kind(
            "error",
            "An unsafe response is ranked safer than a safe one.",
            "Have the row labelled again, or leave it out.",
        ),
        "severity_against_safer": Kind(
            "warning", "The response ranked safer has the graver severity.", "Look at some before you train on `safer`."
        ),
        "safe_but_harmful": Kind(
            "warning",
            "A response is labelled safe, yet has a kind of harm or a severity.",
            "Decide which label counts.",
        ),
        "unsafe_without_category": Kind(
            "note",
            "A response is labelled unsafe, yet has no kind of harm, where other rows have one.",
            "Nothing, unless you constrain single kinds.",
        ),
        "votes_against_label": Kind(
            "warning", "Most annotators voted against the row's label.", "Ask where the label comes from."
        ),
        "repeated_vote": Kind(
            "warning",
            "One annotator answered a question about one pair twice; the first answer counts.",
            "Repair the export.",
        ),
        # Rows together.
        "duplicate_pair": Kind(
            "warning", "An earlier row has the same prompt and responses.", "Keep one of them, or its weight doubles."
        ),
        "swapped_pair": Kind(
            "warning", "An earlier row has the same prompt and responses in the other order.", "Keep one of them."
        ),
        "conflicting_ranking": Kind(
            "warning",
            "An earlier row ranks the same two responses the other way round.",
            "Take the majority, or leave all of them out.",
        ),
        "conflicting_safety": Kind(
            "warning",
            "An earlier row labels the same response the other way round.",
            "Aggregate before you train: `steelyard data convert --aggregate`.",
        ),
        "repeated_response": Kind(
            "note",
            "An earlier row labels the same response, as in BeaverTails.",
            "Aggregate before you train: `steelyard data convert --aggregate`.",
        ),
        "repeated_prompt": Kind(
            "note", "An earlier row has the same prompt.", "Split into training and test by prompt, never by row."
        ),
        "leaked_prompt": Kind(
            "warning",
            "The prompt is also in the file given with --against.",
            "Drop it from one of the two, or a test result means nothing.",
        ),
        # The whole source; such a finding counts once and names no rows.
        "length_bias": Kind(
            "warning",
            "The longer response wins so often, or so seldom, that length alone predicts the label.",
            "Report the length-only baseline next to your model.",
        ),
        "one_sided_order": Kind(
            "warning",
            "Nearly every winner is at the same place of its pair, so the place tells the label.",
            "Shuffle the two responses.",
        ),
        "one_sided_safety": Kind(
            "warning",
            "Nearly every response has the same safety label.",
            "Add rows of the other kind before you train a cost model.",
        ),
        "low_agreement": Kind(
            "warning",
            "Annotators agree hardly more than by chance (Krippendorff's alpha under 0.2).",
            "Do not take the labels for the truth; collect more votes.",
        ),
    }
)


def finding(kind: str, message: str, severity: Severity | None = None) -> Finding:
    """A finding of a known kind, as grave as the table says unless told otherwise.

    Raises:
        KeyError: a kind that the table lacks.
    """
    return Finding(kind, severity or KINDS[kind].severity, message)


def kinds_table() -> str:
    """The table as Markdown, one row per kind."""
    rows = [f"| `{name}` | {kind.severity} | {kind.meaning} | {kind.remedy} |" for name, kind in KINDS.items()]
    return "\n".join(("| Kind | Severity | Meaning | What to do |", "|---|---|---|---|", *rows))


def with_table(page: str) -> str:
    """The page's text with the table between its markers.

    Raises:
        ValueError: the page lacks a marker.
    """
    before, opening, remainder = page.partition(OPENING)
    _old, closing, after = remainder.partition(CLOSING)
    if not (opening and closing):
        raise ValueError(f"the page needs the lines {OPENING} and {CLOSING}")
    return f"{before}{OPENING}\n{kinds_table()}\n{CLOSING}{after}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_table(target.read_text(encoding="utf-8")), encoding="utf-8")
