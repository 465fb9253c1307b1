"""Ratings, win rates and tests against published worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from learner.statistics.elo import MEAN, POINTS_PER_NAT, RIDGE, Separated, elo, expected_score, strengths
from learner.statistics.intervals import wilson
from learner.statistics.multiple import adjusted
from learner.statistics.paired import mean_p_value, share_difference, share_p_value
from learner.statistics.win_rate import order_effect, points_of, win_rate

TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
# American League East, 1987: wins of the row over the column (Agresti, Categorical Data Analysis, 2nd ed., table 10.10).
BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ],
    dtype=float,
)
# Log abilities with Baltimore at 0, as the package BradleyTerry2 prints them for these data (Agresti's 1.58 … 0.68).
ABILITIES = (1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0.0)


def test_bradley_terry_gives_the_published_abilities_of_the_baseball_teams() -> None:
    found = strengths(BASEBALL)
    assert found - found[-1] == pytest.approx(ABILITIES, abs=1e-4)


def test_elo_ratings_are_those_abilities_on_the_scale_of_400_points() -> None:
    ladder = elo(TEAMS, BASEBALL[None], anchor="Baltimore", resamples=0)
    assert [rating.name for rating in ladder.ratings] == list(TEAMS)
    assert ladder.ratings[0].elo == pytest.approx(1000 + POINTS_PER_NAT * 1.5814, abs=0.05)
    by_mean = elo(TEAMS, BASEBALL[None], resamples=0)
    assert np.mean([rating.elo for rating in by_mean.ratings]) == pytest.approx(MEAN)


def test_four_hundred_points_are_ten_to_one() -> None:
    assert expected_score(1400, 1000) == pytest.approx(10 / 11)
    # Elo's own table: 200 points give 0.76.
    assert expected_score(1200, 1000) == pytest.approx(0.76, abs=0.001)
    ladder = elo(("a", "b"), np.array([[[0, 10], [1, 0]]]), anchor="b", resamples=0)
    assert ladder.ratings[0].elo == pytest.approx(1400)


def test_ties_count_half_and_a_tied_field_is_level() -> None:
    ladder = elo(("a", "b"), np.full((4, 2, 2), 0.5), resamples=50)
    assert [rating.elo for rating in ladder.ratings] == pytest.approx([1000, 1000])
    assert [rating.games for rating in ladder.ratings] == [4, 4]


def test_a_model_that_never_lost_has_no_rating_unless_a_ridge_is_asked_for() -> None:
    wins = np.array([[[0, 1, 1], [0, 0, 1], [0, 1, 0]]], dtype=float)
    with pytest.raises(Separated, match="ridge"):
        elo(("a", "b", "c"), wins)
    ladder = elo(("a", "b", "c"), wins, ridge=RIDGE, resamples=0)
    assert ladder.ratings[0].name == "a"
    assert ladder.ratings[0].elo > 1100
    with pytest.raises(Separated):  # two pairs that never met
        strengths([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])


def test_the_bootstrap_covers_the_true_ratings_nearly_as_often_as_it_says() -> None:
    rng, truth, covered = np.random.default_rng(1), np.array([80.0, 0.0, -80.0]), 0
    for trial in range(60):
        points = np.zeros((120, 3, 3))
        for i, j in ((0, 1), (0, 2), (1, 2)):
            won = rng.random(120) < expected_score(truth[i], truth[j])
            points[:, i, j], points[:, j, i] = won, ~won
        ladder = elo(("a", "b", "c"), points, resamples=200, seed=trial)
        covered += sum(
            r.low <= 1000 + truth["abc".index(r.name)] <= r.high  # type: ignore[operator]
            for r in ladder.ratings
        )
    assert 0.88 <= covered / 180 <= 0.99


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="n x n"):
        strengths([[0.0]])
    with pytest.raises(ValueError, match="not negative"):
        strengths([[0, -1], [1, 0]])
    with pytest.raises(ValueError, match="anchor"):
        elo(("a", "b"), np.ones((1, 2, 2)), anchor="c")


# --- win rates ---------------------------------------------------------------------------------------------------------


def test_points_are_the_mean_of_both_orders_and_a_verdict_that_follows_the_order_is_a_tie() -> None:
    assert (points_of("first", swapped=False) + points_of("second", swapped=True)) / 2 == 1.0
    assert (points_of("first", swapped=False) + points_of("first", swapped=True)) / 2 == 0.5
    assert points_of("tie", swapped=True) == 0.5


def test_a_win_rate_without_ties_is_wilsons_and_ties_count_half() -> None:
    # Newcombe 1998, table I: 81 of 263 has Wilson's interval 0.2553 to 0.3662.
    found = win_rate([1.0] * 81 + [0.0] * 182)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert found.low == pytest.approx(wilson(81, 263).low)
    tied = win_rate([1.0, 0.5, 0.5, 0.0])
    assert (tied.value, tied.wins, tied.ties, tied.losses, tied.p) == (0.5, 1, 2, 1, 1.0)
    # sign test: 8 wins of 8, two-sided 2 / 2^8
    assert win_rate([1.0] * 8).p == pytest.approx(2 / 256)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=40))
def test_the_other_models_win_rate_is_the_mirror_image(points: list[float]) -> None:
    own, other = win_rate(points, resamples=20), win_rate([1 - point for point in points], resamples=20)
    assert own.value == pytest.approx(1 - other.value)
    assert (own.wins, own.losses, own.p) == (other.losses, other.wins, other.p)
    assert own.low == pytest.approx(1 - other.high, abs=1e-9)


def test_a_judge_who_always_takes_the_first_is_seen_through() -> None:
    found = order_effect([("first", "first")] * 20)
    assert found.first_preferred is not None
    assert found.consistent is not None
    assert (found.first_preferred.value, found.consistent.value) == (1.0, 0.0)
    fair = order_effect([("first", "second"), ("second", "first"), (None, "first"), ("tie", "tie")])
    assert fair.consistent is not None
    assert (fair.consistent.value, fair.consistent.n) == (1.0, 3)
    assert order_effect([(None, None)]).first_preferred is None


# --- pairs and many tests ----------------------------------------------------------------------------------------------


def test_paired_shares_give_the_prime_ministers_approval() -> None:
    # Agresti, Categorical Data Analysis, section 10.1: 794 approve twice, 150 before only, 86 after only, 570 never.
    before = [1] * 794 + [1] * 150 + [0] * 86 + [0] * 570
    after = [1] * 794 + [0] * 150 + [1] * 86 + [0] * 570
    found = share_difference(before, after)
    assert found.value == pytest.approx(-0.04)
    assert (found.low, found.high) == pytest.approx((-0.06, -0.02), abs=0.002)
    assert share_p_value(before, after) == pytest.approx(3.7e-5, rel=0.2)  # his z is -4.17: 3.1e-5


def test_nothing_changed_still_has_a_width() -> None:
    found = share_difference([0] * 30, [0] * 30)
    assert found.value == 0
    assert found.low < -0.01 < 0.01 < found.high
    assert share_p_value([0, 1], [0, 1]) == 1.0
    with pytest.raises(ValueError, match="0 or 1"):
        share_difference([0.5], [1])


def test_the_paired_t_test_gives_students_sleep_data() -> None:
    # Student 1908, extra sleep by two drugs: t = 4.0621 with 9 degrees of freedom, p = 0.00283.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert mean_p_value(first, second) == pytest.approx(0.002833, abs=1e-6)
    assert mean_p_value([0.0] * 4, [1.0] * 4) == pytest.approx(2 / 16)
    assert mean_p_value([1.0], [2.0]) is None


def test_adjusted_p_values_are_statsmodels():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 100):
        p = [float(value) for value in np.round(rng.beta(0.3, 1.0, size), 2)]  # with ties
        for method, name in (("holm", "holm"), ("benjamini_hochberg", "fdr_bh")):
            assert adjusted(p, method) == pytest.approx(multipletests(p, method=name)[1].tolist())


def test_holm_and_benjamini_hochberg_adjust_as_published() -> None:
    # Holm by hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, then 0.04 raised to the one before it.
    assert adjusted([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    # Benjamini and Hochberg 1995, section 4: of these 15 they reject four at 0.05.
    published = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
    assert sum(p <= 0.05 for p in adjusted(published, "benjamini_hochberg") if p is not None) == 4
    assert sum(p <= 0.05 for p in adjusted(published, "holm") if p is not None) == 3
    assert adjusted([None]) == [None]
    with pytest.raises(ValueError):
        adjusted([1.2])
