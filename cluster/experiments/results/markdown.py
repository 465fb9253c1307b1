"""Tables of the results as Markdown. Pure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import groupby

from cluster.experiments.results.cells import BASELINE, SWEEP, TABLE, Cell
from cluster.experiments.results.plan import BestFixed
from cluster.experiments.results.rows import Row
from cluster.experiments.results.sweep import sweep_points
from cluster.experiments.results.table import (
    COMPARED,
    FIGURES,
    HARM,
    OVERALL,
    ArmRows,
    Figure,
    certified_rate,
    difference,
    interval_text,
    weight,
)
from cluster.run_folder.digests import short

Stale = Mapping[str, Sequence[str]]
"""Reasons by the name of a stale row's cell."""
NOT_RUN = "not run yet"


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table whose first `text_columns` columns are text and the others figures."""
    marks = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *lines)) + "\n"


def main_table(arms: Sequence[ArmRows]) -> str:
    """One line per arm: means over seeds with their standard deviation."""
    head = ["arm", "setting", "seeds", *(figure.heading for figure in FIGURES)]
    return markdown_table(head, [_arm_line(arm) for arm in arms], text_columns=3)


def _arm_line(arm: ArmRows) -> list[str]:
    title = f"**{arm.title}**" if arm.arm == BASELINE else arm.title
    if not arm.rows:
        return [title, "", NOT_RUN, *("–" for _ in FIGURES)]
    first = next(iter(arm.rows.values()))
    seeds = ", ".join(f"{seed}{' *stale*' if seed in arm.stale else ''}" for seed in sorted(arm.rows))
    return [title, setting_words(first), seeds, *(_arm_figure(arm, figure) for figure in FIGURES)]


def _arm_figure(arm: ArmRows, figure: Figure) -> str:
    text = arm.text(figure)
    if figure.heading == "certified":
        return f"{text} ({arm.feasible})"
    if figure.heading == "oracle gap closed" and any(row.overall["above_limit"] for row in arm.rows.values()):
        return f"{text} †"
    return text


def setting_words(row: Row) -> str:
    """Algorithm and constraints in words."""
    return f"`{row.algorithm}`; {row.setting}"


def differences_table(arms: Sequence[ArmRows]) -> str:
    """Every arm less the baseline, paired by seed."""
    baseline = next((arm for arm in arms if arm.arm == BASELINE), None)
    if baseline is None or not baseline.rows:
        return f"`{BASELINE}` has not run yet.\n"
    lines = []
    for arm in arms:
        common = sorted(set(arm.rows) & set(baseline.rows))
        if arm is baseline or not common:
            continue
        figures = [interval_text(difference(arm, baseline, figure), figure) for figure in COMPARED]
        lines.append([arm.title, ", ".join(map(str, common)), *figures])
    if not lines:
        return "No other arm has run on a seed of the baseline yet.\n"
    return markdown_table(["arm", "seeds", *(figure.heading for figure in COMPARED)], lines, text_columns=2)


def fixed_table(rows: Sequence[Row], stale: Stale, best: BestFixed | None) -> str:
    """The search over weights, run by run."""
    fixed_rows = sorted((row for row in rows if row.cell.is_fixed), key=lambda row: (row.seed, weight(row.arm)))
    if not fixed_rows:
        return "None has run yet.\n"
    certified = Figure("certified", certified_rate, percent=True)
    lines = [
        [
            f"{'**' if best and row.arm == best.arm else ''}{weight(row.arm):g}{'**' if best and row.arm == best.arm else ''}",
            f"{row.seed}{_mark(row, stale)}",
            "yes" if row.feasible else "no",
            *(figure.text(figure.read(row)) for figure in (certified, HARM, OVERALL)),
        ]
        for row in fixed_rows
    ]
    return markdown_table(["λ", "seed", "feasible", "certified", HARM.heading, OVERALL.heading], lines, text_columns=3)


def sweep_table(rows: Sequence[Row], stale: Stale) -> str:
    """The limits next to what was measured."""
    by_place = {(float(row.certified["limit"]), row.seed): row for row in rows if row.preset == SWEEP and row.certified}
    lines = []
    for point in sweep_points(rows):
        interval = _share(point.value, point.low, point.high)
        multiplier = "–" if point.multiplier is None else f"{point.multiplier:.2f}"
        seed = f"{point.seed}{_mark(by_place[point.limit, point.seed], stale)}"
        loop = "–" if point.loop is None else _share(point.loop.value, point.loop.low, point.loop.high)
        measured = "–" if point.measure is None else f"{100 * point.measure:.1f} %"
        place = [f"{100 * point.limit:g} %", seed, measured, loop, interval, point.where]
        lines.append([*place, multiplier, f"{point.helpfulness:.2f}"])
    if not lines:
        return ""
    heads = ["limit", "seed", "J, second half", "gold, second half", "last policy", "its interval is", "λ at the end"]
    return markdown_table([*heads, OVERALL.heading], lines)


def _share(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % [{100 * max(low, 0.0):.1f}, {100 * high:.1f}]"


def sqrt_kl_table(rows: Sequence[Row], stale: Stale) -> str:
    """How straight reward rises with sqrt(KL), run by run."""
    fitted_rows = sorted((row for row in rows if row.sqrt_kl), key=lambda row: (row.preset != TABLE, row.arm, row.seed))
    lines = [
        [
            row.arm,
            f"{row.seed}{_mark(row, stale)}",
            *(f"{row.sqrt_kl[name]:.2f}" for name in ("intercept", "slope", "r_squared")),
        ]
        for row in fitted_rows
        if row.sqrt_kl
    ]
    return markdown_table(["arm", "seed", "a", "b", "R²"], lines, text_columns=2) if lines else "No fit is there yet."


def seed_table(rows: Mapping[Cell, Row], stale: Stale) -> str:
    """The rows of one algorithm: each seed, and below several their mean."""
    lines = []
    ordered = sorted(rows.values(), key=lambda row: row.cell)
    for arm, group in groupby(ordered, key=lambda row: row.arm):
        rows_of_arm = list(group)
        for row in rows_of_arm:
            figures = [figure.text(figure.read(row)) for figure in FIGURES]
            lines.append([arm, f"{row.seed}{_mark(row, stale)}", row.verdict, *figures])
        if len(rows_of_arm) > 1:
            arm_rows = ArmRows(arm, arm, {row.seed: row for row in rows_of_arm})
            lines.append([f"**{arm}**", "mean ± sd", f"{arm_rows.feasible} feasible", *map(arm_rows.text, FIGURES)])
    return markdown_table(
        ["arm", "seed", "certificate", *(figure.heading for figure in FIGURES)], lines, text_columns=3
    )


def details_table(rows: Sequence[Row], stale: Stale) -> str:
    """What made each row, folded: command, commit, digests."""
    if not rows:
        return "There is none yet.\n"
    order = {TABLE: "", SWEEP: " "}  # before every other name
    lines = [
        [
            f"[{row.cell.name}](results/rows/{row.cell.name}.json){_mark(row, stale)}",
            row.verdict,
            f"`{short(row.config_digest)}`",
            f"`{short(row.code_digest)}`",
            f"`{_short_commit(row.commit)}`",
            row.date,
            f"<code>{html.escape(row.command).replace('|', '&#124;')}</code>",
        ]
        for row in sorted(rows, key=lambda row: (order.get(row.preset, row.preset), row.seed, row.arm))
    ]
    head = ["row", "certificate", "configuration", "code", "commit", "made", "command"]
    table = markdown_table(head, lines, text_columns=len(head))
    return f"<details><summary>Command, commit and digests of {len(lines)} rows</summary>\n\n{table}\n</details>\n"


def _mark(row: Row, stale: Stale) -> str:
    reasons = stale.get(row.cell.name)
    return f" *stale: {', '.join(reasons)}*" if reasons else ""


def _short_commit(commit: str) -> str:
    name, _, dirty = commit.partition("+")
    return short(name) + (f"+{dirty}" if dirty else "")
