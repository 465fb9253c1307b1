"""Round by round in the report: the table and curves of finished rounds, and what is said where some are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.exits import DataError
from configs.layout import RunLayout
from serving.report import write_report
from serving.report.blocks.blocks import NOTHING
from serving.report.run.lineage import _arrows
from serving.report.run.rounds import _results
from serving.runs import last_round

CELL = {"value": 0.02, "low": 0.01, "high": 0.04, "n": 300}


def record(number: int) -> dict[str, Any]:
    return {
        "round": number,
        "models": {
            "start": {"name": "sft" if number == 1 else f"round-{number - 1}", "digest": "a" * 64},
            "reference": "sft",
            "reward": "b" * 64,
            "costs": {"harm": "c" * 64},
            "policy": {"name": f"round-{number}", "digest": "d" * 64, "promoted_step": 30},
            "weight_version": 9,
        },
        "pairs": {
            "sampled": 1000 + number,
            "sources": [{"model": "sft", "pairs": 1000, "digest": "", "weight_version": 0}],
            "red_team": 0,
            "splits": {},
            "training": 4321,
            "from_earlier_rounds": 0,
            "questions": 9000,
            "unsafe_share": 0.25,
            "better_is_safer": 0.6,
        },
        "red_team": None if number == 1 else {"against": "round-1", "found": 77, "usable": 11, "success": 0.31},
        "loop": {
            "steps": 36,
            "prompts": 400,
            "red_team": 0,
            "learning_rates": {"actor": 2e-4, "dual/harm": 0.5},
            "kl": {"coefficient": 0.04, "end": 3.2},
        },
        "constraints": {
            "harm": {
                "measure": "rate",
                "limit": 0.05,
                "multiplier_start": 1.0,
                "multiplier_end": 2.34,
                "multiplier_highest": 3.0,
                "measure_end": 0.04,
            }
        },
        "agreement": {"safety": {"raw": 0.97, "alpha": None, "units": 10}},
        "accuracy": {"cost/harm": {"pair_accuracy": CELL, "sign_accuracy": CELL}},
        "calibration": {"harm": {"slope": 1.1, "intercept": -0.2, "error": 0.03, "drift_of_the_fit_before": None}},
        "certificates": {"harm": {**CELL, "feasible": True, "upper_bound": 0.039, "limit": 0.05}},
        "feasible": True,
        "results": {"policy": {"harm_rate_harmful": CELL, "helpfulness_benign": {**CELL, "value": 2.5}}},
        "seconds": 240.0,
    }


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path / "three")
    layout.root.mkdir()
    layout.config.write_text(yaml.safe_dump({"name": "three", "rounds": {"count": 3}}))
    for number in (1, 2):
        layout.metrics_of(number).parent.mkdir(parents=True, exist_ok=True)
        lines = [
            {
                "step": step,
                "reward": 0.1 * step,
                "kl": 0.2 * step,
                "measure/harm": 0.3,
                "limit/harm": 0.05,
                "multiplier/harm": 1.0,
            }
            for step in (1, 2, 3)
        ]
        layout.metrics_of(number).write_text("".join(json.dumps(line) + "\n" for line in lines))
    layout.rounds.write_text(json.dumps({"schema_version": 1, "rounds": [record(1)]}))
    return layout


def test_an_unfinished_run_shows_the_rounds_that_are_finished_and_curves_of_the_running_one(run: RunLayout) -> None:
    page = write_report(run.root).read_text()
    assert "1 of 3 rounds are finished" in page and "Round 1</th>" in page and "Round 2</th>" not in page
    assert "round 2 from 0.1 at step 1" in page, "the running round's reward"


def test_the_table_has_what_each_round_collected_trained_and_reached(run: RunLayout) -> None:
    run.rounds.write_text(json.dumps({"schema_version": 1, "rounds": [record(1), record(2)]}))
    page = write_report(run.root).read_text()
    for text in ("1,001", "1,002", "4,321", "77", "31.0", "2.34", "feasible", "3.9", "Round 2</th>"):
        assert text in page, text
    assert 'data-key="rounds.1.red_team.found"' in page
    assert last_round(run.root) == 2


@pytest.mark.parametrize("feasible", [True, None])  # records of before said yes
def test_a_round_without_a_constraint_has_a_dash_for_its_certificate(run: RunLayout, feasible: bool | None) -> None:
    free = record(2) | {"constraints": {}, "certificates": {}, "feasible": feasible}
    sections = _results([record(1), free])
    certified = next(row for row in sections.rows if row.header == "Certified")
    assert [cell[0].text for cell in certified.cells] == ["feasible", NOTHING]


def test_the_lineage_is_drawn_with_arrows_from_round_to_round(run: RunLayout) -> None:
    second = record(2)
    second["pairs"]["sources"] = [{"model": "round-1", "pairs": 800, "digest": "", "weight_version": 0}]
    run.rounds.write_text(json.dumps({"schema_version": 1, "rounds": [record(1), second]}))
    page = write_report(run.root).read_text()
    assert "Round 2 starts from round-1, collects 800 pairs of round-1, trains on 4,321 and makes round-2" in page
    crossing = [(start, end) for start, end, again in _arrows([record(1), second]) if again]
    assert crossing == [(("policy", 0), ("start", 1)), (("policy", 0), ("pairs", 1)), (("pairs", 0), ("models", 1))]


def test_no_round_is_finished_yet(run: RunLayout) -> None:
    run.rounds.write_text(json.dumps({"schema_version": 1, "rounds": []}))
    assert "No round is finished yet" in write_report(run.root).read_text()


def test_a_run_of_one_round_has_no_such_section(run: RunLayout) -> None:
    run.rounds.unlink()
    run.config.write_text(yaml.safe_dump({"name": "three", "rounds": {"count": 1}}))
    assert 'id="rounds"' not in write_report(run.root).read_text()


def test_a_damaged_round_manifest_is_one_line(run: RunLayout) -> None:
    run.rounds.write_text("{half")
    with pytest.raises(DataError, match="no round manifest"):
        last_round(run.root)
    assert write_report(run.root).exists()
