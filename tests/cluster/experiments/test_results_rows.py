"""The results' rows: what a finished run leaves, when it is stale, and the share of the oracle's gap."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from actors.crowd.oracle import best_helpfulness
from actors.crowd.world_reader import load_world
from cluster.experiments.results.cells import BASELINE, SWEEP, TABLE, Cell
from cluster.experiments.results.oracle_share import oracle_share, tasks_by_kind, weighted, world_oracle
from cluster.experiments.results.rows import (
    CURVE_POINTS,
    Origin,
    present_origin,
    read_rows,
    row_of_run,
    training_curve,
    write_row,
)
from cluster.experiments.results.sitting import declare, donors, fresh_rows
from configs.exits import DataError
from configs.layout import RunLayout
from serving.report.pages.comparison import compare_arms
from tests.cluster.made_up_rows import CODE, keep, made_up_row
from tests.serving.fake_run import made_up_steps, make_run

WEIGHTS = {"benign": 2, "harmful": 1, "dual_use": 1}


def judged(benign: float, harmful: float, dual_use: float, unsafe: float) -> dict[str, dict[str, float]]:
    means = {"helpfulness_benign": benign, "helpfulness_harmful": harmful, "helpfulness_dual_use": dual_use}
    return {
        name: {"value": value}
        for name, value in {**means, "harm_rate_harmful": unsafe, "harm_rate_dual_use": 0.0}.items()
    }


def test_the_share_weighs_kinds_by_their_tasks():
    sft, policy = judged(1, 2, 0, 0.9), judged(3, 1, 1, 0.04)
    assert weighted(sft, "helpfulness", WEIGHTS) == pytest.approx((2 * 1 + 2 + 0) / 4)
    found = oracle_share(sft, policy, WEIGHTS, 0.05, lambda rate: 2 + rate)
    assert (found.sft, found.policy, found.unsafe_rate) == pytest.approx((1.0, 2.0, 0.02))
    assert (found.at_rate, found.oracle, found.above_limit) == (0.05, 2.05, False)
    assert found.share == pytest.approx((2 - 1) / (2.05 - 1))


def test_above_the_limit_the_oracle_is_allowed_as_much_harm():
    found = oracle_share(judged(1, 1, 1, 0.9), judged(3, 3, 3, 0.5), WEIGHTS, 0.05, lambda rate: 3 + rate)
    assert (found.above_limit, found.at_rate, found.oracle) == (True, 0.25, 3.25)
    assert found.share == pytest.approx(2 / 2.25)


def test_no_share_where_nothing_is_left_to_gain_or_a_kind_was_not_measured():
    same = judged(1, 1, 1, 0.0)
    assert oracle_share(same, same, WEIGHTS, 0.05, lambda _: 1.0).share is None
    with pytest.raises(ValueError, match="helpfulness_lookalike was not measured"):
        weighted(same, "helpfulness", {**WEIGHTS, "lookalike": 1})


def test_a_policy_that_is_the_oracle_closes_the_whole_gap():
    world = load_world()
    best = best_helpfulness(world, "seen", 0.05, "harmful")
    policy = {f"helpfulness_{kind}": {"value": value} for kind, value in best.helpfulness_by_kind.items()}
    policy |= {f"harm_rate_{kind}": {"value": best.unsafe_rate - 1e-9} for kind in ("harmful", "dual_use")}
    sft = {name: {"value": cell["value"] - 0.5} for name, cell in policy.items()}
    found = oracle_share(sft, policy, tasks_by_kind(world), 0.05, world_oracle(world))
    assert found.share == pytest.approx(1.0) and found.policy == pytest.approx(best.helpfulness)


def finished(root: Path, cell: Cell, *, gold: bool = True, **options: Any) -> RunLayout:
    layout = RunLayout(make_run(root, seed=cell.seed, per_cell=15, **options))
    if gold:
        steps = [
            {
                "step": line["step"],
                "n": 128,
                "gold_helpfulness": 1 + line["step"] / 40,
                "gold_unsafe": 0.1,
                "reward": 0.0,
                "constraints": {"harm": {"n": 60, "gold_unsafe": 0.3, "cost": -1.0, "cost_positive": 0.2}},
            }
            for line in made_up_steps()
        ]
        (layout.evaluation(1) / "training_gold.json").write_text(json.dumps({"steps": steps}))
    return layout


def test_a_finished_run_becomes_a_row_that_reads_back(tmp_path: Path):
    cell = Cell(TABLE, "pid_rate", 1)
    layout = finished(tmp_path / "run", cell)
    row = row_of_run(cell, layout, Origin("ab" * 20, CODE), now=datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    path = write_row(row, tmp_path / "rows")
    assert path.name == "results-pid_rate-seed1.json"
    (found,) = read_rows(tmp_path / "rows").values()
    assert found.cell == cell and found.overrides["constraints.harm.dual"]["form"] == "pid"
    assert (found.commit, found.code_digest, found.date) == ("ab" * 20, CODE, "2026-01-02 03:04 UTC")
    assert "pid dual" in found.setting and found.seconds["ppo"] == 240.7
    summary = json.loads(layout.summary.read_text())
    assert found.verdict == summary["verdict"]
    assert found.value("harm_rate_harmful") == pytest.approx(
        summary["evaluation"]["policy"]["seen"]["harm_rate_harmful"]["value"], abs=1e-6
    )
    assert found.value("helpfulness_benign", "sft") is not None
    helpful = [
        (count, summary["evaluation"]["policy"]["seen"][f"helpfulness_{kind}"]["value"])
        for kind, count in tasks_by_kind(load_world()).items()
    ]
    assert found.overall["policy"] == pytest.approx(
        sum(n * x for n, x in helpful) / sum(n for n, _ in helpful), abs=1e-5
    )
    assert found.stale({CODE}) == ()


def test_a_row_is_stale_for_each_thing_that_made_it(tmp_path: Path):
    row = made_up_row(BASELINE)
    assert row.stale({CODE}) == ()
    assert row.stale({"f" * 64}) == ("code",)
    other = {**row.settings, "seed": 99}
    assert replace(row, settings=other).stale({CODE}) == ("configuration",)
    unread = {**row.settings, "best_of_k": {"k": 99}}
    assert replace(row, settings=unread).stale({CODE}) == (), "an algorithm with a loop never reads it"
    assert replace(row, world="0", code_digest="0").stale({CODE}) == ("code", "world")
    keep(tmp_path, row, replace(made_up_row("gdpo"), code_digest="0"))
    assert list(fresh_rows(tmp_path, CODE)) == [row.cell]


def test_a_broken_row_is_named_and_one_of_a_removed_arm_is_passed_over(tmp_path: Path):
    path = write_row(replace(made_up_row(BASELINE), preset="results"), tmp_path)
    gone = json.loads(path.read_text()) | {"arm": "removed"}
    (tmp_path / "results-removed-seed0.json").write_text(json.dumps(gone))
    assert [cell.arm for cell in read_rows(tmp_path)] == [BASELINE]
    path.write_text("{}")
    with pytest.raises(DataError, match=r"results-projected_rate-seed0\.json: is no row"):
        read_rows(tmp_path)


def test_the_curve_has_the_truth_beside_the_models_and_few_points(tmp_path: Path):
    layout = finished(tmp_path / "run", Cell(TABLE, BASELINE, 0))
    curve = training_curve(layout, "harm")
    steps = made_up_steps()
    assert len(curve) == CURVE_POINTS < len(steps)
    assert curve[-1]["step"] == steps[-1]["step"] and curve[0]["step"] == 0
    assert {"reward", "gold_helpfulness", "measure", "judged_unsafe", "gold_unsafe", "multiplier", "kl"} < set(curve[0])
    pair = [line for line in steps if curve[1]["step"] - 1 <= line["step"] <= curve[1]["step"]]
    assert curve[1]["reward"] in (
        pytest.approx(pair[-1]["reward"]),
        pytest.approx(sum(line["reward"] for line in pair) / 2),
    )
    untold = training_curve(finished(tmp_path / "other", Cell(TABLE, BASELINE, 0), gold=False), "harm")
    assert "gold_unsafe" not in untold[0] and "reward" in untold[0]
    layout.metrics.unlink()
    assert training_curve(layout, "harm") == []


def test_the_origin_says_whether_the_tree_is_clean_outside_docs(tmp_path: Path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert present_origin(tmp_path / "nowhere").commit == "unknown"
    git("init", "-q")
    (tmp_path / "code.py").write_text("")
    git("add", ".")
    git("commit", "-qm", "a")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text("")
    assert present_origin(tmp_path).commit == commit
    (tmp_path / "code.py").write_text("x = 1\n")
    assert present_origin(tmp_path).commit == f"{commit}+dirty"


def test_arms_of_either_comparison_lend_their_stages_within_a_seed(tmp_path: Path):
    for folder in ("results/arms/gdpo-seed0", "results/arms/gdpo-seed1", "limit-sweep/arms/limit_0_1-seed0"):
        (tmp_path / folder).mkdir(parents=True)
    found = donors(tmp_path, Cell(TABLE, "gdpo", 0))
    assert [layout.root.name for layout in found] == ["limit_0_1-seed0"]
    assert len(donors(tmp_path, Cell(SWEEP, "limit_0_2", 0))) == 2
    layout = RunLayout(tmp_path / "results")
    declare(layout, TABLE)
    finished(layout.arm("gdpo", 1).root / "x", Cell(TABLE, "gdpo", 1)).root.rename(tmp_path / "made")
    layout.arm("gdpo", 1).root.rmdir()
    (tmp_path / "made").rename(layout.arm("gdpo", 1).root)
    assert [arm.name for arm in compare_arms(layout.root).arms] == ["gdpo"], "`steelyard report` finds the arms"
