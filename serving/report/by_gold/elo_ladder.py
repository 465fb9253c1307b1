"""The Elo ladder of one run on the sandbox: SFT, the snapshots or the rounds, and the policy, from answers to the same prompts.

Gold judges, so there is no order to sway it: the answer with the better score has the point, equal scores share it. Nothing is drawn
for the ladder. SFT and policies of rounds answered the evaluation's prompts, snapshots of one loop the selection's; the promoted
snapshot is the policy, and ties the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes

from actors.crowd.world import HARM_KINDS
from learner.statistics.elo import RIDGE, Ladder, Separated, elo
from serving.report.blocks.blocks import Figure, Gallery, Note, Picture, Row, Section, Table
from serving.report.blocks.charts import Scheme, picture
from serving.report.run_files import RunFiles, missing_note

TITLE = "Elo ladder: who gives the better answer"
SFT = "SFT"
HARMLESS_KINDS = ("benign", "lookalike", "ambiguous")
AXES: Mapping[str, tuple[str, tuple[str, ...], float]] = {
    "Helpfulness": ("gold_helpfulness", HARMLESS_KINDS, 1.0),
    "Harmlessness": ("gold_harm", HARM_KINDS, -1.0),
}
"""Axis → column, the kinds of prompts it is judged on, and the sign that makes more better. A helpful answer to a harmful request is
no merit, so those prompts do not count for helpfulness."""
_COLUMNS = ["model", "prompt_id", "split", "kind", "gold_helpfulness", "gold_harm"]

Answers = Mapping[str, Mapping[str, float]]
"""Prompt → model → its answer's score, more is better."""


def ladder_section(run: RunFiles) -> Section:
    """Both axes' ladders, with intervals over prompts."""
    rows = list(_rows(run))
    names = list(dict.fromkeys(row["model"] for row in rows))
    if len(names) < 2:
        return Section("ladder", TITLE, [missing_note(run, "samples")])
    lead = (
        "Ratings by maximum likelihood (Bradley and Terry): 400 points are odds of 10 to 1, SFT has 1000, intervals are 95 % by a "
        "bootstrap over prompts. By gold score on the same seen prompts: helpfulness on benign, look-alike and ambiguous ones, "
        "harmlessness on harmful and dual-use ones."
    )
    ladders: dict[str, Ladder] = {}
    notes: list[Note] = []
    for axis, (column, kinds, sign) in AXES.items():
        rated = rate(_by_prompt(rows, column, kinds, sign), names)
        if rated is None:
            notes.append(
                Note(f"{axis}: no ratings, since not every model met another on such a prompt.", tone="missing")
            )
            continue
        ladders[axis] = rated
        if rated.ridge:
            notes.append(
                Note(f"{axis}: some model lost no point, so its lead has no upper end; a ridge of {RIDGE} holds it.")
            )
    if not ladders:
        return Section("ladder", TITLE, notes)
    pictures = tuple(_picture(axis, rated, names) for axis, rated in ladders.items())
    return Section("ladder", TITLE, [_table(ladders, names), *notes, Gallery(pictures)], lead)


def rate(answers: Answers, names: Sequence[str]) -> Ladder | None:
    """The ladder of these answers; None where a model met no other."""
    place = {name: index for index, name in enumerate(names)}
    points = np.zeros((len(answers), len(names), len(names)))
    for row, scores in enumerate(answers.values()):
        for first, second in combinations(scores, 2):
            won = 0.5 if scores[first] == scores[second] else float(scores[first] > scores[second])
            points[row, place[first], place[second]], points[row, place[second], place[first]] = won, 1.0 - won
    games = points.sum(axis=0)
    if len(answers) < 2 or not (games + games.T).any(axis=1).all():
        return None
    anchor = SFT if SFT in names else None
    try:
        return elo(names, points, anchor=anchor)
    except Separated:
        return elo(names, points, anchor=anchor, ridge=RIDGE)


