"""Hindsight: the truth about every sample of a loop, from the files that the learner left."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from actors.crowd.corpus import sft_examples
from actors.crowd.gold import GoldScorer
from actors.crowd.hindsight import judge_folder, judge_rollouts, tasks_of
from actors.crowd.prompts import sandbox_prompts
from actors.crowd.vocabulary import world_words
from actors.crowd.world import World
from configs.exits import DataError
from learner.data.tokenizer import build_tokenizer
from learner.ranks.rollout_files import rollout_file

PROMPT = "hello"


@pytest.fixture(scope="module")
def tokenizer_file(default_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer([*world_words(default_world), PROMPT], 128).save_pretrained(folder)
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_file))


Row = tuple[str, str, bool, float, float, bool]
"""(prompt id, response, finished, reward, cost, whether the constraint applies)."""


def write(path: Path, rows: Sequence[Row], tokenizer: Tokenizer, *, without: str = "") -> None:
    prompt = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    end = tokenizer.token_to_id("<eos>")
    tokens = [
        prompt + tokenizer.encode(text, add_special_tokens=False).ids + [end] * ended for _, text, ended, *_ in rows
    ]
    columns = {
        "prompt_id": pa.array([row[0] for row in rows]),
        "finish_reason": pa.array(["stop" if row[2] else "length" for row in rows]),
        "prompt_length": pa.array(np.full(len(rows), len(prompt), dtype=np.int32)),
        "token_ids": pa.array(tokens, type=pa.list_(pa.int32())),
        "reward": pa.array(np.array([row[3] for row in rows], dtype=np.float32)),
        "cost/harm": pa.array(np.array([row[4] for row in rows], dtype=np.float32)),
        "applies/harm": pa.array([row[5] for row in rows]),
    }
    columns.pop(without, None)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_every_step_has_the_scorers_own_figures_over_all_ranks(
    default_world: World, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    examples = sft_examples(default_world, n=40, seed=5)
    tasks = {f"p{index}": example.task_id for index, example in enumerate(examples)}
    rows: list[Row] = [
        (f"p{index}", example.messages[-1]["content"], index % 7 > 0, index / 10, index % 3 - 1.0, index % 2 == 0)
        for index, example in enumerate(examples)
    ]
    write(rollout_file(tmp_path, 1, 0), rows[:15], tokenizer)
    write(rollout_file(tmp_path, 1, 1), rows[15:30], tokenizer)
    write(rollout_file(tmp_path, 2, 0), rows[30:], tokenizer)
    scorer = GoldScorer(default_world)
    records = judge_folder(tmp_path, scorer, tasks, tokenizer, {"harm": ()})
    assert [(record["step"], record["n"]) for record in records] == [(1, 30), (2, 10)]
    for record, part in zip(records, (rows[:30], rows[30:]), strict=True):
        golds = [scorer.score(tasks[row[0]], row[1], row[2]) for row in part]
        covered = [index for index, row in enumerate(part) if row[5]]
        assert record["gold_helpfulness"] == pytest.approx(np.mean([gold.helpfulness for gold in golds]))
        assert record["gold_unsafe"] == pytest.approx(np.mean([gold.unsafe for gold in golds]))
        assert record["reward"] == pytest.approx(np.mean([row[3] for row in part]), abs=1e-6)
        assert record["constraints"]["harm"] == {
            "n": len(covered),
            "gold_unsafe": pytest.approx(np.mean([golds[index].unsafe for index in covered])),
            "cost": pytest.approx(np.mean([part[index][4] for index in covered]), abs=1e-6),
            "cost_positive": pytest.approx(np.mean([part[index][4] > 0 for index in covered])),
        }
    assert any(record["gold_unsafe"] > 0 for record in records), "the example must be able to fail"


def harmful_answer(world: World) -> tuple[str, str, str]:
    task = next(task for task in world.tasks if task.kind == "harmful")
    assert task.category is not None
    return task.id, world.segments.answer_text(task.steps), task.category


def test_a_constraint_on_some_categories_counts_these_alone(
    default_world: World, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task, text, category = harmful_answer(default_world)
    write(rollout_file(tmp_path, 1, 0), [("p", text, True, 0.0, 1.0, True)], tokenizer)
    shares = {}
    for counted in ((), (category,), ("another",)):
        (record,) = judge_folder(tmp_path, GoldScorer(default_world), {"p": task}, tokenizer, {"harm": counted})
        shares[counted] = record["constraints"]["harm"]["gold_unsafe"]
        assert record["gold_unsafe"] == 1.0
    assert shares == {(): 1.0, (category,): 1.0, ("another",): 0.0}


def test_a_constraint_that_applies_to_no_sample_has_no_share(
    default_world: World, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task, text, _ = harmful_answer(default_world)
    write(rollout_file(tmp_path, 1, 0), [("p", text, True, 0.0, 1.0, False)], tokenizer)
    (record,) = judge_folder(tmp_path, GoldScorer(default_world), {"p": task}, tokenizer, {})
    assert record["constraints"] == {"harm": {"n": 0}}


def test_another_runs_rollouts_and_lacking_columns_are_refused(
    default_world: World, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task, text, _ = harmful_answer(default_world)
    scorer = GoldScorer(default_world)
    write(rollout_file(tmp_path, 1, 0), [("p", text, True, 0.0, 1.0, True)], tokenizer)
    with pytest.raises(DataError, match="prompt p is none of this run's"):
        judge_folder(tmp_path, scorer, {"q": task}, tokenizer, {})
    write(rollout_file(tmp_path, 1, 0), [("p", text, True, 0.0, 1.0, True)], tokenizer, without="reward")
    with pytest.raises(DataError, match="column 'reward' is missing"):
        judge_folder(tmp_path, scorer, {"p": task}, tokenizer, {})


def test_the_task_writes_the_file_whole(default_world: World, tokenizer_file: Path, tmp_path: Path) -> None:
    task, text, _ = harmful_answer(default_world)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    write(rollout_file(tmp_path / "rollouts", 3, 0), [("p", text, True, 0.5, 1.0, True)], tokenizer)
    target = tmp_path / "training_gold.json"
    steps = judge_rollouts._function(  # the function that Ray would run
        None, str(tmp_path / "rollouts"), {"p": task}, str(tokenizer_file), str(target), {"harm": ()}
    )
    assert steps == 1 and json.loads(target.read_text())["steps"][0]["reward"] == 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rollouts", "training_gold.json"]


def test_tasks_of_prompts_are_their_own(default_world: World) -> None:
    prompts = sandbox_prompts(default_world, n=5, seed=1, task_splits=["seen"], form_splits=["seen"], prefix="ppo")
    assert tasks_of(prompts) == {prompt.prompt_id: prompt.attributes["task_id"] for prompt in prompts}


def test_a_whole_run_takes_seconds(default_world: World, tokenizer: Tokenizer, tmp_path: Path) -> None:
    examples = sft_examples(default_world, n=90 * 128, seed=6)
    tasks = {f"p{index}": example.task_id for index, example in enumerate(examples)}
    for step in range(90):
        rows: list[Row] = [
            (f"p{index}", examples[index].messages[-1]["content"], True, 0.0, 0.0, True)
            for index in range(step * 128, step * 128 + 128)
        ]
        write(rollout_file(tmp_path, step + 1, 0), rows, tokenizer)
    begin = time.process_time()
    assert len(judge_folder(tmp_path, GoldScorer(default_world), tasks, tokenizer, {})) == 90
    assert time.process_time() - begin < 15  # a few seconds on an idle machine
