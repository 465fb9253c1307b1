"""Figures of the evaluation, against small samples whose answer can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.judging.by_gold.figures import MEASURES, OUTCOMES, evaluate_cells
from actors.judging.by_gold.samples import EvaluatedSample, read_samples, write_samples
from configs.exits import DataError

PLAIN = EvaluatedSample(
    model="policy",
    prompt_id="p0",
    task_id="t0",
    form="plain",
    split="seen",
    kind="harmful",
    category="self_harm",
    messages=({"role": "user", "content": "how do i"},),
    response="no",
    finish_reason="stop",
    gold_helpfulness=1.0,
    gold_harm=0.0,
    gold_unsafe=False,
    gold_bare_refusal=False,
    outcome="safe_refusal",
    clarify=False,
    alternative=True,
    response_tokens=3,
    gold_category=None,
    reward=0.5,
    costs={"harm": -1.25},
)


def sample(**changes: object) -> EvaluatedSample:
    return replace(PLAIN, **changes)  # type: ignore[arg-type]


def test_a_share_is_counted_with_its_wilson_interval() -> None:
    unsafe = [sample(prompt_id=f"u{i}", gold_unsafe=True, gold_harm=1.0, outcome="harmful") for i in range(2)]
    cell = evaluate_cells(unsafe + [sample(prompt_id=f"s{i}") for i in range(8)])["policy"]["seen"]["harm_rate_harmful"]
    assert (cell["value"], cell["n"]) == (0.2, 10)
    # Wilson (1927) for 2 of 10 at z = 1.959964: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    assert cell["low"] == pytest.approx(0.05668, abs=1e-5)
    assert cell["high"] == pytest.approx(0.50984, abs=1e-5)


def test_a_mean_has_its_student_interval() -> None:
    rows = [sample(kind="benign", category=None, prompt_id=f"p{h}", gold_helpfulness=h) for h in (1.0, 2.0, 3.0)]
    cell = evaluate_cells(rows)["policy"]["seen"]["helpfulness_benign"]
    # mean 2, standard error 1/sqrt(3), t(0.975, 2 degrees of freedom) = 4.302653
    assert cell["value"] == pytest.approx(2.0)
    assert cell["high"] - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_empty_and_single_cells_claim_nothing() -> None:
    cells = evaluate_cells([sample()])["policy"]["seen"]
    assert cells["helpfulness_benign"] == {"value": None, "low": None, "high": None, "n": 0}
    assert cells["helpfulness_harmful"] == {"value": 1.0, "low": None, "high": None, "n": 1}


def test_only_harm_and_refusal_are_scored_on_unknown_tasks() -> None:
    cells = evaluate_cells([sample(split="unknown")])["policy"]["unknown"]
    assert {name.rsplit("_", 1)[0].removesuffix("_dual") for name in cells} == {"harm_rate", "refusal"}


def test_every_figure_of_the_summary_contract_is_there() -> None:
    cells = evaluate_cells([sample()])["policy"]["seen"]
    promised = "harm_rate_harmful harm_rate_benign helpfulness_benign helpfulness_lookalike refusal_benign"
    promised += " refusal_lookalike alternative_harmful harm_rate_dual_use clarify_ambiguous partial_harmful"
    assert set(promised.split()) <= set(cells)
    assert set(cells) == {measure.name for measure in MEASURES}


def test_bare_refusal_and_outcome_are_counted_on_their_own_kind_only() -> None:
    rows = [sample(), sample(prompt_id="p1", kind="benign", category=None, gold_bare_refusal=True)]
    result = evaluate_cells(rows)
    assert result["policy"]["seen"]["refusal_benign"]["value"] == 1.0
    assert result["policy"]["seen"]["refusal_harmful"]["value"] == 0.0
    shares = result["outcomes"]["policy"]["seen"]["harmful"]
    assert sum(shares[outcome]["value"] for outcome in OUTCOMES) == 1.0
    assert shares["safe_refusal"] == {**shares["safe_refusal"], "value": 1.0, "n": 1}


def test_categories_and_forms_hold_their_own_samples_only() -> None:
    rows = [sample(), sample(prompt_id="p1", category="privacy_violation", form="scenario", gold_unsafe=True)]
    result = evaluate_cells(rows)
    assert list(result["categories"]["policy"]["seen"]) == ["privacy_violation", "self_harm"]
    assert result["categories"]["policy"]["seen"]["self_harm"]["harm_rate_harmful"]["value"] == 0.0
    assert result["forms"]["policy"]["seen"]["scenario"]["harm_rate_harmful"]["value"] == 1.0


def test_differences_pair_by_prompt_and_count_a_prompt_once() -> None:
    before = [sample(model="sft", prompt_id=p, gold_helpfulness=h, kind="benign") for p, h in (("a", 1.0), ("b", 0.0))]
    after = [
        sample(prompt_id=p, gold_helpfulness=h, kind="benign")
        for p, h in (("a", 2.0), ("a", 4.0), ("b", 1.0), ("c", 9.0))
    ]
    cell = evaluate_cells(before + after)["differences"]["seen"]["helpfulness_benign"]
    # a: 3 - 1, b: 1 - 0; c has no partner
    assert (cell["value"], cell["n"]) == (1.5, 2)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split 'elsewhere'"):
        evaluate_cells([sample(split="elsewhere")])


def test_samples_survive_parquet(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    turns = (*PLAIN.messages, {"role": "assistant", "content": "what ?"}, {"role": "user", "content": "that"})
    rows = [PLAIN, sample(messages=turns, category=None, reward=None, costs={}, response="")]
    assert write_samples(rows, path) == 2
    assert read_samples(path) == rows
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_without_a_column_names_it(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    pq.write_table(pa.table({"model": ["sft"]}), path)
    with pytest.raises(DataError, match="column 'alternative' is missing"):
        read_samples(path)
