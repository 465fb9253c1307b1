"""Labels of pairs by any judge, in the form that the crowd's have: what a judge leaves open stays open and is not learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.crowd.annotators import PairLabel, Question, Vote
from actors.judging.judges.protocol import Judge, Pair
from actors.judging.responses import AXES, Axis, Comparison, Judgement, Response
from learner.statistics.win_rate import Verdict

SIDES = ("0", "1")
"""The two responses as a judge's models."""
_SAFETY: tuple[Question, Question] = ("safety_0", "safety_1")
_CHOICES: Mapping[Verdict, int | None] = {"first": 0, "second": 1, "tie": None}


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The two responses of a row of ``pairs.parquet``."""
    first, second = (_response(row, side) for side in (0, 1))
    return first, second


def differs(row: Mapping[str, Any]) -> bool:
    """Whether there is anything to compare."""
    return bool(row["response_0"] != row["response_1"])


def labels_of(rows: Sequence[Mapping[str, Any]], judge: Judge, guideline: str, *, orders: int = 2) -> list[PairLabel]:
    """One label per row of ``pairs.parquet``, in their order. Equal responses are not compared.

    Args:
        guideline: what the judge was told, for the record.
        orders: in how many orders the judge sees a pair.

    Raises:
        DataError, StoppedError: as the judge.
    """
    pairs = [pair_of(row) for row in rows]
    judgements = judge.label([response for pair in pairs for response in pair])
    by_answer = {(judgement.model, judgement.prompt_id): judgement for judgement in judgements}
    different = [pair for row, pair in zip(rows, pairs, strict=True) if differs(row)]
    compared = {
        (axis, comparison.prompt_id): comparison
        for axis in AXES
        for comparison in judge.compare(axis, different, by_answer)
    }
    return [
        _label(
            (by_answer[SIDES[0], row["pair_id"]], by_answer[SIDES[1], row["pair_id"]]),
            {axis: compared.get((axis, row["pair_id"])) for axis in AXES},
            guideline,
            orders,
        )
        for row in rows
    ]


def _response(row: Mapping[str, Any], side: int) -> Response:
    return Response(
        model=SIDES[side],
        set="pairs",
        prompt_id=row["pair_id"],
        source_id=row["pair_id"],
        category=row.get("category"),
        tags=tuple(row.get("tags") or ()),
        messages=tuple(dict(turn) for turn in row["messages"]),
        response=row[f"response_{side}"],
        finish_reason=row[f"finish_reason_{side}"],
        task_id=row.get("task_id"),
    )


def _label(
    sides: tuple[Judgement, Judgement], compared: Mapping[Axis, Comparison | None], guideline: str, orders: int
) -> PairLabel:
    votes = [*_safety_votes(sides), *(vote for axis in AXES for vote in _ranking_votes(axis, compared[axis]))]
    safe = tuple(None if side.unsafe is None else not side.unsafe for side in sides)
    # logical order: a response labelled safe ranks above one labelled unsafe, whatever the comparison says
    by_label = None if None in safe or safe[0] == safe[1] else (0 if safe[0] else 1)
    return PairLabel(
        pair_id=sides[0].prompt_id,
        better_response_id=_preferred(compared["helpfulness"]),
        safer_response_id=_preferred(compared["harmlessness"]) if by_label is None else by_label,
        is_response_0_safe=safe[0],
        is_response_1_safe=safe[1],
        response_0_categories=tuple(sorted(sides[0].harm_categories)),
        response_1_categories=tuple(sorted(sides[1].harm_categories)),
        votes=tuple(votes),
        questions_asked=len(sides) + orders * sum(comparison is not None for comparison in compared.values()),
        mode="decoupled",
        guideline_version=guideline,
    )


def _preferred(comparison: Comparison | None) -> int | None:
    """0 or 1 by the points of response 1; None for a tie, over both orders, and where the judge could not be read."""
    if comparison is None or comparison.points in (None, 0.5):
        return None
    return int((comparison.points or 0.0) > 0.5)


def _safety_votes(sides: tuple[Judgement, Judgement]) -> list[Vote]:
    return [
        Vote(side.judge, question, is_safe=not side.unsafe, categories=tuple(sorted(side.harm_categories)))
        for question, side in zip(_SAFETY, sides, strict=True)
        if side.unsafe is not None
    ]


def _ranking_votes(axis: Axis, comparison: Comparison | None) -> list[Vote]:
    """One per order of showing, so that the agreement of a judge with itself, turned round, is measured like people's."""
    if comparison is None:
        return []
    votes = []
    for order, verdict in enumerate(comparison.verdicts):
        choice = None if verdict is None else _CHOICES[verdict]
        if choice is not None:
            votes.append(
                Vote(f"{comparison.judge}, shown {'turned' if order else 'straight'}", axis, choice=choice ^ order)
            )
    return votes
