"""The results: which runs are wanted, in which order, and the command."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.commands import results
from cluster.experiments.results.cells import (
    BASELINE,
    FIGURES,
    SWEEP,
    TABLE,
    Cell,
    cells_of,
    config_digest,
    logic_digest,
    preset_settings,
)
from cluster.experiments.results.plan import (
    BestFixed,
    Plan,
    Scope,
    best_fixed,
    check_scope,
    make_plan,
    next_cell,
    seconds_left,
)
from cluster.experiments.results.rows import Row
from cluster.experiments.results.sitting import fill
from cluster.run_folder.code_digest import reached_code
from configs.exits import ConfigError
from configs.load import load_settings
from tests.cluster.made_up_rows import FIXED, keep, made_up_row, of, seven


def test_there_are_ten_moving_arms_and_seven_weights():
    arms = list(preset_settings(TABLE).arms)
    assert arms[0] == BASELINE and len(arms) == 17 and len(FIXED) == 7
    assert {Cell(TABLE, arm, 0).settings().algorithm for arm in arms} == {
        "ppo_lag",
        "grpo_lag",
        "gdpo",
        "rvpo",
        "dpo",
        "safe_dpo",
        "best_of_k",
    }
    weights = [Cell(TABLE, arm, 0).settings().constraints["harm"].dual for arm in FIXED]
    assert all(dual.form == "fixed" for dual in weights) and len({dual.initial for dual in weights}) == 7
    assert {cell.settings().constraints["harm"].limit for cell in cells_of(SWEEP)} == {0.01, 0.02, 0.05, 0.1, 0.2}


@pytest.mark.parametrize("cell", [*cells_of(TABLE)[:17], *cells_of(SWEEP)], ids=lambda cell: cell.name)
def test_the_command_of_a_row_means_the_same_settings(cell: Cell):
    steelyard, verb, preset, *overrides = shlex.split(cell.command())
    assert (steelyard, verb) == ("steelyard", "run")
    settings = load_settings(preset, overrides)
    assert not settings.arms and not settings.seeds
    assert config_digest(settings) == config_digest(cell.settings())


@pytest.mark.parametrize(
    ("arm", "preset"),
    [
        (BASELINE, "quickstart"),
        ("papers_log_mean", "papers_log"),
        ("pid_rate", "pid"),
        ("fixed_1", "reward_shaping"),
        *((name, name) for name in ("grpo_lag", "gdpo", "rvpo", "dpo", "safe_dpo", "best_of_k")),
    ],
)
def test_an_arm_is_the_preset_of_its_kind(arm: str, preset: str):
    settings = Cell(TABLE, arm, 0).settings()
    asked = settings.evaluation
    of_the_table = [
        f"certificate.rate_limit={settings.certificate.rate_limit}",
        f"ppo.steps={settings.ppo.steps}",
        *(f"evaluation.{name}={getattr(asked, name)}" for name in type(asked).model_fields),
    ]
    assert config_digest(load_settings(preset, of_the_table)) == config_digest(settings)


def test_arms_of_one_comparison_are_certified_against_one_limit():
    for cell in cells_of(TABLE):
        settings = cell.settings()
        constraint = settings.constraints["harm"]
        limit = constraint.limit if constraint.measure == "rate" else settings.certificate.rate_limit
        assert limit == 0.05, cell


def test_names_and_folders_do_not_change_the_digest_and_seed_and_limit_do():
    settings = load_settings("quickstart")
    other = load_settings("quickstart", ["name=other", "storage=/elsewhere", "reuse_from=[x]"])
    assert config_digest(other) == config_digest(settings)
    for override in ("seed=1", "constraints.harm.limit=0.04", "ppo.steps=89"):
        assert config_digest(load_settings("quickstart", [override])) != config_digest(settings)


def test_the_code_that_counts_is_what_the_stages_run_and_the_studies_read():
    counted = reached_code(FIGURES).modules
    deep = {
        "cluster.inputs.sandbox_prompts",
        "cluster.experiments.studies.figures",
        "learner.algorithms.losses",
        "learner.algorithms.estimators.rvpo",
        "learner.engine.transport.gloo",
        "actors.crowd.gold",
        "actors.generation.weight_receiver",
    }
    assert deep <= counted
    assert not any(module.startswith(("serving", "configs", "cluster.commands")) for module in counted)


def test_seeds_come_one_after_the_other_and_the_search_is_on_the_first():
    plan = make_plan(Scope(), {})
    first = [cell.arm for cell in plan.cells if cell.seed == 0]
    assert first == list(preset_settings(TABLE).arms)
    assert [cell.seed for cell in plan.cells] == [0] * 17 + [1] * 10 + [2] * 10
    assert plan.undecided == 2, "the best weight still has to run on two seeds"


def test_the_best_weight_runs_on_the_other_seeds_once_it_is_known():
    plan = make_plan(Scope(), of(*seven(best="fixed_3")))
    assert plan.undecided == 0
    assert [cell for cell in plan.cells if cell.seed and cell.is_fixed] == [
        Cell(TABLE, "fixed_3", 1),
        Cell(TABLE, "fixed_3", 2),
    ]


def test_the_full_grid_has_every_weight_and_every_limit_on_three_seeds():
    plan = make_plan(Scope(full=True), {})
    assert len(plan.cells) == len(set(plan.cells)) == 3 * (17 + 5) and plan.undecided == 0


def test_named_arms_and_seeds_are_run_as_asked():
    assert make_plan(Scope(arms=("gdpo", "fixed_6"), seeds=(1,)), {}) == Plan(
        (Cell(TABLE, "gdpo", 1), Cell(TABLE, "fixed_6", 1))
    )
    sweep = make_plan(Scope(table=False, sweep=True, arms=("limit_0_1",)), {})
    assert sweep.cells == (Cell(SWEEP, "limit_0_1", 0),)
    with pytest.raises(ConfigError, match="no arm 'gpdo' in results; did you mean 'gdpo'"):
        check_scope(Scope(arms=("gpdo",)))


def test_the_next_cell_is_the_first_without_a_fresh_row():
    plan = make_plan(Scope(), {})
    rows = of(made_up_row(BASELINE), made_up_row("papers_log_mean"))
    assert next_cell(plan, {}) == Cell(TABLE, BASELINE, 0)
    assert next_cell(plan, rows) == Cell(TABLE, "pid_rate", 0)
    assert next_cell(plan, set(plan.cells)) is None


def test_the_best_weight_is_the_most_helpful_certified_one():
    rows = [made_up_row(arm, helpful=1 + index / 10, feasible=index < 4) for index, arm in enumerate(FIXED)]
    assert best_fixed(rows) == BestFixed(FIXED[3], (0,), True)
    assert best_fixed(rows[:-1]) is None, "before all seven have run, nothing is chosen"


def test_with_no_certified_weight_the_least_harmful_is_best():
    rows = [
        made_up_row(arm, harm=0.5 - index / 20, feasible=False, helpful=3 - index) for index, arm in enumerate(FIXED)
    ]
    assert best_fixed(rows) == BestFixed(FIXED[-1], (0,), False)


def test_the_choice_looks_at_every_seed_that_has_all_seven():
    rows = [*seven(0, best="fixed_1"), *seven(1, best="fixed_2"), *seven(2, best="fixed_2")[:6]]
    rows = [
        replace(row, overall={**row.overall, "policy": 2.6}) if (row.arm, row.seed) == ("fixed_2", 1) else row
        for row in rows
    ]
    assert best_fixed(rows) == BestFixed("fixed_2", (0, 1), True)


def test_the_time_that_is_left_counts_shared_stages_once_per_seed():
    rows = of(made_up_row(BASELINE))  # 120 s shared, 240 s of its own
    plan = Plan(
        (Cell(TABLE, BASELINE, 0), Cell(TABLE, "pid_rate", 0), Cell(TABLE, BASELINE, 1), Cell(TABLE, "gdpo", 1))
    )
    assert seconds_left(plan, rows, rows) == pytest.approx(240 + 120 + 240 + 240)
    rows |= of(made_up_row("gdpo", seconds={"sft": 100.0, "preferences": 20.0, "ppo": 50.0, "total": 170.0}))
    assert seconds_left(plan, rows, rows) == pytest.approx(240 + 120 + 240 + 50)
    assert seconds_left(replace(plan, undecided=1), rows, rows) > seconds_left(plan, rows, rows)
    assert seconds_left(plan, {}, {}) is None


def test_a_sitting_searches_on_the_first_seed_and_goes_on_with_the_best_weight():
    ran: list[Cell] = []

    def run(cell: Cell) -> Row:
        ran.append(cell)
        return made_up_row(cell.arm, cell.seed, preset=cell.preset, helpful=2.2 if cell.arm == "fixed_6" else 1.5)

    assert fill(Scope(), of(made_up_row(BASELINE)), run, None, lambda _: None) == 38
    assert Cell(TABLE, BASELINE, 0) not in ran, "what is there is not run again"
    assert [cell.arm for cell in ran if cell.seed == 0 and cell.is_fixed] == FIXED
    assert [cell.arm for cell in ran if cell.seed > 0 and cell.is_fixed] == ["fixed_6", "fixed_6"]


def test_a_sitting_starts_nothing_new_when_its_time_is_over():
    said: list[str] = []
    times = iter([0.0, 0.0, 299.0, 301.0])
    done = fill(Scope(), {}, lambda cell: made_up_row(cell.arm, cell.seed), 5, said.append, clock=lambda: next(times))
    assert done == 2
    assert said[-1] == "5 minutes are over; the same command goes on with results-pid_rate-seed0"


def test_the_status_speaks_json(tmp_path: Path):
    keep(tmp_path / "results" / "rows", made_up_row(BASELINE, code=logic_digest()), made_up_row("gdpo"))
    done = CliRunner().invoke(results.app, ["status", "--docs", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    states = {(cell["arm"], cell["seed"]): cell["state"] for cell in found["cells"]}
    assert states[BASELINE, 0] == "fresh" and states["gdpo", 0] == "stale (code)" and states["dpo", 0] == "missing"
    assert (found["fresh"], found["stale"], found["missing"], found["undecided"]) == (1, 1, 42, 2)
    assert found["minutes_left"] > 0


def test_a_run_with_nothing_to_do_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    keep(tmp_path / "docs" / "results" / "rows", made_up_row("gdpo", code=logic_digest()))
    done = CliRunner().invoke(results.app, ["run", "--arms", "gdpo", "--seeds", "0"])
    assert done.exit_code == 0 and done.output == "1 of 1 rows are there and fresh, 0 stale, 0 missing\n"
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_wrong_seeds_are_refused():
    with pytest.raises(ConfigError, match="'x' is no seed"):
        results.scope_of(table=True, sweep=False, full=False, seeds="0,x")
