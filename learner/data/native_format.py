"""The native schema: conversations, any number of responses up to two, and every label apart. docs/data.md describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from learner.data.categories import MOST_SEVERE
from learner.data.fields import Fields, Notes, RowError, checked_integer, checked_text, shorten, wrong_type
from learner.data.layout import Format, Ranking, Row, filled_fields, note_empty
from learner.data.records import LabelledResponse, PreferencePair, PromptOnly, Record, Vote
from learner.data.turns import ROLES, Turn, checked_prompt, checked_response

VERSION = 1
"""Of the schema; a reader refuses others."""
_QUESTIONS = ("better", "safer", "safe_0", "safe_1")


def read_messages(fields: Fields, key: str) -> list[Turn]:
    """The turns of a field that holds messages.

    Raises:
        RowError: no list of ``{role, content}``.
    """
    return list(fields.items(key, _message))


def _message(name: str, value: Any) -> Turn:
    inner = _object(name, value, ("role", "content"))
    role = inner.text("role")
    if role not in ROLES:
        raise wrong_type(inner.name("role"), role, f"one of {', '.join(ROLES)}")
    return role, inner.text("content")


def _object(name: str, value: Any, keys: tuple[str, ...]) -> Fields:
    if not isinstance(value, Mapping):
        raise wrong_type(name, value, "an object")
    # Tables give every row every field: one without a value says nothing.
    if unknown := sorted(str(key) for key, content in value.items() if key not in keys and content is not None):
        raise RowError("wrong_type", f"{name} has the unknown field '{shorten(unknown[0])}'")
    return Fields(value, f"{name.strip(chr(39))}.")


def _read(fields: Fields, notes: Notes, _ranking: Ranking) -> Record:
    version = fields.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise wrong_type("'version'", version, f"{VERSION}, which is what this reads")
    responses = fields.items("responses", checked_text)
    if len(responses) > 2:
        raise RowError("wrong_type", f"'responses' has {len(responses)} entries, more than 2")
    readers = (_read_prompt, _read_labelled, _read_pair)
    turns = read_messages(fields, "messages")
    _refuse_strangers(fields, len(responses))
    record = readers[len(responses)](fields, notes, responses)
    return _with_prompt(record, turns, notes)


def _with_prompt(record: Record, turns: list[Turn], notes: Notes) -> Record:
    values = dict(vars(record)) | {"prompt": checked_prompt(turns, notes)}
    return type(record)(**values)


_STRANGERS = (
    ("better", "safer", "safe", "categories", "severity", "votes"),
    ("better", "safer", "severity", "votes", "pair_id", "category"),
    ("category",),
)
"""By the number of responses: fields that mean nothing then, and so are null or empty."""


def _refuse_strangers(fields: Fields, responses: int) -> None:
    for key in _STRANGERS[responses]:
        if fields.has(key) and fields.raw[key] not in ([], ()):
            raise RowError("wrong_type", f"'{key}' means nothing for a row of {responses} responses: leave it null")


def _read_prompt(fields: Fields, _notes: Notes, _responses: tuple[str, ...]) -> Record:
    category = fields.text("category") if fields.has("category") else None
    return PromptOnly((), category, _texts(fields, "tags"), _identity(fields))


def _read_labelled(fields: Fields, notes: Notes, responses: tuple[str, ...]) -> Record:
    safe = fields.items("safe", _maybe_boolean, count=1)[0]
    if safe is None:
        raise RowError("missing_field", "'safe[0]' is null, and a row of one response needs it")
    categories = fields.items("categories", _names, count=1)[0] if fields.has("categories") else ()
    if not responses[0].strip():
        notes.add("empty_response", "the response has no text")
    return LabelledResponse((), checked_response(responses[0], notes), safe, categories, _texts(fields, "tags"))


def _read_pair(fields: Fields, notes: Notes, responses: tuple[str, ...]) -> Record:
    better, safer = (fields.integer(key, 0, 1) if fields.has(key) else None for key in ("better", "safer"))
    safe = fields.items("safe", _maybe_boolean, count=2) if fields.has("safe") else (None, None)
    categories = fields.items("categories", _names, count=2) if fields.has("categories") else ((), ())
    severity = fields.items("severity", _maybe_severity, count=2) if fields.has("severity") else (None, None)
    votes = fields.items("votes", _vote) if fields.has("votes") else ()
    clean = (checked_response(responses[0], notes), checked_response(responses[1], notes))
    note_empty(clean, better if better is not None else safer, notes)
    tags, identity = _texts(fields, "tags"), _identity(fields)
    return PreferencePair(
        (),
        clean,
        better,
        safer,
        (safe[0], safe[1]),
        (categories[0], categories[1]),
        (severity[0], severity[1]),
        votes,
        identity,
        tags,
    )


def _vote(name: str, value: Any) -> Vote:
    inner = _object(name, value, ("annotator", "question", "answer"))
    question = inner.text("question")
    if question not in _QUESTIONS:
        raise wrong_type(inner.name("question"), question, f"one of {', '.join(_QUESTIONS)}")
    return Vote(inner.text("annotator"), question, inner.integer("answer", 0, 1))  # type: ignore[arg-type]  # checked


def _maybe_boolean(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise wrong_type(name, value, "true, false or null")
    return value


def _maybe_severity(name: str, value: Any) -> int | None:
    return None if value is None else checked_integer(name, value, 0, MOST_SEVERE)


def _names(name: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return Fields({"": value}, name.strip("'")).items("", checked_text)


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    return fields.items(key, checked_text) if fields.has(key) else ()


def _identity(fields: Fields) -> str | None:
    return fields.text("pair_id") if fields.has("pair_id") else None


def _write(record: Record, _rank: Ranking | None) -> list[Row]:
    row: Row = {
        "version": VERSION,
        "pair_id": None,
        "messages": [dict(turn) for turn in record.prompt],
        "responses": [],
        "better": None,
        "safer": None,
        "safe": None,
        "categories": None,
        "severity": None,
        "votes": None,
        "category": None,
        "tags": list(record.tags),
    }
    match record:
        case PromptOnly():
            row |= {"pair_id": record.prompt_id, "category": record.category}
        case LabelledResponse():
            row |= {"responses": [record.response], "safe": [record.safe], "categories": [list(record.categories)]}
        case PreferencePair():
            row |= {
                "pair_id": record.pair_id,
                "responses": list(record.responses),
                "better": record.better,
                "safer": record.safer,
                "safe": list(record.safe),
                "categories": [list(names) for names in record.categories],
                "severity": list(record.severity),
                "votes": [dict(vars(vote)) for vote in record.votes],
            }
    return [row]


_SCHEMA = pa.schema(
    [
        ("version", pa.int32()),
        ("pair_id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("responses", pa.list_(pa.string())),
        ("better", pa.int8()),
        ("safer", pa.int8()),
        ("safe", pa.list_(pa.bool_())),
        ("categories", pa.list_(pa.list_(pa.string()))),
        ("severity", pa.list_(pa.int8())),
        ("votes", pa.list_(pa.struct([("annotator", pa.string()), ("question", pa.string()), ("answer", pa.int8())]))),
        ("category", pa.string()),
        ("tags", pa.list_(pa.string())),
    ]
)
NATIVE = Format(
    name="native",
    summary="Steelyard's own: messages, up to two responses, and every label apart; version 1",
    required=frozenset({"version", "messages", "responses"}),
    optional=frozenset(_SCHEMA.names) - {"version", "messages", "responses"},
    read=_read,
    write=_write,
    holds=lambda record, _rank: filled_fields(record),
    schema=_SCHEMA,
    strict=True,
)
