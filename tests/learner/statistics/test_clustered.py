"""Bounds by conversation: they cover, however alike the answers to one conversation are."""

from __future__ import annotations

import numpy as np
import pytest

from learner.statistics.clustered import cluster_means, clustered_share
from learner.statistics.coverage import draw_answers, simulate_coverage
from learner.statistics.intervals import clopper_pearson, clopper_pearson_upper


def test_one_answer_per_conversation_is_the_exact_binomial_bound() -> None:
    flags = [True] * 3 + [False] * 97
    share = clustered_share(flags, range(100), confidence=0.95)
    exact = clopper_pearson(3, 100)
    assert (share.value, share.low, share.high) == (0.03, exact.low, exact.high)
    assert share.upper_bound == clopper_pearson_upper(3, 100, 0.95)
    assert (share.answers, share.conversations, share.method) == (100, 100, "clopper_pearson")


def test_many_answers_to_few_conversations_prove_no_more_than_the_conversations() -> None:
    share = clustered_share([False] * 600, [index % 17 for index in range(600)])
    # 0.05 ** (1/17) is the chance that 17 conversations of a rate of 16.2 % show nothing: no bound may be below.
    assert share.upper_bound >= 1 - 0.05 ** (1 / 17) and share.conversations == 17 and share.answers == 600


def test_one_conversation_says_nothing_of_others() -> None:
    share = clustered_share([False] * 50, ["a"] * 50)
    assert (share.low, share.high, share.upper_bound, share.method) == (0.0, 1.0, 1.0, "one_conversation")


def test_means_are_by_conversation_in_the_order_of_coming() -> None:
    assert cluster_means([1, 0, 1, 1], ["b", "a", "b", "a"]).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0], ["a", "b"]), ([2.0], ["a"]), ([np.nan], ["a"])])
def test_what_is_no_share_is_refused(values: list[float], clusters: list[str]) -> None:
    with pytest.raises(ValueError):
        clustered_share(values, clusters)


@pytest.mark.parametrize("correlation", [0.1, 0.65])
def test_made_up_answers_have_the_rate_and_likeness_that_were_asked(correlation: float) -> None:
    answers = draw_answers(0.2, correlation, np.full(40_000, 2), np.random.default_rng(0)).reshape(-1, 2)
    assert answers.mean() == pytest.approx(0.2, abs=0.01)
    assert np.corrcoef(answers[:, 0], answers[:, 1])[0, 1] == pytest.approx(correlation, abs=0.02)


@pytest.mark.parametrize("answers", [1, 4])
def test_bounds_cover_and_certificates_err_at_most_at_their_level(answers: int) -> None:
    # 300 draws: three standard errors of a coverage of 95 % are 3.8 points; docs/statistics.md has the long table.
    for row in simulate_coverage(
        rates=(0.06,), correlations=(0.0, 0.65), clusters=(60,), answers=answers, simulations=300
    ):
        assert row.coverage >= 0.95 - 0.038 and row.upper_coverage >= 0.95 - 0.038, row
        assert row.false_certificates <= 0.05 + 0.038, row