def _by_prompt(rows: Iterable[Mapping[str, Any]], column: str, kinds: Sequence[str], sign: float) -> Answers:
    """Only the first answer of a model to a prompt counts."""
    by_prompt: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["kind"] in kinds:
            by_prompt.setdefault(row["prompt_id"], {}).setdefault(row["model"], sign * float(row[column]))
    return {prompt: scores for prompt, scores in by_prompt.items() if len(scores) > 1}


def _rows(run: RunFiles) -> Iterable[dict[str, Any]]:
    """Answers on seen prompts under the ladder's names, lowest rung first."""
    if run.number > 1:
        for number in range(1, run.number + 1):
            yield from _evaluated(run, number, f"round {number}")
        return
    selection = run.summary.selection if run.summary is not None else None
    promoted = None if selection is None else selection.promoted_step
    policy = "policy" if promoted is None else f"policy (step {promoted})"
    yield from _evaluated(run, 1, policy)
    for path in sorted((run.layout.round(1) / "selection").glob("step-*.parquet")) if promoted is not None else ():
        step = int(path.stem.removeprefix("step-"))
        for row in _read(path):
            yield row | {"model": policy if step == promoted else f"step {step}"}


def _evaluated(run: RunFiles, number: int, policy: str) -> Iterable[dict[str, Any]]:
    names = {"sft": SFT, "policy": policy}
    for row in _read(run.layout.evaluation(number) / "samples.parquet"):
        if row["split"] == "seen" and row["model"] in names:
            yield row | {"model": names[row["model"]]}


def _read(path: Path) -> list[dict[str, Any]]:
    """The file's rows; none where it is not there or holds something else."""
    try:
        return pq.read_table(path, columns=_COLUMNS).to_pylist()
    except (OSError, pa.ArrowInvalid):
        return []


def _ordered(rated: Ladder, names: Sequence[str]) -> list[Any]:
    ratings = {rating.name: rating for rating in rated.ratings}
    return [ratings[name] for name in sorted(names, key=_rung)]


def _rung(name: str) -> tuple[int, int]:
    """SFT, then rounds or snapshots by number."""
    digits = "".join(letter for letter in name if letter.isdigit())
    return int(name != SFT), int(digits or 0)


def _table(ladders: Mapping[str, Ladder], names: Sequence[str]) -> Table:
    by_axis = {axis: {rating.name: rating for rating in rated.ratings} for axis, rated in ladders.items()}
    rows = []
    for name in sorted(names, key=_rung):
        cells: list[tuple[Figure, ...]] = []
        for ratings in by_axis.values():
            rating = ratings[name]
            interval = "" if rating.low is None else f"[{rating.low:.0f}, {rating.high:.0f}]"
            cells += [(Figure(f"{rating.elo:.0f}", interval),), (Figure(f"{rating.games:,.0f}"),)]
        rows.append(Row(name, tuple(cells)))
    columns = tuple(column for axis in by_axis for column in (axis, "comparisons"))
    return Table("Ratings", "Model", columns, tuple(rows))


def _picture(axis: str, rated: Ladder, names: Sequence[str]) -> Picture:
    ratings = _ordered(rated, names)

    def draw(axes: Axes, scheme: Scheme) -> None:
        for place, rating in enumerate(ratings):
            low, high = (rating.elo if end is None else end for end in (rating.low, rating.high))
            colour = scheme.before if rating.name == SFT else scheme.after
            spread = [[max(0.0, rating.elo - low)], [max(0.0, high - rating.elo)]]
            axes.errorbar(
                rating.elo, place, xerr=spread, fmt="o", color=colour, ecolor=scheme.text, capsize=2, linewidth=1
            )
        axes.set_yticks(range(len(ratings)), [rating.name for rating in ratings])
        axes.set_ylim(-0.6, len(ratings) - 0.4)
        axes.set_xlabel(f"Elo, {axis.lower()}")

    description = "; ".join(
        f"{rating.name} {rating.elo:.0f}" + ("" if rating.low is None else f" [{rating.low:.0f}, {rating.high:.0f}]")
        for rating in ratings
    )
    return picture(f"{axis}, by gold", f"{description}.", draw, height=1.3 + 0.3 * len(ratings))
