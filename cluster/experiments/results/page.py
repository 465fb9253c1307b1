"""docs/results.md, its pictures, and the rows on the pages of docs/algorithms: all written from the row files alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.experiments.results.cells import BASELINE, TABLE, Cell
from cluster.experiments.results.markdown import (
    details_table,
    differences_table,
    fixed_table,
    main_table,
    seed_table,
    sqrt_kl_table,
    sweep_table,
)
from cluster.experiments.results.pictures import curve_picture, sweep_picture
from cluster.experiments.results.plan import BestFixed, best_fixed
from cluster.experiments.results.rows import Row
from cluster.experiments.results.status import Standing
from cluster.experiments.results.sweep import sweep_points, sweep_sentence
from cluster.experiments.results.table import ArmRows, multiplier_verdict, table_arms, weight
from cluster.experiments.studies.page import studies_part
from cluster.experiments.studies.standing import StudyStanding

MARKED = re.compile(r"<!-- SANDBOX_RESULT -->.*?<!-- /SANDBOX_RESULT -->", re.DOTALL)
_INTRODUCTION = """# Results

Written by `steelyard results write` from the rows in [results/rows](results/rows); nothing here is typed by hand. `steelyard
results run` fills in what is missing, over as many sittings as it takes.

All figures are by the sandbox's gold score, on seen tasks and forms: harm and refusals are shares of answers, helpfulness is
a mean. `certified` is the share of unsafe answers to the certificate's own prompts of the constraint (all prompts for the
papers' setting), and in how many seeds its upper bound is at or under the limit. Overall helpfulness weighs the kinds of
request by their numbers of tasks. The oracle is the best policy that keeps the limit on harmful and dual-use requests,
found by linear programming; the share of its gap is (policy - SFT) / (oracle - SFT). ± is the standard deviation over seeds.
"""


def write_pages(standing: Standing, docs: Path, studies: Sequence[StudyStanding] = ()) -> list[Path]:
    """Write the page, its pictures and the marked parts of the algorithms' pages; returns what was written.

    Args:
        studies: each claim with what is known of it; none leaves their part out.
    """
    rows = list(standing.rows.values())
    best = best_fixed(list(standing.fresh.values())) or best_fixed(rows)
    arms = table_arms(rows, standing.stale, best)
    pictures = docs / "results"
    drawn = [
        arm for arm in arms if curve_picture(arm.title, list(arm.rows.values()), pictures / f"curves-{arm.arm}.svg")
    ]
    swept = sweep_picture(sweep_points(rows), pictures / "limit_sweep.svg")
    page = docs / "results.md"
    text = page_text(standing, arms, best, drawn, swept=swept, studies=studies)
    page.write_text(text, encoding="utf-8")
    return [page, *fill_algorithm_pages(rows, standing, docs / "algorithms")]


def page_text(
    standing: Standing,
    arms: Sequence[ArmRows],
    best: BestFixed | None,
    drawn: Sequence[ArmRows],
    *,
    swept: bool,
    studies: Sequence[StudyStanding] = (),
) -> str:
    """The whole page; without `studies` their part is left out."""
    rows, stale = list(standing.rows.values()), standing.stale
    every_row = {cell: row for study in studies for cell, row in study.rows.items()} | dict(standing.rows)
    reasons = {name: why for study in studies for name, why in study.stale.items()} | dict(stale)
    points = sweep_points(rows)
    curves = [f"![{arm.title}](results/curves-{arm.arm}.svg)" for arm in drawn]
    parts = [
        _INTRODUCTION,
        f"{standing.sentence()}.{_stale_note(stale)}",
        "## The arms",
        main_table(arms),
        _above_limit_note(arms),
        "## Does the moving multiplier pay?",
        multiplier_verdict(arms, best),
        "## Differences by seed",
        f"Each arm less `{BASELINE}` on the same seeds, with a 95 % Student t interval; `unsafe` is over harmful and dual-use "
        "requests together.",
        differences_table(arms),
        "## Seven weights that never move",
        _choice(best),
        fixed_table(rows, stale, best),
        "## The limit sweep",
        "The same run with five limits. *Second half*: the constraint's own samples over the second half of the loop, J as the "
        "multiplier saw it and the truth (gold). *Last policy*: gold share of unsafe answers to the certificate's prompts.",
        "![Measured harm rate against the limit](results/limit_sweep.svg)" if swept else "",
        sweep_table(rows, stale),
        sweep_sentence(points),
        "## Gold next to what the models say",
        "Over training, on the very samples that were learned from. Dashed is what the reward and cost models say, dotted is "
        "J as the multiplier saw it, where J is a rate; solid is the truth. A line per seed. The reward model's unit is its own.",
        *(curves or ["No run with a loop is there yet."]),
        "Reward against the distance from SFT over each loop, reward = a + b·sqrt(KL) (Bai et al. 2022, section 4.3):",
        sqrt_kl_table(rows, stale),
        studies_part(studies) if studies else "",
        "## Every row",
        details_table(list(every_row.values()), reasons),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _stale_note(stale: Mapping[str, object]) -> str:
    if not stale:
        return ""
    return (
        " A row marked *stale* was made by other code, another configuration or another world than this tree holds; "
        "`steelyard results run` makes it again."
    )


def _above_limit_note(arms: Sequence[ArmRows]) -> str:
    above = [
        f"{arm.title} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
        for arm in arms
        if (seeds := [seed for seed, row in sorted(arm.rows.items()) if row.overall["above_limit"]])
    ]
    if not above:
        return ""
    return (
        "† Above the limit on harmful and dual-use requests of the seen split, and so compared with the oracle at its own "
        f"unsafe rate, which is a more helpful one: {'; '.join(above)}."
    )


def _choice(best: BestFixed | None) -> str:
    if best is None:
        return "The best is chosen when all seven have run on one seed."
    seeds = f"seed{'s' * (len(best.seeds) > 1)} {', '.join(map(str, best.seeds))}"
    why = (
        "the most helpful of those that are certified there"
        if best.feasible
        else "none is certified there, so it is the one with the least harm on the certificate's prompts"
    )
    return f"Chosen on {seeds}: λ = {weight(best.arm):g}, {why}."


# --- the algorithms' pages --------------------------------------------------------------------------------------------


def fill_algorithm_pages(rows: Sequence[Row], standing: Standing, folder: Path) -> list[Path]:
    """Put the rows of each algorithm between the markers of its page; a page without markers is left alone."""
    written = []
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if not MARKED.search(text):
            continue
        content = algorithm_result(page.stem, rows, standing)
        filled = f"<!-- SANDBOX_RESULT -->\n{content}\n<!-- /SANDBOX_RESULT -->"
        page.write_text(MARKED.sub(lambda _, filled=filled: filled, text), encoding="utf-8")  # type: ignore[misc]
        written.append(page)
    return written


def algorithm_result(algorithm: str, rows: Sequence[Row], standing: Standing) -> str:
    """How many rows of the table an algorithm has, and what they say; the weights of the search are left to the page."""
    planned = [
        cell
        for cell in standing.plan.cells
        if cell.preset == TABLE and not cell.is_fixed and cell.settings().algorithm == algorithm
    ]
    if not planned:
        return "No arm of the results table has this algorithm."
    rows_there: dict[Cell, Row] = {row.cell: row for row in rows if row.cell in planned}
    counted = f"{len(rows_there)} of {len(planned)} rows are there; [docs/results.md](../results.md) says what the columns mean."
    return counted if not rows_there else f"{counted}\n\n{seed_table(rows_there, standing.stale)}"
