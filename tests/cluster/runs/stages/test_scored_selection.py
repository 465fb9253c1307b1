"""Which snapshot a run on data promotes, by made-up scores; and that too few kept prompts are refused before training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.judging.by_models.limits import Limit
from cluster.inputs.file_prompts import PromptBook
from cluster.runs.answers.judge_by_models import refuse_too_few_kept
from cluster.runs.stages.on_data.evaluate import evaluation_sets
from cluster.runs.stages.on_data.selection import EVERYONE, judge_candidate, promoted, selection_sets
from cluster.runs.stages.selection import choose
from configs.exits import DataError
from configs.schema.run import RunSettings
from learner.data.training_sets import PROMPTS
from learner.statistics.intervals import student_mean_upper
from tests.serving.fake_scored_run import ScoredAnswer, settings_of, snapshot_answers


def limits(settings: RunSettings) -> list[Limit]:
    return [Limit.of(name, one, None) for name, one in settings.constraints.items()]


def test_the_highest_reward_under_every_upper_bound_is_promoted() -> None:
    settings = settings_of(limit=0.0)
    made = [
        judge_candidate(step, snapshot_answers(step, reward, cost), limits(settings), settings)
        for step, reward, cost in ((10, 0.5, -0.9), (20, 0.9, -0.7), (30, 5.0, 0.4))
    ]
    assert [one.feasible for one in made] == [True, True, False]
    assert choose(made).step == 20
    costs = [one.costs["harm"] for one in snapshot_answers(20, 0.9, -0.7)]
    assert made[1].upper_bound["harm"] == pytest.approx(student_mean_upper(costs, 0.95))
    assert made[1].measures["harm"]["value"] == pytest.approx(sum(costs) / len(costs))
    facts: dict[str, Any] = {"promoted_step": 20, "candidates": [vars(one) for one in made]}
    assert promoted(facts) == {"step": 20, "feasible": True, "upper_bound": made[1].upper_bound}


def test_with_none_feasible_the_nearest_to_its_limit_is_promoted() -> None:
    settings = settings_of(limit=-3.0)
    made = [
        judge_candidate(step, snapshot_answers(step, reward, cost), limits(settings), settings)
        for step, reward, cost in ((10, 5.0, 0.5), (20, 0.1, -0.9))
    ]
    chosen = choose(made)
    assert (chosen.step, chosen.feasible) == (20, False)
    assert chosen.excess == pytest.approx(chosen.upper_bound["harm"] + 3.0)


def test_the_error_is_shared_among_the_constraints_and_each_has_its_own_prompts() -> None:
    one = settings_of().constraints["harm"]
    settings = settings_of().model_copy(
        update={"constraints": {"harm": one, "theft": one.model_copy(update={"subset": ("theft",)})}}
    )
    both = [_with_theft(each, EVERYONE, 0.0) for each in snapshot_answers(1, 0.0, -0.9)]
    both += [_with_theft(each, f"{EVERYONE}-theft", -1.0 - 0.1 * i) for i, each in enumerate(both[:10])]
    found = judge_candidate(1, both, limits(settings), settings)
    costs = [each.costs["harm"] for each in both if each.set == EVERYONE]
    assert found.upper_bound["harm"] == pytest.approx(student_mean_upper(costs, 0.975))
    assert found.measures["theft"]["n"] == 10
    assert found.measures["theft"]["value"] == pytest.approx(-1.45)


def _with_theft(answer: ScoredAnswer, name: str, theft: float) -> ScoredAnswer:
    return ScoredAnswer(**{**vars(answer), "set": name, "costs": {"harm": answer.costs["harm"], "theft": theft}})


def test_without_a_reward_the_latest_feasible_snapshot_is_promoted() -> None:
    settings = settings_of()
    made = []
    for step in (10, 20):
        answers = [ScoredAnswer(**{**vars(one), "reward": None}) for one in snapshot_answers(step, 0.0, -0.9)]
        made.append(judge_candidate(step, answers, limits(settings), settings))
    assert [one.helpfulness for one in made] == [0.0, 0.0]
    assert choose(made).step == 20


def book(path: Path, purposes: dict[str, int], tags: list[str]) -> Path:
    rows = [
        {
            "prompt_id": f"{purpose}-{index}",
            "messages": [{"role": "user", "content": f"{purpose} {index}"}],
            "tags": tags,
            "category": None,
            "purpose": purpose,
            "tokens": 3,
        }
        for purpose, count in purposes.items()
        for index in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=PROMPTS), path)
    return path


def context(path: Path, settings: RunSettings) -> Any:
    return cast(
        Any,
        SimpleNamespace(
            book=PromptBook(path), settings=settings, run_settings=settings, layout=SimpleNamespace(data=path.parent)
        ),
    )


def test_prompts_are_of_their_purpose_alone(tmp_path: Path) -> None:
    subset = settings_of().constraints["harm"].model_copy(update={"subset": ("harmlessness",)})
    settings = settings_of().model_copy(update={"constraints": {"harm": subset}})
    path = book(tmp_path / "prompts.parquet", {"train": 9, "selection": 4, "certificate": 5}, ["harmlessness"])
    book(tmp_path / "evaluation-xstest.parquet", {"train": 3}, [])
    made = selection_sets(context(path, settings))
    assert {name: len(prompts) for name, prompts in made.items()} == {EVERYONE: 4, f"{EVERYONE}-harm": 4}
    sets = evaluation_sets(context(path, settings))
    assert {name: len(prompts) for name, prompts in sets.items()} == {"kept": 5, "xstest": 3}
    for prompts, purpose in ((made[EVERYONE], "selection"), (sets["kept"], "certificate")):
        assert {prompt.attributes["purpose"] for prompt in prompts} == {purpose}
    ids = [prompt.prompt_id for some in (*made.values(), *sets.values()) for prompt in some]
    assert len(ids) == len(set(ids))


def test_too_few_kept_prompts_are_refused_by_name(tmp_path: Path) -> None:
    settings = settings_of()
    refuse_too_few_kept(context(book(tmp_path / "a.parquet", {"selection": 2, "certificate": 2}, []), settings))
    with pytest.raises(DataError, match=r"only one prompt is kept for certificate.*splits\.certificate"):
        refuse_too_few_kept(context(book(tmp_path / "b.parquet", {"selection": 2, "certificate": 1}, []), settings))
    subset = settings.constraints["harm"].model_copy(update={"subset": ("harmful",)})
    settings = settings.model_copy(update={"constraints": {"harm": subset}})
    with pytest.raises(DataError, match="no prompt with a tag of harmful is kept for selection"):
        refuse_too_few_kept(context(tmp_path / "a.parquet", settings))
