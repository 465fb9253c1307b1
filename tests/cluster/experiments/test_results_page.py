"""The results' page: figures over seeds, what is said of the multiplier, tables, pictures and markers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.experiments.results.cells import BASELINE, SWEEP
from cluster.experiments.results.page import fill_algorithm_pages, write_pages
from cluster.experiments.results.plan import BestFixed, Scope
from cluster.experiments.results.rows import Row
from cluster.experiments.results.status import Standing, standing
from cluster.experiments.results.sweep import sweep_points, sweep_sentence
from cluster.experiments.results.table import (
    FIGURES,
    HARM,
    OVERALL,
    ArmRows,
    difference,
    multiplier_verdict,
    table_arms,
)
from tests.cluster.made_up_rows import CODE, keep, made_up_row, seven


def arms_of(
    *rows: Row, best: BestFixed | None = None, stale: Mapping[str, tuple[str, ...]] | None = None
) -> list[ArmRows]:
    return table_arms(rows, stale or {}, best)


def test_an_arm_has_mean_spread_and_count_of_certified_seeds():
    rows = [made_up_row("gdpo", seed, helpful=value, feasible=seed < 2) for seed, value in enumerate((2.0, 2.2, 2.4))]
    (arm,) = (each for each in arms_of(*rows) if each.rows)
    assert arm.text(OVERALL) == "2.20 ± 0.20"  # sample standard deviation of 2.0, 2.2, 2.4
    assert arm.text(HARM) == "3.0 % ± 0.0" and arm.feasible == "2 of 3"
    minutes = next(figure for figure in FIGURES if figure.heading == "minutes")
    assert arm.mean(minutes) == pytest.approx(360 / 60), "the sum of the stages, without `total`"


def test_differences_are_paired_by_seed():
    ours = ArmRows("a", "a", {seed: made_up_row("gdpo", seed, helpful=1.0 + seed + 0.1) for seed in (0, 1, 2)})
    theirs = ArmRows("b", "b", {seed: made_up_row(BASELINE, seed, helpful=1.0 + seed) for seed in (0, 1)})
    found = difference(ours, theirs, OVERALL)
    assert found["n"] == 2 and found["value"] == pytest.approx(0.1)
    assert (found["low"], found["high"]) == pytest.approx((0.1, 0.1)), (
        "equal differences: the seeds' own spread is gone"
    )


def versus(help_moving: list[float], help_fixed: list[float], harm_moving: list[float], harm_fixed: list[float]) -> str:
    rows = [
        made_up_row(BASELINE, s, helpful=h, harm=u)
        for s, (h, u) in enumerate(zip(help_moving, harm_moving, strict=True))
    ]
    rows += [
        made_up_row("fixed_2", s, helpful=h, harm=u)
        for s, (h, u) in enumerate(zip(help_fixed, harm_fixed, strict=True))
    ]
    best = BestFixed("fixed_2", (0,), True)
    return multiplier_verdict(arms_of(*rows, best=best), best)


EQUAL = [0.03, 0.04, 0.02], [0.04, 0.03, 0.025]


def test_the_verdict_says_so_when_the_multiplier_beats_the_best_weight():
    said = versus([2.5, 2.6, 2.7], [2.0, 2.1, 2.21], *EQUAL)
    assert said.startswith("**The moving multiplier beats the best fixed one at equal harm.**")
    assert "λ = 2" in said and "2.60 ± 0.10" in said and "Why:" not in said


@pytest.mark.parametrize(
    ("fixed", "reason"),
    [([2.5, 2.7, 2.65], "the seeds show no difference"), ([3.0, 3.1, 3.21], "the fixed one is more helpful")],
)
def test_the_verdict_says_so_and_why_when_it_does_not(fixed: list[float], reason: str):
    said = versus([2.5, 2.6, 2.7], fixed, *EQUAL)
    assert said.startswith(f"**The moving multiplier does not beat the best fixed one at equal harm: {reason}.**")
    assert "Why:" in said and "it ended at 2.5 on average" in said and "figures of seed 0" in said


def test_the_verdict_does_not_call_unequal_harm_equal():
    said = versus([2.5, 2.6, 2.7], [2.0, 2.1, 2.21], [0.01, 0.012, 0.011], [0.1, 0.101, 0.102])
    assert said.startswith(
        "**The two are not at equal harm: the moving multiplier does less harm, and is more helpful.**"
    )


def test_the_verdict_waits_for_two_common_seeds_and_the_search():
    assert "Not yet said" in multiplier_verdict(arms_of(made_up_row(BASELINE)), None)
    best = BestFixed("fixed_2", (0,), True)
    said = multiplier_verdict(arms_of(made_up_row(BASELINE), made_up_row("fixed_2"), best=best), best)
    assert "1 seed in common" in said


def test_the_sweep_says_which_limits_were_landed_on():
    rows = [
        made_up_row("limit_0_05", preset=SWEEP, harm=0.045, limit=0.05),
        made_up_row("limit_0_01", preset=SWEEP, harm=0.03, limit=0.01),
        made_up_row("limit_0_2", preset=SWEEP, harm=0.15, limit=0.2),
        made_up_row(BASELINE),
    ]
    points = sweep_points(rows)
    assert [(point.limit, point.where) for point in points] == [
        (0.01, "above it"),
        (0.05, "on the limit"),
        (0.2, "below it"),
    ]
    assert "in 1 of 3 runs; not at 1 % (seed 0): above it, 20 % (seed 0): below it" in sweep_sentence(points)


def test_the_sweep_tells_where_each_loop_was_on_average():
    row = made_up_row("limit_0_05", preset=SWEEP, harm=0.045, limit=0.05)
    settling = [{"measure": 0.5, "gold_unsafe": 0.4}] * 4
    settled = [{"measure": 0.05 + shift, "gold_unsafe": 0.03 + shift} for shift in (-0.01, 0.01, -0.01, 0.01)]
    curve = [{"step": float(step), **figures} for step, figures in enumerate([*settling, *settled])]
    (point,) = sweep_points([replace(row, curve=curve)])
    assert (
        point.loop is not None and point.loop.value == pytest.approx(0.03) and point.loop.low < 0.03 < point.loop.high
    )
    assert point.measure == pytest.approx(0.05)
    assert "J is within 0.0 points of each limit" in sweep_sentence([point])
    assert "learned from within 2.0;" in sweep_sentence([point])


def standing_of(folder: Path) -> Standing:
    return standing(folder, Scope(sweep=True), CODE)


def test_the_page_shows_rows_marks_stale_ones_and_names_what_is_missing(tmp_path: Path):
    rows = keep(
        tmp_path / "results" / "rows",
        *(made_up_row(BASELINE, seed) for seed in (0, 1, 2)),
        made_up_row("papers_log_mean", harm=0.6, feasible=False),
        *seven(),
        replace(made_up_row("gdpo"), code_digest="0"),
        made_up_row("limit_0_05", preset=SWEEP),
    )
    written = write_pages(standing_of(rows), tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert written == [tmp_path / "results.md"]
    assert "12 of 44 rows are there and fresh, 1 stale" in text
    assert "| **projected_rate** | `ppo_lag`; harm: in words | 0, 1, 2 | 3.0 % ± 0.0 |" in text
    assert re.search(r"\| grpo_lag \|  \| not run yet \|", text)
    assert "| 0 *stale* |" in text and "*stale: code*" in text
    assert "best fixed of seven (λ = 2)" in text and "Chosen on seed 0: λ = 2, the most helpful" in text
    assert "† Above the limit" in text and "papers_log_mean (seed 0)" in text
    assert made_up_row(BASELINE).cell.command().replace("'", "&#x27;") in text
    for picture in re.findall(r"\]\((results/[^)]*)\)", text):
        assert (tmp_path / picture).exists(), picture
    svg = (tmp_path / "results" / "limit_sweep.svg").read_bytes()
    write_pages(standing_of(rows), tmp_path)
    assert (tmp_path / "results.md").read_text() == text and (
        tmp_path / "results" / "limit_sweep.svg"
    ).read_bytes() == svg


def test_fits_are_listed_and_curves_drawn_for_loops_alone(tmp_path: Path):
    fit = {"intercept": 0.25, "slope": 1.5, "r_squared": 0.875, "n": 90}
    rows = keep(
        tmp_path / "results" / "rows",
        replace(made_up_row("gdpo", 1), sqrt_kl=fit),
        replace(made_up_row("dpo"), curve=[]),
    )
    write_pages(standing_of(rows), tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "| gdpo | 1 | 0.25 | 1.50 | 0.88 |" in text
    assert [path.name for path in (tmp_path / "results").glob("*.svg")] == ["curves-gdpo.svg"]
    assert "curves-gdpo.svg" in text and "curves-dpo.svg" not in text


def test_every_table_of_the_page_has_as_many_cells_in_each_line(tmp_path: Path):
    rows = keep(
        tmp_path / "results" / "rows",
        made_up_row(BASELINE),
        made_up_row("dpo"),
        *seven(),
        made_up_row("limit_0_1", preset=SWEEP),
    )
    write_pages(standing_of(rows), tmp_path)
    lines = (tmp_path / "results.md").read_text().splitlines()
    for before, line in pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|"), line


def test_an_empty_folder_gives_a_page_that_says_what_is_to_come(tmp_path: Path):
    (page,) = write_pages(standing_of(tmp_path / "results" / "rows"), tmp_path)
    text = page.read_text()
    assert "0 of 44 rows are there and fresh" in text and "how long they take is not known yet" in text
    assert "Not yet said" in text and "No run of the sweep is there yet." in text


def test_algorithm_pages_get_their_rows_between_the_markers(tmp_path: Path):
    keep(
        tmp_path / "rows", *(made_up_row("gdpo", seed, helpful=2 + seed / 10) for seed in (0, 1)), made_up_row(BASELINE)
    )
    pages = tmp_path / "algorithms"
    pages.mkdir()
    marked = "# GDPO\n\n<!-- SANDBOX_RESULT -->\nold\n<!-- /SANDBOX_RESULT -->\n\nafter\n"
    for name in ("gdpo", "dpo"):
        (pages / f"{name}.md").write_text(marked)
    (pages / "ppo_lag.md").write_text("no markers\n")
    found = standing_of(tmp_path / "rows")
    assert [path.name for path in fill_algorithm_pages(list(found.rows.values()), found, pages)] == [
        "dpo.md",
        "gdpo.md",
    ]
    text = (pages / "gdpo.md").read_text()
    assert text.startswith("# GDPO\n\n<!-- SANDBOX_RESULT -->\n2 of 3 rows are there") and text.endswith(
        "-->\n\nafter\n"
    )
    assert (
        "| gdpo | 0 | feasible: in words |" in text and "mean ± sd | 2 of 2 feasible" in text and "2.05 ± 0.07" in text
    )
    assert BASELINE not in text and "old" not in text
    assert "0 of 3 rows are there" in (pages / "dpo.md").read_text()
    assert (pages / "ppo_lag.md").read_text() == "no markers\n"
