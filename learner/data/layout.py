"""What a format is: how its rows become records, and records its rows. The formats themselves are next to this file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from configs.exits import ConfigError
from learner.data.fields import Fields, Notes, RowError
from learner.data.records import LabelledResponse, PreferencePair, PromptOnly, Record

Ranking = Literal["better", "safer"]
"""Which of a pair's two rankings: helpfulness or safety."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One layout of rows on disk."""

    name: str
    summary: str
    """One line for `steelyard data formats`."""
    required: frozenset[str]
    """Fields that every row has."""
    optional: frozenset[str]
    read: Callable[[Fields, Notes, Ranking], Record | None]
    """From fields to a record; None when the notes hold an error. Takes which ranking HH-RLHF's order is. Raises
    `RowError`."""
    write: Callable[[Record, Ranking | None], list[Row]]
    """From a record to its rows. Raises `RowError` of kind ``not_expressible`` when it has no place for it."""
    holds: Callable[[Record, Ranking | None], Collection[str]]
    """Names of the record's fields that `write` keeps."""
    schema: pa.Schema
    """Of its rows in Parquet."""
    looks_right: Callable[[Mapping[str, Any]], bool] = lambda _row: True
    """Beyond the names of its fields: whether a row looks like this format."""
    strict: bool = False
    """An unknown field is an error, not a note."""

    @property
    def known(self) -> frozenset[str]:
        """Every field of a row."""
        return self.required | self.optional

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row looks like this format."""
        return self.required <= row.keys() and self.looks_right(row)


def filled_fields(record: Record) -> set[str]:
    """Names of the record's fields, the prompt apart, that say something."""
    match record:
        case PreferencePair():
            values: dict[str, bool] = {
                "responses": True,
                "better": record.better is not None,
                "safer": record.safer is not None,
                "safe": record.safe != (None, None),
                "categories": record.categories != ((), ()),
                "severity": record.severity != (None, None),
                "votes": bool(record.votes),
                "pair_id": record.pair_id is not None,
                "tags": bool(record.tags),
            }
        case LabelledResponse():
            values = {"responses": True, "safe": True, "categories": bool(record.categories), "tags": bool(record.tags)}
        case PromptOnly():
            values = {
                "category": record.category is not None,
                "tags": bool(record.tags),
                "prompt_id": record.prompt_id is not None,
            }
    return {name for name, filled in values.items() if filled}


def as_pair(record: Record, target: str) -> PreferencePair:
    """The record as a pair.

    Raises:
        RowError: it is something else.
    """
    if not isinstance(record, PreferencePair):
        record_kind = "one response" if isinstance(record, LabelledResponse) else "a prompt alone"
        raise RowError("not_expressible", f"{target} holds pairs of responses, and this is {record_kind}")
    return record


def ranking_of(pair: PreferencePair, requested: Ranking | None) -> Ranking:
    """The ranking to use of a pair: the one that is asked for, or the only one there is.

    Raises:
        RowError: the pair lacks it.
        ConfigError: it has both, and none is asked for.
    """
    rankings: list[Ranking] = []
    if pair.better is not None:
        rankings.append("better")
    if pair.safer is not None:
        rankings.append("safer")
    if requested is not None and requested not in rankings:
        raise RowError("not_expressible", f"the pair has no label '{requested}'")
    if not rankings:
        raise RowError("not_expressible", "the pair has no label 'better' and none 'safer'")
    if requested is None and len(rankings) == 2:
        raise ConfigError("pairs are ranked by 'better' and by 'safer', and the target holds one: give --rank")
    return requested or rankings[0]


def winner_of(pair: PreferencePair, requested: Ranking | None) -> int:
    """Index of the response that ranks higher; errors as of `ranking_of`."""
    index = pair.better if ranking_of(pair, requested) == "better" else pair.safer
    assert index is not None
    return index


def only_turn(prompt: Collection[Mapping[str, str]], target: str) -> str:
    """The text of a prompt of one user turn.

    Raises:
        RowError: it has more turns.
    """
    if len(prompt) != 1:
        raise RowError("not_expressible", f"the prompt has {len(prompt)} turns, and {target} holds one")
    return next(iter(prompt))["content"]


def note_empty(responses: tuple[str, str], winner: int | None, notes: Notes) -> None:
    """Note responses without text, as chosen or rejected where the pair is ranked."""
    for index, text in enumerate(responses):
        if not text.strip():
            kind = "empty_response" if winner is None else "empty_chosen" if index == winner else "empty_rejected"
            notes.add(kind, f"response {index} has no text")
