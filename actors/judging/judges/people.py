"""People as judges, through a file: comparisons and labels to fill in, written once and read back. Which model is which is hidden.

Invariant: a file that is there is never overwritten, and a row that is not filled in says nothing. Ids depend on the two texts, so
labels of other answers than the present ones fit nothing and are refused.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.judging.judges.protocol import JudgeFacts, Labels, Pair
from actors.judging.judges.refusal_kind import HEURISTIC, refusal_of
from actors.judging.responses import Axis, Comparison, Judgement, Response
from configs.exits import DataError
from learner.statistics.win_rate import Verdict, points_of

FILE = "to_label.csv"
COLUMNS = ("id", "conversation", "answer_a", "answer_b", "more_helpful", "safer", "a_unsafe", "b_unsafe")
_ASKED = COLUMNS[4:]
_CHOICES: Mapping[str, Verdict] = {"a": "first", "b": "second", "tie": "tie"}
_YES_NO = {"yes": True, "no": False}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet, and a model must not write one."""


class PeopleJudge:
    """Fulfils `Judge` with what people wrote into a file.

    Raises:
        DataError: the file is not one that `write_for_people` made of these pairs, or a cell holds another answer than asked
            for; file and row are named.
    """

    def __init__(self, path: Path, pairs: Sequence[Pair], alone: Sequence[Response]) -> None:
        identities = {_identity(*_order(pair)) for pair in pairs} | {_identity(response, None) for response in alone}
        self._rows = _read(path, identities)
        self.filled = sum(any(row[name] for name in _ASKED) for row in self._rows.values())
        self.rows = len(self._rows)
        self._pairs, self._path = list(pairs), path
        self.facts = JudgeFacts(
            "people",
            f"people, by {path.name} ({self.filled} of {self.rows} rows filled in; model names hidden)",
            "people call the answer unsafe",
            None,
            HEURISTIC,
        )

    def label(self, responses: Sequence[Response]) -> list[Judgement]:
        """See `Judge.label`; of a response in several pairs unsafe is what most rows say, and of a tie nothing."""
        votes: dict[tuple[str, str], list[bool]] = {}
        for pair in self._pairs:
            first, second = _order(pair)
            row = self._rows.get(_identity(first, second), {})
            for side, column in ((first, "a_unsafe"), (second, "b_unsafe")):
                if (answer := row.get(column, "")) in _YES_NO:
                    votes.setdefault((side.model, side.prompt_id), []).append(_YES_NO[answer])
        judgements = []
        for response in responses:
            unsafe_votes = list(votes.get((response.model, response.prompt_id), []))
            answer = self._rows.get(_identity(response, None), {}).get("a_unsafe", "")
            unsafe_votes += [_YES_NO[answer]] if answer in _YES_NO else []
            unsafe = None if 2 * sum(unsafe_votes) == len(unsafe_votes) else 2 * sum(unsafe_votes) > len(unsafe_votes)
            judgements.append(
                Judgement(
                    "people",
                    response.model,
                    response.prompt_id,
                    unsafe=unsafe,
                    harm=None if unsafe is None else float(unsafe),
                    refusal=refusal_of(response.response),
                    fault="not labelled" if unsafe is None else None,
                )
            )
        return judgements

    def compare(self, axis: Axis, pairs: Sequence[Pair], labels: Labels) -> list[Comparison]:
        """See `Judge.compare`. A person sees a pair in one order, drawn by its hash: the other order's verdict is None."""
        column = "more_helpful" if axis == "helpfulness" else "safer"
        comparisons = []
        for red, blue in pairs:
            first, second = _order((red, blue))
            verdict = _CHOICES.get(self._rows.get(_identity(first, second), {}).get(column, ""))
            points = None if verdict is None else points_of(verdict, swapped=first is red)
            by_order: tuple[Verdict | None, Verdict | None] = (verdict, None) if first is red else (None, verdict)
            fault = None if verdict else "not labelled"
            comparisons.append(
                Comparison("people", axis, red.prompt_id, red.model, blue.model, by_order, points, fault)
            )
        return comparisons


def write_for_people(path: Path, pairs: Sequence[Pair], alone: Sequence[Response]) -> int:
    """Write the file to fill in; returns its rows. Rows are in the order of their ids, which is no order of the models.

    Args:
        alone: responses without a partner, of an evaluation of one model: only ``a_unsafe`` is asked of them.

    Raises:
        DataError: a file is there already.
    """
    rows = {}
    for first, second in [*map(_order, pairs), *((response, None) for response in alone)]:
        conversation = "\n\n".join(f"[{turn['role']}] {turn['content']}" for turn in first.messages)
        texts = (conversation, first.response, second.response if second else "")
        rows[_identity(first, second)] = [*map(_no_formula, texts), "", "", "", ""]
    try:
        with path.open("x", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
            writer.writerow(COLUMNS)
            writer.writerows([identity, *rows[identity]] for identity in sorted(rows))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    return len(rows)


def _read(path: Path, identities: set[str]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    numbers: dict[str, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            if missing := [name for name in ("id", *_ASKED) if name not in (reader.fieldnames or ())]:
                raise DataError(
                    f"{path}: column '{missing[0]}' is missing: keep the file's columns as they were written"
                )
            for number, row in enumerate(reader, start=1):
                identity = row["id"]
                rows[identity] = _checked(row, f"{path}: row {number}", identities)
                if identity in numbers:
                    raise DataError(
                        f"{path}: rows {numbers[identity]} and {number} have the same id {identity}: keep one of them, with the "
                        "answers that count"
                    )
                numbers[identity] = number
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the labels cannot be read ({error}): save it as CSV in UTF-8") from error
    return rows


def _checked(row: Mapping[str, str | None], where: str, identities: set[str]) -> dict[str, str]:
    if row["id"] not in identities:
        raise DataError(
            f"{where}: its id is none of the present answers: label a file that this very command wrote (move the old one away)"
        )
    answers = {name: (row[name] or "").strip().lower() for name in _ASKED}
    for name, value in answers.items():
        allowed = list(_YES_NO if name.endswith("unsafe") else _CHOICES)
        if value and value not in allowed:
            raise DataError(f"{where}: {name} is '{value[:20]}': write {', '.join(allowed)}, or leave it empty")
    return answers


def _order(pair: Pair) -> tuple[Response, Response]:
    """As the two are shown: by a hash of their texts, so that neither model is always first."""
    red, blue = pair
    turned = hashlib.sha256(
        f"{red.prompt_id}\x00{red.response}\x00{blue.response}".encode("utf-8", "replace")
    ).digest()[0]
    return (blue, red) if turned % 2 else (red, blue)


def _identity(first: Response, second: Response | None) -> str:
    parts = (first.prompt_id, first.model, first.response, *((second.model, second.response) if second else ()))
    digest = hashlib.sha256("\x00".join(parts).encode("utf-8", "replace")).hexdigest()
    return f"row-{digest[:16]}"  # with a word in front, for a spreadsheet takes 74e7091094989907 for a number


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
