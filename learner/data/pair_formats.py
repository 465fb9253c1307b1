"""Public preference data: HH-RLHF, both editions of PKU-SafeRLHF, BeaverTails, and TRL's format of pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from learner.data.categories import BEAVERTAILS_CATEGORIES, MOST_SEVERE, SAFERLHF_CATEGORIES
from learner.data.fields import Fields, Notes, RowError
from learner.data.layout import Format, Ranking, Row, as_pair, note_empty, only_turn, ranking_of, winner_of
from learner.data.native_format import read_messages
from learner.data.records import LabelledResponse, PreferencePair, PromptOnly, Record
from learner.data.turns import Turn, checked_prompt, checked_response, note_role_words, split_transcript, transcript_of
from learner.data.turns import merged as merged_turns

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


# HH-RLHF


def _read_hh(fields: Fields, notes: Notes, ranking: Ranking) -> Record | None:
    texts = fields.text("chosen"), fields.text("rejected")
    chosen, rejected = split_transcript(texts[0], "chosen"), split_transcript(texts[1], "rejected")
    for turns in (chosen, rejected):
        note_role_words(turns, notes)
    if chosen[:-1] != rejected[:-1]:
        for turns in (chosen, rejected):
            merged_turns(turns, notes)  # for what it notes
        notes.add("prompt_mismatch", _where_prompts_part(chosen[:-1], rejected[:-1]))
        return None
    prompt, answers = list(chosen[:-1]), ([chosen[-1]], [rejected[-1]])
    while prompt and prompt[-1][0] == "assistant":  # the answer begins in a turn of its own
        turn = prompt.pop()
        for answer in answers:
            answer.insert(0, turn)
    responses = (merged_turns(answers[0], notes)[0][1], merged_turns(answers[1], notes)[0][1])
    note_empty(responses, 0, notes)
    clean = checked_prompt(prompt, notes)
    return (
        PreferencePair(clean, responses, better=0) if ranking == "better" else PreferencePair(clean, responses, safer=0)
    )


def _where_prompts_part(chosen: list[Turn], rejected: list[Turn]) -> str:
    shared = next(
        (
            at
            for at, (chosen_turn, rejected_turn) in enumerate(zip(chosen, rejected, strict=False))
            if chosen_turn != rejected_turn
        ),
        None,
    )
    if shared is None:
        return f"the prompt of 'chosen' has {len(chosen)} turns, that of 'rejected' {len(rejected)}"
    return f"the prompts of 'chosen' and 'rejected' differ at turn {shared + 1}"


def _looks_like_transcripts(row: Mapping[str, Any]) -> bool:
    texts = [row["chosen"], row["rejected"]]
    return all(isinstance(text, str) for text in texts) and any(
        text.lstrip().startswith("Human:") or "\n\nHuman:" in text for text in texts
    )


def _write_hh(record: Record, rank: Ranking | None) -> list[Row]:
    pair = as_pair(record, "hh_rlhf")
    first = winner_of(pair, rank)
    chosen, rejected = (transcript_of(pair.prompt, pair.responses[index]) for index in (first, 1 - first))
    return [{"chosen": chosen, "rejected": rejected}]


def _one_ranking(record: Record, rank: Ranking | None) -> Collection[str]:
    return {"responses", ranking_of(as_pair(record, "a format of ranked pairs"), rank)}


HH_RLHF = Format(
    name="hh_rlhf",
    summary="HH-RLHF: whole transcripts 'chosen' and 'rejected', split at Human: and Assistant:",
    required=frozenset({"chosen", "rejected"}),
    optional=frozenset(),
    read=_read_hh,
    write=_write_hh,
    holds=_one_ranking,
    schema=pa.schema([("chosen", pa.string()), ("rejected", pa.string())]),
    looks_right=_looks_like_transcripts,
)


# PKU-SafeRLHF


def _read_pku(fields: Fields, notes: Notes, _ranking: Ranking) -> Record:
    return PreferencePair(**_pku_values(fields, notes))


def _read_pku_2024(fields: Fields, notes: Notes, _ranking: Ranking) -> Record:
    values = _pku_values(fields, notes)
    values["categories"] = tuple(fields.flags(f"response_{i}_harm_category", SAFERLHF_CATEGORIES) for i in (0, 1))
    values["severity"] = tuple(fields.integer(f"response_{i}_severity_level", 0, MOST_SEVERE) for i in (0, 1))
    return PreferencePair(**values)


def _pku_values(fields: Fields, notes: Notes) -> dict[str, Any]:
    responses = (fields.text("response_0"), fields.text("response_1"))
    better, safer = fields.integer("better_response_id", 0, 1), fields.integer("safer_response_id", 0, 1)
    safe = (fields.boolean("is_response_0_safe"), fields.boolean("is_response_1_safe"))
    clean = tuple(checked_response(text, notes) for text in responses)
    note_empty(responses, better, notes)
    prompt = checked_prompt([("user", fields.text("prompt"))], notes)
    return {"prompt": prompt, "responses": clean, "better": better, "safer": safer, "safe": safe}


def _write_pku(record: Record, _rank: Ranking | None) -> list[Row]:
    pair = as_pair(record, "pku_saferlhf")
    if pair.better is None or pair.safer is None or None in pair.safe:
        lacking = [name for name in ("better", "safer") if getattr(pair, name) is None]
        lacking += ["safe"] if None in pair.safe else []
        raise RowError(
            "not_expressible", f"PKU-SafeRLHF needs the label{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        )
    row: Row = {
        "prompt": only_turn(pair.prompt, "PKU-SafeRLHF"),
        "response_0": pair.responses[0],
        "response_1": pair.responses[1],
        "is_response_0_safe": pair.safe[0],
        "is_response_1_safe": pair.safe[1],
        "better_response_id": pair.better,
        "safer_response_id": pair.safer,
    }
    return [row]


def _write_pku_2024(record: Record, rank: Ranking | None) -> list[Row]:
    (row,) = _write_pku(record, rank)
    pair = as_pair(record, "pku_saferlhf_2024")
    for index in (0, 1):
        if pair.severity[index] is None:
            raise RowError("not_expressible", "PKU-SafeRLHF 2024 needs the label severity")
        row[f"response_{index}_harm_category"] = _as_flags(pair.categories[index], SAFERLHF_CATEGORIES)
        row[f"response_{index}_severity_level"] = pair.severity[index]
    return [row]


def _as_flags(names: Collection[str], all_names: Collection[str]) -> dict[str, bool]:
    if unknown := sorted(set(names) - set(all_names)):
        raise RowError("not_expressible", f"the format has no category '{unknown[0]}'")
    return {name: name in names for name in all_names}


_PKU_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("response_0", pa.string()),
        ("response_1", pa.string()),
        ("is_response_0_safe", pa.bool_()),
        ("is_response_1_safe", pa.bool_()),
        ("better_response_id", pa.int64()),
        ("safer_response_id", pa.int64()),
    ]
)
_SAFERLHF_FLAGS = pa.struct([(name, pa.bool_()) for name in SAFERLHF_CATEGORIES])
_PKU_2024_ADDS = [
    *((f"response_{index}_harm_category", _SAFERLHF_FLAGS) for index in (0, 1)),
    *((f"response_{index}_severity_level", pa.int64()) for index in (0, 1)),
]
PKU_SAFERLHF = Format(
    name="pku_saferlhf",
    summary="PKU-SafeRLHF, 7 fields: two responses, which is better, which is safer, whether each is safe",
    required=frozenset(_PKU_SCHEMA.names),
    optional=frozenset(),
    read=_read_pku,
    write=_write_pku,
    holds=lambda _record, _rank: ("responses", "better", "safer", "safe"),
    schema=_PKU_SCHEMA,
)
PKU_SAFERLHF_2024 = Format(
    name="pku_saferlhf_2024",
    summary="PKU-SafeRLHF, 2024 edition: as above with 19 categories and a severity of each response",
    required=frozenset([*_PKU_SCHEMA.names, *(name for name, _type in _PKU_2024_ADDS)]),
    optional=frozenset(),
    read=_read_pku_2024,
    write=_write_pku_2024,
    holds=lambda _record, _rank: ("responses", "better", "safer", "safe", "categories", "severity"),
    schema=pa.schema([*_PKU_SCHEMA, *(pa.field(*each) for each in _PKU_2024_ADDS)]),
)


# BeaverTails


def _read_beavertails(fields: Fields, notes: Notes, _ranking: Ranking) -> Record:
    response = fields.text("response")
    safe, categories = fields.boolean("is_safe"), fields.flags("category", BEAVERTAILS_CATEGORIES)
    if not response.strip():
        notes.add("empty_response", "the response has no text")
    clean = checked_response(response, notes)
    return LabelledResponse(checked_prompt([("user", fields.text("prompt"))], notes), clean, safe, categories)


def _write_beavertails(record: Record, _rank: Ranking | None) -> list[Row]:
    if isinstance(record, PromptOnly):
        raise RowError("not_expressible", "BeaverTails holds labelled responses, and this is a prompt alone")
    prompt = only_turn(record.prompt, "BeaverTails")
    if isinstance(record, LabelledResponse):
        labelled = [(record.response, record.safe, record.categories)]
    else:
        first, second = record.safe
        if first is None or second is None:
            raise RowError("not_expressible", "BeaverTails needs the label safe")
        labelled = list(zip(record.responses, (first, second), record.categories, strict=True))
    return [
        {"prompt": prompt, "response": text, "category": _as_flags(names, BEAVERTAILS_CATEGORIES), "is_safe": safe}
        for text, safe, names in labelled
    ]


BEAVERTAILS = Format(
    name="beavertails",
    summary="BeaverTails: one response, whether it is safe, 14 categories",
    required=frozenset({"prompt", "response", "category", "is_safe"}),
    optional=frozenset(),
    read=_read_beavertails,
    write=_write_beavertails,
    holds=lambda _record, _rank: ("responses", "safe", "categories"),
    schema=pa.schema(
        [
            ("prompt", pa.string()),
            ("response", pa.string()),
            ("category", pa.struct([(name, pa.bool_()) for name in BEAVERTAILS_CATEGORIES])),
            ("is_safe", pa.bool_()),
        ]
    ),
)


# TRL


def _read_trl(fields: Fields, notes: Notes, ranking: Ranking) -> Record | None:
    """With the prompt apart (explicit), or at the beginning of both answers (implicit), or both; as texts or as messages."""
    prompt = _turns_of(fields, "prompt") if fields.has("prompt") else None
    answers = [_turns_of(fields, key) for key in ("chosen", "rejected")]
    if prompt is None:
        shared = _shared_turns(*answers)
        prompt, answers = answers[0][:shared], [turns[shared:] for turns in answers]
    else:
        answers = [_without_prompt(turns, prompt) for turns in answers]
    for key, turns in zip(("chosen", "rejected"), answers, strict=True):
        if [role for role, _text in turns] != ["assistant"]:
            raise RowError("broken_order", f"'{key}' is not one answer of the assistant after the prompt")
    clean = checked_prompt(prompt, notes)
    responses = (checked_response(answers[0][0][1], notes), checked_response(answers[1][0][1], notes))
    note_empty(responses, 0, notes)
    return (
        PreferencePair(clean, responses, better=0) if ranking == "better" else PreferencePair(clean, responses, safer=0)
    )


def _turns_of(fields: Fields, key: str) -> list[Turn]:
    """Messages; a text is the user's where it is the prompt, else the assistant's."""
    if isinstance(fields.raw.get(key), str):
        return [("user" if key == "prompt" else "assistant", fields.text(key))]
    return read_messages(fields, key)


def _without_prompt(turns: list[Turn], prompt: list[Turn]) -> list[Turn]:
    """An answer alone, where the prompt was given once more at its beginning."""
    if turns[: len(prompt)] == prompt:
        return turns[len(prompt) :]
    if len(turns) == len(prompt) == 1 and turns[0][1].startswith(prompt[0][1]):
        return [(turns[0][0], turns[0][1].removeprefix(prompt[0][1]).lstrip())]
    return turns


def _shared_turns(chosen: list[Turn], rejected: list[Turn]) -> int:
    """How many turns both begin with; the last one of each is the answer, even where the two are the same."""
    most = min(len(chosen), len(rejected)) - 1
    return next((at for at in range(most) if chosen[at] != rejected[at]), max(most, 0))


def _looks_like_trl(row: Mapping[str, Any]) -> bool:
    answers = [row["chosen"], row["rejected"]]
    if all(isinstance(answer, list) for answer in answers):
        return True
    return "prompt" in row and all(isinstance(answer, str) for answer in answers)


def _write_trl(record: Record, rank: Ranking | None) -> list[Row]:
    pair = as_pair(record, "TRL's preference format")
    first = winner_of(pair, rank)
    answers = [[{"role": "assistant", "content": pair.responses[index]}] for index in (first, 1 - first)]
    return [{"prompt": [dict(turn) for turn in pair.prompt], "chosen": answers[0], "rejected": answers[1]}]


TRL = Format(
    name="trl",
    summary="TRL's preferences: 'chosen' and 'rejected' as texts or messages, with the prompt apart or at their beginning",
    required=frozenset({"chosen", "rejected"}),
    optional=frozenset({"prompt", "messages", "prompt_id", "score_chosen", "score_rejected"}),
    read=_read_trl,
    write=_write_trl,
    holds=_one_ranking,
    schema=pa.schema([("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)]),
    looks_right=_looks_like_trl,
)
