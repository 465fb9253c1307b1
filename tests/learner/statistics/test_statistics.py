"""Intervals, the certificate and calibration, against tables, other libraries and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from learner.statistics.calibration import expected_calibration_error, fit_platt, reliability_bins
from learner.statistics.certificate import certify, empirical_cvar, smallest_sample_size
from learner.statistics.intervals import (
    bootstrap,
    bootstrap_difference,
    clopper_pearson,
    clopper_pearson_upper,
    empirical_bernstein,
    empirical_bernstein_upper,
    paired_difference,
    student_mean,
    student_mean_upper,
    wilson,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_proportions_agree_with_scipy(count: tuple[int, int]) -> None:
    k, n = count
    # Expected numbers: scipy.stats.binomtest, another implementation.
    test = stats.binomtest(k, n)
    for ours, theirs in (
        (wilson, test.proportion_ci(0.95, method="wilson")),
        (clopper_pearson, test.proportion_ci(0.95, method="exact")),
    ):
        interval = ours(k, n)
        assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert interval.value == k / n and interval.n == n
    upper = stats.binomtest(k, n, alternative="less").proportion_ci(0.95, method="exact").high
    assert clopper_pearson_upper(k, n) == pytest.approx(upper, abs=1e-9)


def test_student_mean_agrees_with_scipy() -> None:
    x = [1.0, 4.0, 2.5, -1.0, 0.3]
    theirs = stats.ttest_1samp(x, 0.0)
    interval = student_mean(x)
    assert (interval.low, interval.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert student_mean_upper(x) == pytest.approx(
        stats.ttest_1samp(x, 0.0, alternative="less").confidence_interval(0.95).high
    )


def test_paired_difference_agrees_with_scipy() -> None:
    first, second = {1: 3.0, 2: 5.0, 3: 4.5}, {3: 2.0, 1: 1.0, 2: 4.0}
    theirs = stats.ttest_rel([3.0, 5.0, 4.5], [1.0, 4.0, 2.0]).confidence_interval(0.95)
    interval = paired_difference(first, second)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))
    with pytest.raises(ValueError, match="same seeds"):
        paired_difference(first, {1: 1.0, 2: 2.0})


def test_empirical_bernstein_by_hand() -> None:
    # n 100, fifty 0 and fifty 1: mean 0.5, variance 25/99, ln(2/0.05) = 3.6889 (Maurer & Pontil, theorem 4).
    x = np.repeat([0.0, 1.0], 50)
    log_term = math.log(40.0)
    expected = 0.5 + math.sqrt(2 * (25 / 99) * log_term / 100) + 7 * log_term / (3 * 99)
    assert empirical_bernstein_upper(x) == pytest.approx(expected)
    assert empirical_bernstein(x).high > expected  # two-sided leaves half the error above
    with pytest.raises(ValueError, match="must be in"):
        empirical_bernstein_upper([0.5, 1.5])


def test_bootstrap_is_near_the_normal_theory_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 1.0, 400), rng.normal(0.0, 1.0, 400)
    interval = bootstrap_difference(a, b, seed=1)
    # Expected half-width: 1.96 * sqrt(2/400) = 0.139 for unit variances.
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * math.sqrt(2 / 400), rel=0.15)
    assert interval.low < a.mean() - b.mean() < interval.high
    assert interval == bootstrap_difference(a, b, seed=1)
    whole = bootstrap(a, lambda x: np.median(x, axis=-1))
    assert whole.low < whole.value < whole.high


def test_smallest_sample_size_is_the_known_one_and_just_enough() -> None:
    assert smallest_sample_size(0.05, 0.95) == 59  # the "rule of three" made exact; ALGORITHMS.md
    for limit in (0.01, 0.05, 0.1, 0.5):
        n = smallest_sample_size(limit)
        assert certify([False] * n, limit, labels_source="gold").feasible
        assert n == 1 or not certify([False] * (n - 1), limit, labels_source="gold").feasible
    with pytest.raises(ValueError, match="rate of 0"):
        smallest_sample_size(0.0)


def labels(unsafe: int, n: int) -> list[bool]:
    return [True] * unsafe + [False] * (n - unsafe)


def test_verdicts_read_as_specified() -> None:
    # Bounds: Clopper-Pearson of 21/1000, 71/1000, 40/1000 (scipy's binomtest agrees, see above).
    assert certify(labels(21, 1000), 0.05, labels_source="gold").verdict() == "feasible: 2.1 % [1.3, 3.2] ≤ 5 %"
    assert certify(labels(71, 1000), 0.05, labels_source="gold").verdict() == "not feasible: 7.1 % [5.6, 8.9] > 5 %"
    undecided = certify(labels(45, 1000), 0.05, labels_source="gold")
    assert undecided.verdict().startswith("undecided: 4.5 % [3.3, 6.0] ≤ 5 %, but one-sided 95 % bound")
    assert not undecided.feasible
    # 0 of 59: the one-sided bound meets 5 % while the two-sided interval's end does not; the verdict names the bound.
    assert certify(labels(0, 59), 0.05, labels_source="gold").verdict() == (
        "feasible: 0.0 % [0.0, 6.1] ≤ 5 % (one-sided 95 % bound 4.95 %)"
    )


@given(counts, st.sampled_from([0.02, 0.05, 0.2]), st.integers(1, 5))
def test_feasible_means_the_exact_binomial_test_rejects_the_limit(
    count: tuple[int, int], limit: float, constraints: int
) -> None:
    certificate = certify(labels(*count), limit, labels_source="gold", constraints=constraints)
    # Expected: P(X <= k) at the limit is at most the error, divided by the number of constraints.
    tail = stats.binom.cdf(count[0], count[1], limit)
    if abs(tail - 0.05 / constraints) > 1e-9:
        assert certificate.feasible == (tail < 0.05 / constraints)
    assert certificate.feasible == (certificate.upper_bound <= limit)


def test_an_infeasible_policy_is_certified_no_more_often_than_stated() -> None:
    # True rate exactly at the limit; P(feasible) summed exactly over the binomial distribution.
    n, limit = 200, 0.05
    chance = sum(
        stats.binom.pmf(k, n, limit) for k in range(30) if certify(labels(k, n), limit, labels_source="gold").feasible
    )
    assert 0.0 < chance <= 0.05


def test_each_measure_uses_its_bound() -> None:
    rng = np.random.default_rng(2)
    costs = rng.normal(-1.0, 1.0, 300)
    mean = certify(costs, 0.0, labels_source="gold", measure="mean")
    assert mean.upper_bound == student_mean_upper(costs) and mean.feasible
    assert mean.verdict().startswith("feasible: -")
    assert certify(costs, 0.5, labels_source="gold", measure="rectified").value == np.maximum(costs, 0.0).mean()
    scores = rng.random(300)
    assert certify(scores, 0.6, labels_source="judge").upper_bound == empirical_bernstein_upper(scores)
    bounded = certify(np.clip(costs, -5, 5), 0.0, labels_source="gold", measure="mean", value_range=(-5.0, 5.0))
    assert bounded.upper_bound > mean.upper_bound  # no shape assumed, so wider
    cvar = certify(costs, 2.0, labels_source="gold", measure="cvar", alpha=0.1)
    # Expected: CVaR_0.1 of a normal is mu + sigma * pdf(z_0.9)/0.1 = -1 + 1.755.
    assert cvar.value == pytest.approx(0.755, abs=0.2) and cvar.feasible
    with pytest.raises(ValueError, match="unknown measure"):
        certify(costs, 0.0, labels_source="gold", measure="median")


def test_empirical_cvar_counts_the_edge_sample_in_part() -> None:
    # alpha 0.3 of 5 samples is 1.5 samples: (5 + 0.5*4)/1.5.
    assert empirical_cvar(np.array([1.0, 5.0, 2.0, 4.0, 3.0]), 0.3) == pytest.approx(7.0 / 1.5)


def test_platt_recovers_the_truth_it_was_sampled_from() -> None:
    rng = np.random.default_rng(0)
    costs = rng.normal(0.5, 2.0, 20_000)
    unsafe = rng.random(20_000) < 1.0 / (1.0 + np.exp(-(1.5 * costs - 0.8)))
    calibration = fit_platt(costs, unsafe)
    # Tolerance: about three standard errors (0.02) of a logistic regression at this n.
    assert (calibration.slope, calibration.intercept) == pytest.approx((1.5, -0.8), abs=0.08)
    assert expected_calibration_error(calibration.probability(costs), unsafe) < 0.02


@settings(max_examples=20)
@given(st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
def test_platt_does_not_depend_on_the_scores_unit(unit: float, shift: float) -> None:
    costs = np.array([-2.0, -1.0, -0.5, 0.2, 0.4, 1.0, 2.0, 3.0])
    unsafe = np.array([0, 0, 1, 0, 1, 0, 1, 1], dtype=bool)
    plain, moved = fit_platt(costs, unsafe), fit_platt(unit * costs + shift, unsafe)
    np.testing.assert_allclose(moved.probability(unit * costs + shift), plain.probability(costs), atol=1e-5)


def test_platt_stays_finite_where_a_threshold_separates_and_refuses_what_it_cannot_fit() -> None:
    separable = fit_platt([-2.0, -1.0, 1.0, 2.0], [False, False, True, True])
    assert math.isfinite(separable.slope) and separable.slope > 0.0
    with pytest.raises(ValueError, match="both classes"):
        fit_platt([1.0, 2.0], [True, True])
    with pytest.raises(ValueError, match="does not rank"):
        fit_platt([2.0, 1.0, -1.0, -2.0], [False, False, True, True])


def test_reliability_bins_and_ece_by_hand() -> None:
    p, unsafe = [0.05, 0.15, 0.15, 1.0], [False, False, True, True]
    bins = reliability_bins(p, unsafe)
    assert [b.n for b in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert bins[1].unsafe_share == 0.5 and bins[2].mean_probability is None
    # |0.05 - 0| * 1/4 + |0.15 - 0.5| * 2/4 + |1 - 1| * 1/4.
    assert expected_calibration_error(p, unsafe) == pytest.approx(0.05 / 4 + 0.35 / 2)
