"""The prompts of a run on data, by purpose: what `cluster.inputs.sandbox_prompts` is for the sandbox.

A prompt's purpose is a function of its text (`learner.data.splits`), so nothing is judged on what trained it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.exits import DataError
from learner.data.splits import CALIBRATION, HOLDOUT, TRAIN
from learner.records import Prompt

SOURCE = "data"


class PromptBook:
    """Reads ``prompts.parquet`` of `learner.data.training_sets.write_prompts`; only what is asked for becomes prompts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = pq.read_table(path)

    def loop(self, *, n: int, seed: int, weights: Mapping[str, float]) -> list[Prompt]:
        """`n` training prompts: every one once in an order by the seed, then again in another.

        Args:
            weights: share of prompts by tag, relative, where tags have weights; otherwise as the files have them.
        """
        return self._numbered(self._weighted(self._rows({TRAIN}), n, seed, "loop", weights), "ppo")

    def labelled(self, *, n: int, seed: int, weights: Mapping[str, float]) -> list[Prompt]:
        """`n` prompts for fresh pairs, of training, hold-out and calibration in the proportion that the files have.

        Args:
            weights: as of `loop`.
        """
        rows = self._rows({TRAIN, HOLDOUT, CALIBRATION})
        return self._numbered(self._weighted(rows, n, seed, "pairs", weights), "pair")

    def _weighted(self, rows: Sequence[int], n: int, seed: int, stream: str, weights: Mapping[str, float]) -> list[int]:
        tagged = self._tags(rows)
        weighted = {tag: weight for tag, weight in weights.items() if weight and any(tag in tags for tags in tagged)}
        if not weighted:
            return _cycled(rows, n, f"{stream}/{seed}")
        groups = {tag: [row for row, tags in zip(rows, tagged, strict=True) if tag in tags] for tag in weighted}
        streams = {tag: iter(_endless(group, f"{stream}/{seed}/{tag}")) for tag, group in groups.items()}
        rng = random.Random(f"weights/{seed}")
        drawn = rng.choices(list(weighted), list(weighted.values()), k=n)
        return [next(streams[tag]) for tag in drawn]

    def judged(self, purpose: str, *, n: int, seed: int, prefix: str, subset: Collection[str] = ()) -> list[Prompt]:
        """Up to `n` different prompts of one purpose, of those that carry a tag of `subset` (empty: all).

        Raises:
            DataError: there is none.
        """
        required_tags = set(subset)
        rows = self._rows({purpose})
        eligible = [
            row
            for row, tags in zip(rows, self._tags(rows), strict=True)
            if not required_tags or required_tags & set(tags)
        ]
        if not eligible:
            of_tags = f" with a tag of {', '.join(sorted(required_tags))}" if required_tags else ""
            raise DataError(
                f"{self._path.name}: no prompt{of_tags} is kept for {purpose}: give more prompts, or a larger splits.{purpose}"
            )
        random.Random(f"{prefix}/{seed}").shuffle(eligible)
        return self._numbered(eligible[:n], prefix)

    def _rows(self, purposes: Collection[str]) -> list[int]:
        mask = pc.is_in(self._table["purpose"], value_set=pa.array(sorted(purposes), pa.string()))
        return pc.indices_nonzero(mask).to_pylist()

    def _tags(self, rows: Sequence[int]) -> list[list[str]]:
        return self._table["tags"].take(rows).to_pylist() if rows else []

    def _numbered(self, rows: Sequence[int], prefix: str) -> list[Prompt]:
        by_row: dict[int, Prompt] = {}
        different = list(dict.fromkeys(rows))
        for row, values in zip(different, self._table.take(different).to_pylist(), strict=True):
            by_row[row] = _prompt(values)
        return [replace(by_row[row], prompt_id=f"{prefix}-{index:06d}") for index, row in enumerate(rows)]


def read_prompts(path: Path, *, n: int, seed: int, prefix: str) -> list[Prompt]:
    """Up to `n` prompts of one file, in an order by the seed, whatever their purpose: a set for evaluation alone."""
    table = pq.read_table(path)
    rows = list(range(table.num_rows))
    random.Random(f"{prefix}/{seed}").shuffle(rows)
    prompts = [_prompt(values) for values in table.take(rows[:n]).to_pylist()]
    return [replace(prompt, prompt_id=f"{prefix}-{index:06d}") for index, prompt in enumerate(prompts)]


def _prompt(values: Mapping[str, Any]) -> Prompt:
    return Prompt(
        prompt_id=values["prompt_id"],
        messages=tuple(values["messages"]),
        source=SOURCE,
        category=values["category"],
        tags=frozenset(values["tags"]),
        attributes={"purpose": values["purpose"], "source_id": values["prompt_id"]},
    )


def _cycled(rows: Sequence[int], n: int, salt: str) -> list[int]:
    stream = _endless(rows, salt)
    return [next(stream) for _ in range(n)]


def _endless(rows: Sequence[int], salt: str) -> Iterator[int]:
    if not rows:
        raise DataError("no prompt is left for training: give more prompts, or smaller shares in splits")
    turn = 0
    while True:
        order = list(rows)
        random.Random(f"{salt}/{turn}").shuffle(order)
        yield from order
        turn += 1
