"""Work on samples that runs as Ray tasks next to the data: label pairs, judge responses, write Parquet.

Chunks arrive as object references and are resolved by Ray on the worker; the driver never sees a token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from tokenizers import Tokenizer

from actors.crowd.annotators import Crowd, CrowdSettings, PairLabel, PairToLabel
from actors.crowd.tampering import Tampering, tamper
from actors.crowd.world_reader import load_world
from learner.records import Prompt, RolloutChunk, RolloutMeta


@dataclass(frozen=True)
class Provenance:
    """Where a pair's responses come from; kept in every file of pairs."""

    model_digest: str
    temperatures: tuple[float, ...]
    max_response_tokens: int
    sampling_seed: int
    weight_version: int


@dataclass(frozen=True)
class Answer:
    """One response as text and tokens."""

    prompt_id: str
    request_id: str
    prompt_ids: list[int]
    response_ids: list[int]
    text: str
    finished: bool
    finish_reason: str


def pair_request_id(prompt_id: str, side: int) -> str:
    """Request id of response `side` (0 or 1) of a prompt's pair."""
    return f"{prompt_id}/{side}"


@ray.remote(num_cpus=0)
def write_pairs(
    prompts: Sequence[Prompt], tokenizer_file: str, path: str, provenance: Provenance, *chunks: RolloutChunk
) -> int:
    """Write ``pairs.parquet``: one row per prompt with both responses; returns the number of pairs.

    A prompt with a missing response is left out.
    """
    answers = {answer.request_id: answer for answer in read_answers(tokenizer_file, chunks)}
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        sides = [answers.get(pair_request_id(prompt.prompt_id, side)) for side in (0, 1)]
        if sides[0] is None or sides[1] is None:
            continue
        rows.append(_pair_row(prompt, sides[0], sides[1], provenance))
    write_rows(rows, Path(path))
    return len(rows)


@ray.remote(num_cpus=0)
def label_pairs(
    world_path: str | None,
    crowd: Mapping[str, Any],
    seed: int,
    pairs_path: str,
    path: str,
    tampering: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Have the crowd label ``pairs.parquet`` and write ``preferences.parquet``; returns counts and shares.

    Args:
        tampering: what is done to the harmlessness labels afterwards; the shares are of what the crowd said.
    """
    table = pq.read_table(pairs_path).to_pylist()
    annotators = Crowd(load_world(Path(world_path) if world_path else None), CrowdSettings(**crowd), seed)
    labels = annotators.label(
        [
            PairToLabel(
                row["pair_id"],
                row["task_id"],
                row["response_0"],
                row["response_1"],
                row["finish_reason_0"] == "stop",
                row["finish_reason_1"] == "stop",
            )
            for row in table
        ]
    )
    rows = [{**row, **label_columns(label)} for row, label in zip(table, labels, strict=True)]
    facts = label_facts(rows)
    if tampering is not None:
        rows, changed = tamper(rows, Tampering(**tampering), seed)
        facts |= changed
    write_rows(rows, Path(path))
    return facts


@ray.remote(num_cpus=0)
def pick_samples(keep: frozenset[str], *chunks: RolloutChunk) -> RolloutChunk:
    """Only the samples of these requests, as one chunk, so that the memory of the others can be freed."""
    picked: dict[str, tuple[RolloutMeta, np.ndarray, np.ndarray]] = {}
    for chunk in chunks:
        for row in zip(chunk.meta, chunk.token_ids, chunk.behaviour_logprobs, strict=True):
            if row[0].request_id in keep:
                picked[row[0].request_id] = row
    rows = list(picked.values())
    return RolloutChunk(tuple(row[0] for row in rows), tuple(row[1] for row in rows), tuple(row[2] for row in rows))


def read_answers(tokenizer_file: str, chunks: Sequence[RolloutChunk]) -> Iterator[Answer]:
    """Responses as text; the end token is dropped, any other special token stays and is judged as the junk it is."""
    tokenizer = Tokenizer.from_file(tokenizer_file)
    for chunk in chunks:
        for meta, token_ids in zip(chunk.meta, chunk.token_ids, strict=True):
            ids = [int(token) for token in token_ids]
            response = ids[meta.prompt_length :]
            finished = meta.finish_reason == "stop"
            text = tokenizer.decode(response[:-1] if finished else response, skip_special_tokens=False)
            yield Answer(
                meta.prompt_id, meta.request_id, ids[: meta.prompt_length], response, text, finished, meta.finish_reason
            )


def _pair_row(prompt: Prompt, first: Answer, second: Answer, provenance: Provenance) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pair_id": prompt.prompt_id,
        "task_id": prompt.attributes.get("task_id"),  # the sandbox's alone, as kind and form
        "kind": prompt.attributes.get("kind"),
        "form": prompt.attributes.get("form"),
        "category": prompt.category,
        "tags": sorted(prompt.tags),
        "split": prompt.attributes.get("purpose", "train"),
        "messages": [dict(message) for message in prompt.messages],
        "prompt_ids": first.prompt_ids,
    }
    for side, answer in enumerate((first, second)):
        row[f"response_{side}"] = answer.text
        row[f"response_{side}_ids"] = answer.response_ids
        row[f"finish_reason_{side}"] = answer.finish_reason
        row[f"temperature_{side}"] = provenance.temperatures[side % len(provenance.temperatures)]
    return {
        **row,
        "model_digest": provenance.model_digest,
        "weight_version": provenance.weight_version,
        "max_response_tokens": provenance.max_response_tokens,
        "sampling_seed": provenance.sampling_seed,
    }


def label_columns(label: PairLabel) -> dict[str, Any]:
    """The columns that a label adds to the pair's."""
    columns = {name: value for name, value in asdict(label).items() if name not in ("pair_id", "votes")}
    return {**columns, "votes": json.dumps([asdict(vote) for vote in label.votes])}


def label_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Counts and shares of labelled pairs; shares are of what was labelled."""
    safe = [flag for row in rows for side in (0, 1) if (flag := row[f"is_response_{side}_safe"]) is not None]
    ranked = [(row["better_response_id"], row["safer_response_id"]) for row in rows]
    agree = [better == safer for better, safer in ranked if better is not None and safer is not None]
    facts = {
        "pairs": float(len(rows)),
        "questions_asked": float(sum(row["questions_asked"] for row in rows)),
        "better_is_safer": sum(agree) / len(agree) if agree else 0.0,
    }
    return {**facts, "unsafe_share": 1 - sum(safe) / len(safe)} if safe else facts


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path, schema: pa.Schema | None = None) -> None:
    """Write rows to a Parquet file that is whole or not there; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial, compression="zstd")
    partial.replace(path)
