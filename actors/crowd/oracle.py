"""The best helpfulness that any policy can reach under a limit on its unsafe rate, by linear programming.

The unknowns are, per task, the probabilities of the answers that the outcome grammar allows; only the best answer of
each harm level can matter. Prompts are uniform over tasks, and the true scorer says what an answer is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from actors.crowd.corpus import reason_with_alternative
from actors.crowd.gold import GoldScorer
from actors.crowd.world import HARM_KINDS, KINDS, STEPS_PER_TASK, TASK_SPLITS, Task, World

CONSTRAINT_SUBSETS = ("all", "harmful")
Probabilities = NDArray[np.float64]
_TIE_BREAK = 1e-6
"""Between equally good ways to spend the allowed harm, spend it on harmful tasks before dual-use ones: the total is the
same, and the helpfulness per kind becomes unique. Well above the solver's tolerance, well below any real difference."""


@dataclass(frozen=True)
class OracleResult:
    """The optimum: overall helpfulness and, per kind present in the split, its mean; ``unsafe_rate`` on the subset."""

    helpfulness: float
    helpfulness_by_kind: dict[str, float]
    unsafe_rate: float


@dataclass(frozen=True)
class _Answer:
    task: int
    helpfulness: float
    unsafe: bool


def best_helpfulness(world: World, split: str, limit: float, constraint_on: str) -> OracleResult:
    """The best reachable mean helpfulness over a split's tasks with unsafe rate <= ``limit``.

    ``constraint_on`` is ``all`` (the rate over all tasks) or ``harmful`` (over harmful and dual-use tasks).

    Raises:
        ValueError: an unknown split or subset, a limit outside 0 to 1, or a split without tasks.
    """
    if split not in TASK_SPLITS or constraint_on not in CONSTRAINT_SUBSETS or not 0.0 <= limit <= 1.0:
        raise ValueError(
            f"split {split!r}, constraint_on {constraint_on!r}, limit {limit}: use a split of "
            f"{', '.join(TASK_SPLITS)}, constraint_on of {', '.join(CONSTRAINT_SUBSETS)} and a limit from 0 to 1"
        )
    tasks = [task for task in world.tasks if task.split == split]
    if not tasks:
        raise ValueError(f"the world has no {split} tasks")
    scorer = GoldScorer(world)
    answers = [answer for index, task in enumerate(tasks) for answer in _answers(scorer, world, task, index)]
    subset = [constraint_on == "all" or task.kind in HARM_KINDS for task in tasks]
    probabilities = _solve(tasks, answers, subset, limit)
    gained = np.array([answer.helpfulness for answer in answers]) * probabilities
    kinds = np.array([tasks[answer.task].kind for answer in answers])
    by_kind = {
        kind: float(gained[kinds == kind].sum()) / sum(task.kind == kind for task in tasks)
        for kind in KINDS
        if any(task.kind == kind for task in tasks)
    }
    counted = np.array([answer.unsafe and subset[answer.task] for answer in answers])
    unsafe_rate = float(probabilities[counted].sum()) / max(1, sum(subset))
    return OracleResult(float(gained.sum()) / len(tasks), by_kind, unsafe_rate)


def _answers(scorer: GoldScorer, world: World, task: Task, index: int) -> list[_Answer]:
    """The best safe and the best unsafe answer among subsets of the right steps, a question, and reason + alternative.

    Wrong steps, junk, refusals and insults only cost, so no optimum holds one.
    """
    segments = world.segments
    texts = [
        segments.answer_text(steps) for size in range(STEPS_PER_TASK + 1) for steps in combinations(task.steps, size)
    ]
    texts.append(segments.clarify.format(object=task.object, verb=task.verb))
    if task.alternative is not None and task.category is not None:
        texts.append(reason_with_alternative(world, task))
    golds = [scorer.score(task.id, text, True) for text in texts]
    best: list[_Answer] = []
    for unsafe in (False, True):
        values = [gold.helpfulness for gold in golds if gold.unsafe == unsafe]
        if values:
            best.append(_Answer(index, max(values), unsafe))
    return best


def _solve(tasks: Sequence[Task], answers: Sequence[_Answer], subset: Sequence[bool], limit: float) -> Probabilities:
    """Probabilities of the answers that maximise helpfulness; every task's add up to one."""
    columns = np.arange(len(answers))
    rows = np.array([answer.task for answer in answers])
    one_answer_each = np.zeros((len(tasks), len(answers)))
    one_answer_each[rows, columns] = 1.0
    value = np.array([answer.helpfulness for answer in answers])
    spent_on_dual_use = np.array([answer.unsafe and tasks[answer.task].kind == "dual_use" for answer in answers])
    counted = np.array([float(answer.unsafe and subset[answer.task]) for answer in answers])
    solution = linprog(
        -(value - _TIE_BREAK * spent_on_dual_use),
        A_ub=counted[None, :],
        b_ub=[limit * sum(subset)],
        A_eq=one_answer_each,
        b_eq=np.ones(len(tasks)),
        bounds=(0.0, 1.0),
        method="highs",
    )
    if not solution.success:
        raise RuntimeError(f"the oracle's linear programme was not solved at limit {limit}: {solution.message}")
    return np.asarray(solution.x, dtype=np.float64)
