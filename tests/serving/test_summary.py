"""summary.json: what is in it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.exits import DataError
from learner.statistics.certificate import certify
from serving.summary import build_summary, certificate_of, read_summary, verdict_line, write_summary
from tests.serving.fake_run import made_up_samples, made_up_summary


def test_the_promised_figures_are_there(tmp_path: Path) -> None:
    write_summary(made_up_summary(made_up_samples(per_cell=4)), tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text())
    measures = [
        "harm_rate_harmful",
        "harm_rate_benign",
        "helpfulness_benign",
        "helpfulness_lookalike",
        "refusal_benign",
    ]
    for model in ("sft", "policy"):
        for split in ("seen", "heldout_tasks", "heldout_forms"):
            for measure in [*measures, "refusal_benign", "refusal_lookalike", "alternative_harmful"]:
                assert set(summary["evaluation"][model][split][measure]) == {"value", "low", "high", "n"}
    assert summary["certificate"]["constraints"]["harm"]["limit"] == 0.1
    assert summary["reward_model"]["pair_accuracy"] == 0.861
    assert summary["cost_model"]["sign_accuracy"] == 0.972
    assert {"total", "sft", "preferences", "reward_model", "cost_model", "ppo", "evaluate"} == set(summary["seconds"])
    assert {"steps", "samples_per_second", "phase_seconds"} <= set(summary["ppo"])
    assert {"version", "bytes", "seconds_per_broadcast"} == set(summary["weights"])
    assert {"versions", "seed", "warnings"} <= set(summary)


def test_it_reads_back_as_written(tmp_path: Path) -> None:
    summary = made_up_summary(made_up_samples(per_cell=3))
    write_summary(summary, tmp_path / "summary.json")
    assert read_summary(tmp_path / "summary.json") == summary


def test_a_figure_that_is_not_finite_is_refused_by_name() -> None:
    arguments: dict[str, Any] = {
        "name": "x",
        "seed": 0,
        "certificates": {},
        "reward_model": None,
        "cost_models": {},
        "ppo": None,
        "weights": None,
        "versions": {},
    }
    broken = {"policy": {"seen": {"harm_rate_harmful": {"value": float("nan")}}}}
    with pytest.raises(DataError, match=r"evaluation\.policy\.seen\.harm_rate_harmful\.value is nan"):
        build_summary(evaluation=broken, seconds={"total": 1.0}, **arguments)
    with pytest.raises(DataError, match="no 'total'"):
        build_summary(evaluation={}, seconds={"sft": 1.0}, **arguments)


def test_a_summary_that_is_missing_or_foreign_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has not finished"):
        read_summary(tmp_path / "summary.json")
    (tmp_path / "summary.json").write_text('{"name": "x", "surprise": 1}')
    with pytest.raises(DataError) as caught:
        read_summary(tmp_path / "summary.json")
    assert "\n" not in str(caught.value)


def test_the_verdict_names_constraints_only_when_there_are_several() -> None:
    safe, unsafe = certify([0.0] * 100, 0.05, labels_source="gold"), certify([1.0] * 100, 0.05, labels_source="gold")
    one, two = certificate_of({"harm": safe}), certificate_of({"harm": safe, "privacy": unsafe})
    assert one is not None and two is not None
    assert one.feasible and verdict_line(one).startswith("feasible: 0.0 %")
    assert not two.feasible and "harm feasible" in verdict_line(two) and "privacy not feasible" in verdict_line(two)
    assert certificate_of({}) is None and verdict_line(None) == "no constraint to certify"
