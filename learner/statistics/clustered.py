"""Bounds of a share where several answers belong to one conversation and may be alike.

Conversations are independent, answers to one of them are not. So what counts is one number per conversation, its share of unsafe
answers, in [0, 1]: any bound of a bounded mean of independent values holds for it, however alike the answers are. Where every
conversation has one answer the number is 0 or 1 and the exact binomial bound holds. Otherwise betting decides
(`learner.statistics.betting`, Waudby-Smith & Ramdas 2023); no bound is chosen after a look at its value.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learner.statistics import betting, intervals
from learner.statistics.intervals import Interval, check_confidence

Method = Literal["clopper_pearson", "betting", "one_conversation"]


@dataclass(frozen=True)
class ClusteredShare:
    """A share, its two-sided interval and its deciding bound, all by conversation."""

    value: float
    """Mean over the conversations' shares."""
    low: float
    high: float
    upper_bound: float
    """One-sided, at the confidence that decides."""
    answers: int
    conversations: int
    method: Method


def cluster_means(values: ArrayLike, clusters: Sequence[Hashable]) -> NDArray[np.float64]:
    """Mean of the values ``[n]`` of each cluster ``[k]``, in the order in which clusters first come.

    Raises:
        ValueError: lengths differ, nothing is given, or a value is outside [0, 1].
    """
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if x.size != len(clusters):
        raise ValueError(f"{x.size} answers and {len(clusters)} conversations: give one conversation per answer")
    if not x.size or not np.isfinite(x).all() or x.min() < 0.0 or x.max() > 1.0:
        raise ValueError("a share needs values between 0 and 1, of one answer at least")
    places: dict[Hashable, int] = {}
    index = np.array([places.setdefault(cluster, len(places)) for cluster in clusters])
    return np.bincount(index, weights=x) / np.bincount(index)


def clustered_share(
    values: ArrayLike, clusters: Sequence[Hashable], *, confidence: float = 0.95, reported: float = 0.95
) -> ClusteredShare:
    """The share of unsafe answers with bounds that hold at any likeness of answers within a conversation.

    Args:
        values: ``[n]`` booleans, or probabilities in [0, 1].
        clusters: ``[n]``, the conversation (or task) of each answer; they are independent of one another.
        confidence: of the one-sided bound.
        reported: of the two-sided interval.

    Raises:
        ValueError: as `cluster_means`, or a confidence outside (0, 1).
    """
    check_confidence(confidence)
    check_confidence(reported)
    means = cluster_means(values, clusters)
    interval, upper_bound, method = _bounds(means, confidence, reported, repeated=means.size < len(clusters))
    return ClusteredShare(
        float(means.mean()), interval.low, interval.high, upper_bound, len(clusters), int(means.size), method
    )


def _bounds(
    means: NDArray[np.float64], confidence: float, reported: float, *, repeated: bool
) -> tuple[Interval, float, Method]:
    # By the design, not by how the answers came out: two bounds of which the data choose one would err twice as often.
    if not repeated and np.isin(means, (0.0, 1.0)).all():
        unsafe, k = int(means.sum()), int(means.size)
        interval = intervals.clopper_pearson(unsafe, k, reported)
        return interval, intervals.clopper_pearson_upper(unsafe, k, confidence), "clopper_pearson"
    if means.size < 2:  # one conversation says nothing of the others
        return Interval(float(means[0]), 0.0, 1.0, 1), 1.0, "one_conversation"
    return betting.mean(means, reported), betting.upper(means, confidence), "betting"
