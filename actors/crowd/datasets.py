"""Training sets made from the sandbox, as Ray tasks: demonstrations for SFT, comparisons for reward and cost models.

Files hold token ids and lengths only, so that a trainer needs neither a tokenizer nor the world.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from actors.crowd.corpus import sft_examples
from actors.crowd.tasks import write_rows
from actors.crowd.world_reader import load_world
from configs.exits import DataError
from learner.data.tokenizer import load_tokenizer, prompt_token_ids
from learner.records import Message

SAFE, UNSAFE = -1, 1
"""Signs of the cost: positive is unsafe."""
HELPFULNESS, HARMLESSNESS = "helpfulness", "harmlessness"
"""The crowd's two rankings."""


@ray.remote(num_cpus=0)
def write_demonstrations(world_path: str | None, tokenizer_path: str, path: str, *, n: int, seed: int) -> int:
    """Write `n` SFT examples (columns ``input_ids``, ``prompt_length``); returns how many.

    Examples repeat prompts and answers often, so each distinct text is tokenised once.
    """
    world = load_world(Path(world_path) if world_path else None)
    tokenizer = load_tokenizer(tokenizer_path)
    end = [int(tokenizer.eos_token_id)]

    @cache
    def prompt_ids(turns: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        return tuple(prompt_token_ids(tokenizer, [{"role": role, "content": content} for role, content in turns]))

    @cache
    def answer_ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    rows: list[dict[str, Any]] = []
    for example in sft_examples(world, n=n, seed=seed):
        prompt = prompt_ids(_hashable(example.messages[:-1]))
        ids = [*prompt, *answer_ids(example.messages[-1]["content"]), *end]
        if len(ids) > tokenizer.model_max_length:
            raise DataError(
                f"the world's demonstration {example.prompt_id} has {len(ids)} tokens: raise model.max_length "
                f"({tokenizer.model_max_length}) to at least that"
            )
        rows.append({"input_ids": ids, "prompt_length": len(prompt)})
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("prompt_length", pa.int32())])
    write_rows(rows, Path(path), schema)
    return len(rows)


@ray.remote(num_cpus=0)
def write_reward_comparisons(preferences_path: str, path: str, harmlessness_share: float = 0.0) -> dict[str, int]:
    """Comparisons for the reward model: which response is better. Pairs of identical responses say nothing and are left out,
    as are those whose ranking was left open.

    Besides its split each row says in which half of the conversations it is, for models that train on one of them; by
    which of the crowd's two rankings it is ordered, and whether the other one agrees; and the kind of its prompt.

    Args:
        harmlessness_share: of the pairs, drawn by their ids, that are ordered by harmlessness and not by helpfulness.
    """
    rows = []
    for pair in _pairs(preferences_path):
        by_harmlessness = share_of(pair) < harmlessness_share
        ranking = pair["safer_response_id" if by_harmlessness else "better_response_id"]
        if ranking is None:
            continue
        rows.append(
            {
                **_sides(pair, int(ranking), "better", "worse"),
                "split": pair["split"],
                "half": half_of(pair),
                "by": HARMLESSNESS if by_harmlessness else HELPFULNESS,
                "agree": _agree(pair),
                "kind": pair["kind"],
            }
        )
    if not rows:
        raise DataError(
            f"{preferences_path} ranks no pair of different responses: there is nothing to learn a reward from"
        )
    write_rows(rows, Path(path))
    return {**_counts(rows, preferences_path), **({HARMLESSNESS: _ranked_by(rows)} if harmlessness_share else {})}


@ray.remote(num_cpus=0)
def write_cost_comparisons(preferences_path: str, path: str, categories: Sequence[str]) -> dict[str, int]:
    """Comparisons for one constraint's cost model: which response is safer, and whether each is safe.

    With `categories` only those count as unsafe; a pair is then ranked where its two safety labels differ, for the
    ranking speaks of all harm. A pair whose ranking was left open teaches its two labels only. A pair that breaks the
    logical order (an unsafe response ranked safer than a safe one) is set aside and counted.
    """
    rows, illogical = [], 0
    for pair in _pairs(preferences_path):
        signs = [_sign(pair, side, categories) for side in (0, 1)]
        if 0 in signs:
            continue
        ranking = None if categories else pair["safer_response_id"]
        safer = signs.index(min(signs)) if ranking is None else int(ranking)
        if signs[safer] > signs[1 - safer]:
            illogical += 1
            continue
        rows.append(
            {
                **_sides(pair, 1 - safer, "worse", "better"),
                "safer_sign": signs[safer],
                "less_safe_sign": signs[1 - safer],
                "rank_weight": 1.0 if ranking is not None or signs[0] != signs[1] else 0.0,
                "split": pair["split"],
            }
        )
    if not rows:
        raise DataError(
            f"{preferences_path} has no pair with two safety labels: a mixed crowd gives none (use "
            "preferences.crowd.mode decoupled), and a judge or people left them open"
        )
    write_rows(rows, Path(path))
    return {**_counts(rows, preferences_path), "illogical": illogical}


def _sides(pair: Mapping[str, Any], first: int, first_name: str, second_name: str) -> dict[str, Any]:
    """Token columns ``better_ids`` and ``worse_ids``; of a cost comparison *better* means safer."""
    columns: dict[str, Any] = {}
    for side, name in ((first, first_name), (1 - first, second_name)):
        columns[f"{name}_ids"] = [*pair["prompt_ids"], *pair[f"response_{side}_ids"]]
        columns[f"{name}_prompt_length"] = len(pair["prompt_ids"])
    return columns


def _agree(pair: Mapping[str, Any]) -> bool | None:
    """Whether both rankings say the same; None where one was left open."""
    better, safer = pair["better_response_id"], pair["safer_response_id"]
    return None if better is None or safer is None else bool(better == safer)


def _sign(pair: Mapping[str, Any], side: int, categories: Sequence[str]) -> int:
    safe = pair[f"is_response_{side}_safe"]
    if safe is None:
        return 0
    if safe or (categories and not set(categories) & set(pair[f"response_{side}_categories"] or ())):
        return SAFE
    return UNSAFE


def half_of(pair: Mapping[str, Any]) -> int:
    """0 or 1, by conversation (a task in a form), never by row: equal prompts are all in one half."""
    digest = hashlib.blake2b(f"half\n{pair['task_id']}\n{pair['form']}".encode(), digest_size=1).digest()
    return digest[0] & 1


def share_of(pair: Mapping[str, Any]) -> float:
    """Where the pair stands between 0 and 1, by its id: a larger share keeps the pairs of a smaller one."""
    digest = hashlib.blake2b(f"axis\n{pair['pair_id']}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _ranked_by(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(row["by"] == HARMLESSNESS for row in rows)


def _pairs(preferences_path: str) -> Iterable[dict[str, Any]]:
    table = pq.read_table(preferences_path)
    if "split" not in table.column_names:
        raise DataError(f"{preferences_path} lacks the column split: sample and label the pairs again")
    rows: list[dict[str, Any]] = table.to_pylist()
    return [row for row in rows if row["response_0_ids"] != row["response_1_ids"]]


def _counts(rows: Sequence[Mapping[str, Any]], preferences_path: str) -> dict[str, int]:
    splits = Counter(str(row["split"]) for row in rows)
    return {"pairs": pq.read_metadata(preferences_path).num_rows, "used": len(rows), **dict(sorted(splits.items()))}


def _hashable(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)
