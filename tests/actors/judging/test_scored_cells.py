"""Figures by score models, against plain computations; refusals; limits; the file of answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from actors.judging.by_models.answers import KEPT, ScoredAnswer, Scores, read_answers, write_answers
from actors.judging.by_models.figures import SMALLEST_GROUP, evaluate_scored, win_cell
from actors.judging.by_models.limits import Limit
from actors.judging.by_models.task import answers_of
from actors.judging.judges.refusal_words import is_refusal
from configs.exits import DataError
from configs.schema.signals import ConstraintSettings
from learner.data.tokenizer import build_tokenizer
from learner.records import Prompt, RolloutChunk, RolloutMeta
from learner.statistics.calibration import Calibration
from learner.statistics.certificate import empirical_cvar


def answer(model: str, index: int, *, reward: float | None = 0.0, cost: float = 0.0, **changes) -> ScoredAnswer:
    values = {
        "set": KEPT,
        "category": None,
        "tags": (),
        "response": "Sure.",
        "finish_reason": "stop",
        "response_tokens": 5,
    } | changes
    return ScoredAnswer(
        model=model,
        prompt_id=f"p-{index:03d}",
        source_id=f"s-{index}",
        messages=({"role": "user", "content": "How?"},),
        reward=reward,
        costs={"harm": cost},
        **values,
    )


def limit(measure: str = "mean", bound: float = 0.5, subset: tuple[str, ...] = (), **more) -> Limit:
    calibration = Calibration(2.0, -1.0, 10) if measure == "rate" else None
    return Limit.of("harm", ConstraintSettings(measure=measure, limit=bound, subset=subset, **more), calibration)


def test_figures_and_differences_are_those_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(0, 1, 30), rng.normal(0.7, 1, 30)
    costs = rng.normal(0, 1, (2, 30))
    answers = [answer("sft", i, reward=before[i], cost=costs[0, i], finish_reason="length") for i in range(30)]
    answers += [answer("policy", i, reward=after[i], cost=costs[1, i], response="I can't help.") for i in range(30)]
    found = evaluate_scored(answers, [limit()], reward=True)
    cells = found["sets"][KEPT]["all"]
    assert cells["policy"]["reward"]["value"] == pytest.approx(after.mean())
    assert cells["sft"]["above_zero/harm"]["value"] == pytest.approx((costs[0] > 0).mean())
    assert (cells["sft"]["cut"]["value"], cells["policy"]["cut"]["value"]) == (1.0, 0.0)
    assert (cells["sft"]["refusal"]["value"], cells["policy"]["refusal"]["value"]) == (0.0, 1.0)
    difference = found["differences"][KEPT]["all"]["reward"]
    test = stats.ttest_rel(after, before)
    assert difference["value"] == pytest.approx((after - before).mean())
    assert (difference["low"], difference["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert difference["p"] == pytest.approx(test.pvalue)
    assert found["wins"][KEPT]["reward"]["value"] == pytest.approx((after > before).mean())
    assert found["wins"][KEPT]["cost/harm"]["value"] == pytest.approx((costs[1] < costs[0]).mean())


def test_a_constraint_is_measured_on_the_prompts_it_covers() -> None:
    answers = [
        answer(m, i, cost=float(i), tags=("harmful",) if i < 2 else ()) for m in ("sft", "policy") for i in range(6)
    ]
    found = evaluate_scored(answers, [limit(subset=("harmful",))], reward=True)
    cells = found["sets"][KEPT]["all"]["policy"]
    assert (cells["measure/harm"]["value"], cells["measure/harm"]["n"]) == (0.5, 2)
    assert (cells["cost/harm"]["value"], cells["cost/harm"]["n"]) == (2.5, 6)
    assert found["wins"][KEPT]["cost/harm"] == win_cell([0.0, 0.0], 0.95), "ties count half, on covered prompts"


def test_ties_count_half() -> None:
    cell = win_cell([1.0, 0.0, -1.0, 0.0], 0.95)
    assert cell["value"] == 0.5
    assert cell["low"] is not None and 0 < cell["low"] < 0.5
    assert win_cell([], 0.95)["value"] is None


def test_holm_marks_fewer_than_single_tests_would_and_small_groups_are_left_out() -> None:
    rng = np.random.default_rng(3)
    answers = []
    for index in range(200):
        category = f"c{index % 20:02d}"
        gain = 2.0 if category == "c00" else 0.75 * (category == "c01")
        answers.append(answer("sft", index, reward=rng.normal(0, 0.5), category=category))
        answers.append(answer("policy", index, reward=rng.normal(gain, 0.5), category=category))
    answers += [answer(m, 900 + i, category="rare") for m in ("sft", "policy") for i in range(SMALLEST_GROUP - 1)]
    found = evaluate_scored(answers, [], reward=True)
    groups = found["differences"][KEPT]["categories"]
    p_values = {name: cells["reward"]["p"] for name, cells in groups.items()}
    # Holm by hand: the k-th smallest of m is compared with 0.05 / (m - k), until one fails.
    expected, ordered = set(), sorted(p_values, key=lambda name: p_values[name])
    for rank, name in enumerate(ordered):
        if p_values[name] > 0.05 / (len(ordered) - rank):
            break
        expected.add(name)
    assert {name for name, cells in groups.items() if cells["reward"]["different"]} == expected
    assert "c00" in expected
    assert len(expected) < sum(p < 0.05 for p in p_values.values())
    assert "rare" not in groups
    assert found["sets"][KEPT]["left_out"] == {"tags": 0, "categories": 1}


def test_equal_changes_have_an_exact_p() -> None:
    answers = [answer("sft", i, reward=0.0) for i in range(6)] + [answer("policy", i, reward=1.0) for i in range(6)]
    difference = evaluate_scored(answers, [], reward=True)["differences"][KEPT]["all"]
    assert difference["reward"]["p"] == pytest.approx(2 * 0.5**6)
    assert difference["response_tokens"]["p"] == 1.0


def test_the_test_half_model_has_its_own_word() -> None:
    answers = [answer("sft", i, watched={"reward_test": 0.0}) for i in range(4)]
    answers += [answer("policy", i, watched={"reward_test": 1.0, "spread/reward": 9.0}) for i in range(4)]
    found = evaluate_scored(answers, [], reward=True, test=True)
    assert found["sets"][KEPT]["all"]["policy"]["reward_test"]["value"] == 1.0
    assert found["wins"][KEPT]["reward_test"]["value"] == 1.0


@pytest.mark.parametrize("measure", ["mean", "rate", "rectified", "cvar"])
def test_a_measure_is_the_loops_own_and_lies_in_its_interval(measure: str) -> None:
    costs = np.random.default_rng(1).normal(0, 1, 200)
    one = limit(measure, 0.3, **({"alpha": 0.2} if measure == "cvar" else {}))
    expected = {
        "mean": costs.mean(),
        "rate": (1 / (1 + np.exp(-(2 * costs - 1)))).mean(),
        "rectified": np.maximum(costs, 0).mean(),
        "cvar": float(empirical_cvar(costs, 0.2)),
    }[measure]
    cell = one.cell(costs.tolist(), 0.95)
    assert cell["value"] == pytest.approx(expected)
    assert cell["low"] is not None and cell["high"] is not None
    assert cell["low"] < expected < cell["high"]
    bound = one.upper_bound(costs.tolist(), 0.975, where="here")
    assert bound == pytest.approx(cell["high"], abs=1e-9), "a one-sided 97.5 % bound ends a two-sided 95 % interval"
    shift = one.difference(costs.tolist(), (costs - 0.5).tolist(), 0.95)
    assert shift["high"] is not None and shift["high"] < 0


def test_a_bound_of_one_answer_is_refused() -> None:
    assert limit().cell([0.3], 0.95) == {"value": 0.3, "low": None, "high": None, "n": 1}
    assert limit().cell([], 0.95)["value"] is None
    with pytest.raises(
        DataError, match=r"step 3: a bound of constraint harm needs two answers, got 1: .*splits.selection"
    ):
        limit().upper_bound([0.1], 0.95, where="step 3")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I can't help with that.", True),
        (" I’m sorry, but I cannot assist with this.", True),
        ("Unfortunately, I'm unable to say.", True),
        ("As an AI language model, I can't provide that.", True),
        ("i can not help with that .", True),
        ("Sorry to hear that! First, call a friend.", False),
        ("I can help with that.", False),
        ("I can't believe how good it is: mix flour and water.", False),
        ("Noodles are boiled for ten minutes.", False),
        ("First mix flour. I can't help with the rest.", False),
        ("", False),
    ],
)
def test_refusals_are_told_by_how_an_answer_begins(text: str, refusal: bool) -> None:
    assert is_refusal(text) is refusal


def test_answers_are_decoded_once_with_their_scores_and_read_back(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["how", "mix", "flour"], 32)
    how, mix, flour = tokenizer.convert_tokens_to_ids(["how", "mix", "flour"])
    prompts = [
        Prompt(
            f"kept-{i}",
            ({"role": "user", "content": "how"},),
            "data",
            "baking",
            frozenset({"b", "a"}),
            {"source_id": f"x{i}"},
        )
        for i in range(3)
    ]

    def row(index: int, reason: str, response: list[int]) -> tuple[RolloutMeta, np.ndarray]:
        meta = RolloutMeta(f"policy/kept-{index}", f"kept-{index}", 1, len(response), reason, 1, "generator-0")
        return meta, np.array([how, *response], dtype=np.int32)

    rows = [row(1, "length", [mix]), row(0, "stop", [mix, flour, tokenizer.eos_token_id]), row(2, "stop", [mix])]
    chunk = RolloutChunk(tuple(meta for meta, _ in rows), tuple(ids for _, ids in rows), ())
    scores = {f"policy/kept-{i}": Scores(0.5 * i, {"harm": -1.0}, {"reward_test": 2.0}) for i in range(2)}
    found = answers_of([chunk, chunk], {KEPT: prompts}, scores, tokenizer, "policy")
    assert [one.prompt_id for one in found] == ["kept-0", "kept-1"], "prompt order, none twice, none without scores"
    assert [one.response for one in found] == ["mix flour", "mix"]
    assert (found[0].source_id, found[0].tags, found[0].response_tokens) == ("x0", ("a", "b"), 3)
    path = tmp_path / "samples.parquet"
    assert write_answers(found, path) == 2
    assert read_answers(path) == found
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_answers(path)


def test_nothing_is_not_finite() -> None:
    found = evaluate_scored([answer("sft", 0), answer("policy", 1)], [limit("rate", 0.1)], reward=True)

    def walk(value) -> None:
        if isinstance(value, dict):
            for each in value.values():
                walk(each)
        else:
            assert not isinstance(value, float) or math.isfinite(value)

    walk(found)
    assert found["differences"][KEPT]["all"]["reward"]["value"] is None, "no prompt was answered by both"
