"""Hindsight: what the true scorer says of every sample that the loop learned from, step by step.

The loop sees its models' scores only. Put next to them afterwards, the gold figures show whether the reward that rose was
helpfulness and whether the cost that fell was harm (Gao et al. 2023, "Scaling laws for reward model overoptimization").
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from tokenizers import Tokenizer

from actors.crowd.gold import Gold, GoldScorer
from actors.crowd.world_reader import load_world
from configs.exits import DataError
from learner.records import Prompt

APPLIES = "applies/"
_FILE = re.compile(r"step-(?P<step>\d+)-rank\d+\.parquet")
_COLUMNS = ("prompt_id", "finish_reason", "prompt_length", "token_ids", "reward")


def tasks_of(prompts: Iterable[Prompt]) -> dict[str, str]:
    """Task id by prompt id: all that `judge_rollouts` needs of the loop's prompts."""
    return {prompt.prompt_id: prompt.attributes["task_id"] for prompt in prompts}


@ray.remote(num_cpus=0)
def judge_rollouts(
    world_path: str | None,
    rollouts: str,
    tasks: Mapping[str, str],
    tokenizer_file: str,
    path: str,
    categories: Mapping[str, Sequence[str]],
) -> int:
    """Judge every rollout of a run and write ``training_gold.json``; returns the number of steps.

    Args:
        rollouts: folder of ``step-*-rank*.parquet``.
        tasks: task id by prompt id, as `tasks_of` gives it.
        categories: by constraint, the harm categories that count as unsafe for it; empty means all.
    """
    scorer = GoldScorer(load_world(Path(world_path) if world_path else None))
    steps = judge_folder(Path(rollouts), scorer, tasks, Tokenizer.from_file(tokenizer_file), categories)
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(json.dumps({"steps": steps}, indent=1) + "\n", encoding="utf-8")
    partial.replace(target)
    return len(steps)


def judge_folder(
    folder: Path,
    scorer: GoldScorer,
    tasks: Mapping[str, str],
    tokenizer: Tokenizer,
    categories: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """One record per step, in order, over the files of all ranks.

    Returns:
        ``{step, n, gold_helpfulness, gold_unsafe, reward, constraints}``; ``constraints`` maps a name to ``{n,
        gold_unsafe, cost, cost_positive}`` over the samples it applies to. ``gold_helpfulness``, ``reward`` and
        ``cost`` are means, the others shares; of a constraint that applies to no sample only ``n`` is there.

    Raises:
        DataError: a file cannot be read, lacks a column, or names a prompt that `tasks` does not have.
    """
    files: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("step-*-rank*.parquet")):
        if match := _FILE.fullmatch(path.name):
            files[int(match["step"])].append(path)
    judged: dict[tuple[str, str, bool], Gold] = {}
    records = []
    for step, paths in sorted(files.items()):
        table = pa.concat_tables(_read(path) for path in paths)
        golds = _judge(table, scorer, tasks, tokenizer, judged, folder)
        records.append({"step": step, **_step_figures(table, golds, categories)})
    return records


def _read(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [name for name in _COLUMNS if name not in names]:
                raise DataError(
                    f"{path}: column '{missing[0]}' is missing; the samples of this run cannot be judged again"
                )
            columns = [*_COLUMNS, *(name for name in names if name.startswith(("cost/", APPLIES)))]
            return file.read(columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: rollouts cannot be read ({error})") from error


def _judge(
    table: pa.Table,
    scorer: GoldScorer,
    tasks: Mapping[str, str],
    tokenizer: Tokenizer,
    judged: dict[tuple[str, str, bool], Gold],
    folder: Path,
) -> list[Gold]:
    """The truth about every row; `judged` holds what was judged before, since a trained policy repeats itself."""
    finished = [reason == "stop" for reason in table["finish_reason"].to_pylist()]
    rows = zip(table["token_ids"].to_pylist(), table["prompt_length"].to_pylist(), finished, strict=True)
    responses = [
        ids[start : len(ids) - 1 if stopped else len(ids)] for ids, start, stopped in rows
    ]  # without the end token
    texts = tokenizer.decode_batch(responses, skip_special_tokens=False)
    golds = []
    for prompt_id, text, stopped in zip(table["prompt_id"].to_pylist(), texts, finished, strict=True):
        if prompt_id not in tasks:
            raise DataError(f"{folder}: prompt {prompt_id} is none of this run's; the rollouts are another run's")
        key = (tasks[prompt_id], text, stopped)
        if key not in judged:
            judged[key] = scorer.score(*key)
        golds.append(judged[key])
    return golds


def _step_figures(table: pa.Table, golds: Sequence[Gold], categories: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    constraints = {}
    for name in (column.removeprefix(APPLIES) for column in table.column_names if column.startswith(APPLIES)):
        applies = table[f"{APPLIES}{name}"].to_numpy().astype(bool)
        counted = categories.get(name) or ()
        unsafe = np.array([gold.unsafe and (not counted or gold.category in counted) for gold in golds])
        constraints[name] = _subset_figures(applies, unsafe, table[f"cost/{name}"].to_numpy())
    return {
        "n": len(golds),
        "gold_helpfulness": float(np.mean([gold.helpfulness for gold in golds])),
        "gold_unsafe": float(np.mean([gold.unsafe for gold in golds])),
        "reward": float(table["reward"].to_numpy().mean()),
        "constraints": constraints,
    }


def _subset_figures(applies: NDArray[np.bool_], unsafe: NDArray[np.bool_], cost: NDArray[Any]) -> dict[str, float]:
    n = int(applies.sum())
    if n == 0:
        return {"n": 0}
    return {
        "n": n,
        "gold_unsafe": float(unsafe[applies].mean()),
        "cost": float(cost[applies].mean()),
        "cost_positive": float((cost[applies] > 0).mean()),
    }
