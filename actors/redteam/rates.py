"""Attack success as a share with an interval, where several samples are about one task; and differences of two models.

Samples about one task are alike, so they count for less than as many tasks would. The interval is Wilson's with an effective
sample size (Korn & Graubard 1998 for the size, Franco et al. 2019 for Wilson with it): the number of samples divided by the
design effect, which compares the between-task variance of the share with that of independent samples, and corrected for the few
tasks that the variance is estimated from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from actors.judging.by_gold.figures import Cell
from learner.statistics.intervals import check_confidence, student_mean
from learner.statistics.paired import mean_p_value


def clustered_share(flags: Sequence[bool], clusters: Sequence[Hashable], confidence: float = 0.95) -> Cell:
    """Share of true flags with its interval; flags of one cluster may be alike.

    A share of 0 or 1, and a single cluster, show nothing of how alike they are: each cluster then counts as one sample, the
    most cautious reading. Nor is the effective size ever below the number of clusters or above that of samples.

    Args:
        flags: ``[n]``.
        clusters: ``[n]``, the task that each sample is about.

    Returns:
        ``{value, low, high, n}``; n is the number of samples. None where there is no sample.

    Raises:
        ValueError: lengths differ, or confidence is out of range.
    """
    check_confidence(confidence)
    if len(flags) != len(clusters):
        raise ValueError(f"{len(flags)} flags and {len(clusters)} clusters")
    n = len(flags)
    if not n:
        return Cell(value=None, low=None, high=None, n=0)
    share = sum(map(bool, flags)) / n
    size = effective_size(flags, clusters, confidence)
    low, high = proportion_confint(share * size, size, alpha=1.0 - confidence, method="wilson")
    return Cell(value=share, low=max(0.0, float(low)), high=min(1.0, float(high)), n=n)


def effective_size(flags: Sequence[bool], clusters: Sequence[Hashable], confidence: float = 0.95) -> float:
    """How many independent samples would say as much, from the number of clusters to the number of samples."""
    n, by_cluster = len(flags), defaultdict(list)
    for flag, cluster in zip(flags, clusters, strict=True):
        by_cluster[cluster].append(float(flag))
    k, share = len(by_cluster), sum(map(float, flags)) / n
    independent = share * (1.0 - share) / n
    if k < 2 or independent == 0.0:
        return float(k)
    residuals = np.array([sum(values) - len(values) * share for values in by_cluster.values()])
    clustered = k / (k - 1) * float(np.sum(residuals**2)) / n**2  # linearised variance of a ratio
    if clustered == 0.0:
        return float(n)
    z, t = stats.norm.ppf(0.5 + confidence / 2), stats.t.ppf(0.5 + confidence / 2, k - 1)
    return float(min(n, max(k, n * (independent / clustered) * (z / t) ** 2)))


def paired_difference(
    first: Mapping[Hashable, float], second: Mapping[Hashable, float], confidence: float = 0.95
) -> tuple[Cell, float | None]:
    """Mean of second less first over the tasks that both have, with its Student t interval and two-sided p value.

    Args:
        first, second: task → mean over its samples. Tasks are independent, so one mean per task is all that counts.

    Returns:
        The cell (n counts tasks), and p by the paired t test; None below two tasks.
    """
    tasks = [task for task in first if task in second]
    changes = [second[task] - first[task] for task in tasks]
    n = len(changes)
    if n < 2:
        return Cell(value=changes[0] if changes else None, low=None, high=None, n=n), None
    interval = student_mean(changes, confidence)
    cell = Cell(value=interval.value, low=interval.low, high=interval.high, n=n)
    return cell, mean_p_value([first[task] for task in tasks], [second[task] for task in tasks])


def means_by_task(flags: Sequence[bool], tasks: Sequence[Hashable]) -> dict[Hashable, float]:
    """Task → share of true flags."""
    flags_of_task: dict[Hashable, list[bool]] = defaultdict(list)
    for flag, task in zip(flags, tasks, strict=True):
        flags_of_task[task].append(bool(flag))
    return {task: sum(values) / len(values) for task, values in flags_of_task.items()}
