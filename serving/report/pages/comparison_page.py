"""The page of a comparison: its verdict, one table of arms, the plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from configs.layout import RunLayout
from serving.report.blocks import wording as labels
from serving.report.blocks.blocks import SHARES, Figure, Gallery, Note, Page, Picture, Row, Section, Table, cell_figure
from serving.report.blocks.charts import Scheme, picture
from serving.report.by_models.wording import set_title
from serving.report.pages.comparison import COMPARED, SPLITS, Comparison, ScoredColumn, Spread, compare_arms
from serving.report.run.page import write_page


def write_comparison(run_root: Path, baseline: str | None = None) -> Path:
    """Write the report of a run with arms over all that have finished; returns its path.

    Raises:
        DataError: no arm has finished, or the report cannot be written.
    """
    return write_page(comparison_page(compare_arms(run_root, baseline)), RunLayout(run_root).report)


def comparison_page(comparison: Comparison) -> Page:
    """Everything a comparison's page shows."""
    seeds = sorted({seed for arm in comparison.arms for seed in arm.seeds})
    over = f"mean over {len(seeds)} seed{'s' * (len(seeds) > 1)} ± standard deviation"
    judge = "score models of its own, which may differ between arms" if comparison.figures else "gold score"
    lead = (
        f"By the trained policy's {judge}: {over}; below it the difference from “{comparison.baseline}” "
        "on the same seeds with its 95 % Student t interval."
    )
    first, other_splits = comparison.splits[0], comparison.splits[1:]
    blocks: list[Any] = [_table(comparison, first)]
    if len(seeds) < 2:
        blocks.append(Note("One seed only: neither spread nor intervals can be given.", tone="warning"))
    blocks += [Note(f"Missing: {reason}", tone="missing") for reason in comparison.missing]
    sections = [Section("arms", "The arms", blocks, lead)]
    if not comparison.figures:
        sections.append(Section("plane", "The reward-cost plane", _planes(comparison)))
    if other_splits:
        title = "On the other sets of prompts" if comparison.figures else "On held-out tasks and forms"
        sections.append(Section("heldout", title, [_table(comparison, split, folded=True) for split in other_splits]))
    subtitle = f"{len(comparison.arms)} arms, seeds {', '.join(map(str, seeds))}, baseline “{comparison.baseline}”."
    return Page(
        title=f"Steelyard: {comparison.name}",
        verdict=comparison.verdict.replace(" %", "\u00a0%"),
        tone="open",
        subtitle=subtitle,
        tiles=(),
        sections=sections,
    )


def _table(comparison: Comparison, split: str, folded: bool = False) -> Table:
    rows = tuple(_row(comparison, index, split) for index in range(len(comparison.arms)))
    if comparison.figures:
        titles = [column.title for column in comparison.figures.values()]
        columns = (*titles, "Limits met by its cost models")
        return Table(f"{set_title(split)}: every arm", "Arm", columns, rows, folded=folded)
    columns = (*(labels.MEASURE_NAMES[measure] for measure in COMPARED), "Certified feasible", "Questions asked")
    return Table(f"{labels.SPLIT_NAMES[split]}: every arm", "Arm", columns, rows, folded=folded)


def _row(comparison: Comparison, index: int, split: str) -> Row:
    arm = comparison.arms[index]
    cells = [
        _figures(
            arm.measures.get(split, {}).get(measure),
            measure,
            f"arms.{index}.measures.{split}.{measure}",
            comparison.figures.get(measure),
        )
        for measure in comparison.compared
    ]
    cells.append((Figure("–" if arm.feasible is None else f"{arm.feasible} of {len(arm.seeds)}"),))
    if not comparison.figures:
        cells.append((Figure("–" if arm.questions is None else f"{arm.questions:,}"),))
    return Row(arm.name, tuple(cells), note=arm.setting)


def _figures(spread: Spread | None, measure: str, key: str, scored: ScoredColumn | None) -> tuple[Figure, ...]:
    if spread is None:
        return (Figure("–"),)
    share = measure in SHARES if scored is None else scored.share
    scale, digits, unit = (100, 1, " %") if share else (1, 2, "")
    around = "" if spread.spread is None else f"± {scale * spread.spread:.{digits}f}"
    mean = Figure(f"{scale * spread.mean:.{digits}f}{unit}", around, f"{key}.mean", spread.mean, len(spread.by_seed))
    if spread.difference is None or spread.difference["value"] is None:
        return (mean,)
    better = labels.BETTER.get(measure, 0) if scored is None else scored.better
    tone = labels.direction_mark(better, spread.difference)
    return mean, cell_figure(spread.difference, share=share, key=f"{key}.difference.value", signed=True, mark=tone)


def _planes(comparison: Comparison) -> list[Any]:
    pictures = [_plane(comparison, split) for split in SPLITS]
    planes = tuple(plane for plane in pictures if plane is not None)
    return [Gallery(planes)] if planes else [Note("Missing: no arm has both harm and helpfulness.", tone="missing")]


def _plane(comparison: Comparison, split: str) -> Picture | None:
    """Harm across, helpfulness up: a large dot per arm, small ones for its seeds."""
    ends: dict[str, tuple[Spread, Spread]] = {}
    for arm in comparison.arms:
        cells = arm.measures.get(split, {})
        if "harm_rate_harmful" in cells and "helpfulness_benign" in cells:
            ends[arm.name] = (cells["harm_rate_harmful"], cells["helpfulness_benign"])
    if not ends:
        return None

    def draw(axes: Axes, scheme: Scheme) -> None:
        markers = "osD^vP*X"
        for index, (name, (harm, help_)) in enumerate(ends.items()):
            colour, marker = scheme.series[index % len(scheme.series)], markers[index % len(markers)]
            seeds = [seed for seed in harm.by_seed if seed in help_.by_seed]
            axes.scatter(
                [100 * harm.by_seed[s] for s in seeds], [help_.by_seed[s] for s in seeds], s=9, color=colour, alpha=0.6
            )
            axes.plot(100 * harm.mean, help_.mean, marker, color=colour, markersize=7, linestyle="none", label=name)
        axes.set_xlabel("harm rate on harmful prompts, %")
        axes.set_ylabel("helpfulness on benign prompts")
        axes.set_xlim(-5, 105)
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.18), ncols=2)

    description = "; ".join(
        f"{name}: {100 * a.mean:.1f} % harm, helpfulness {b.mean:.2f}" for name, (a, b) in ends.items()
    )
    height = 2.9 + 0.2 * _legend_rows(len(ends))
    return picture(labels.SPLIT_NAMES[split], f"{description}.", draw, height=height)


def _legend_rows(count: int) -> int:
    """Rows of a legend with two columns."""
    return (count + 1) // 2
