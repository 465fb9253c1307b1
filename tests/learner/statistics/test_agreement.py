"""Agreement between raters, on the matrices with which the coefficients were published."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats import inter_rater

from learner.data.quality.votes import cohen_kappa
from learner.statistics.agreement import (
    fleiss_kappa,
    krippendorff_alpha,
    krippendorff_interval,
    phi_coefficient,
    phi_interval,
    raw_agreement,
)

# Fleiss 1971, table 1: 30 patients, 6 psychiatrists each, 5 diagnoses.
FLEISS_1971 = """
0 0 0 6 0  0 3 0 0 3  0 1 4 0 1  0 0 0 0 6  0 3 0 3 0  2 0 4 0 0  0 0 4 0 2  2 0 3 1 0  2 0 0 4 0  0 0 0 0 6
1 0 0 5 0  1 1 0 4 0  0 3 3 0 0  1 0 0 5 0  0 2 0 3 1  0 0 5 0 1  3 0 0 1 2  5 1 0 0 0  0 2 0 4 0  1 0 2 0 3
0 0 0 0 6  0 1 0 5 0  0 2 0 1 3  2 0 0 4 0  1 0 0 4 1  0 5 0 1 0  4 0 0 0 2  0 2 0 4 0  1 0 5 0 0  0 0 0 0 6
"""
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", sections A, B and C; a dot is a missing value.
BINARY = ["0100000010", "1110010000"]
NOMINAL = ["aabbdcccedda", "babbbccceddd"]
MISSING = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def counts_of(raters: list[str]) -> np.ndarray:
    """Ratings as ``[units, values]``."""
    values = sorted(set("".join(raters)) - {"."})
    return np.array(
        [[[rater[unit] for rater in raters].count(value) for value in values] for unit in range(len(raters[0]))]
    )


def fleiss_1971() -> np.ndarray:
    return np.array(FLEISS_1971.split(), dtype=int).reshape(30, 5)


def test_fleiss_kappa_is_the_published_one() -> None:
    table = fleiss_1971()
    assert fleiss_kappa(table) == pytest.approx(0.430, abs=5e-4)
    assert fleiss_kappa(table) == pytest.approx(inter_rater.fleiss_kappa(table), abs=1e-12)
    assert raw_agreement(table) == pytest.approx(0.5556, abs=5e-4)  # its P bar


def test_cohen_kappa_is_the_published_one() -> None:
    # Cohen 1960: 200 cases, 70 % observed and 41 % chance agreement.
    assert cohen_kappa(np.array([[88, 10, 2], [14, 40, 6], [18, 10, 12]])) == pytest.approx(0.492, abs=5e-4)


def test_cohen_kappa_is_undefined_without_variation() -> None:
    assert math.isnan(cohen_kappa(np.array([[7, 0], [0, 0]])))
    assert cohen_kappa(np.array([[0, 5], [0, 5]])) == 0.0


@pytest.mark.parametrize(("raters", "alpha"), [(BINARY, 0.095), (NOMINAL, 0.692), (MISSING, 0.743)])
def test_krippendorff_alpha_is_the_published_one(raters: list[str], alpha: float) -> None:
    assert krippendorff_alpha(counts_of(raters)) == pytest.approx(alpha, abs=5e-4)


def test_equal_units_may_be_given_once_with_a_weight() -> None:
    table = counts_of(MISSING)
    patterns, times = np.unique(table, axis=0, return_counts=True)
    assert krippendorff_alpha(patterns, times) == pytest.approx(krippendorff_alpha(table))
    assert raw_agreement(patterns, times) == pytest.approx(raw_agreement(table))
    fixed, often = np.unique(fleiss_1971(), axis=0, return_counts=True)
    assert fleiss_kappa(fixed, often) == pytest.approx(fleiss_kappa(fleiss_1971()))


def test_fleiss_refuses_another_number_of_ratings() -> None:
    with pytest.raises(ValueError, match="same number of ratings"):
        fleiss_kappa([[2, 0], [2, 1]])


@pytest.mark.parametrize("table", [[[3, 0], [2, 0]], [[1, 0], [0, 1]], np.zeros((0, 2))])
def test_alpha_is_undefined_without_variation_or_second_ratings(table: list[list[int]]) -> None:
    assert math.isnan(krippendorff_alpha(table))
    assert krippendorff_interval(table) is None


def test_alpha_falls_to_nought_with_random_raters() -> None:
    rng = np.random.default_rng(0)
    ones = rng.binomial(4, 0.3, size=4000)
    interval = krippendorff_interval(*np.unique(np.stack([4 - ones, ones], axis=1), axis=0, return_counts=True))
    assert interval is not None
    assert interval.low < 0.0 < interval.high
    assert interval.high - interval.low < 0.1
    assert interval.n == 4000


def test_phi_is_pearson_of_the_two_labels() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 2, 500)
    second = np.where(rng.random(500) < 0.7, first, 1 - first)
    table = np.histogram2d(first, second, bins=2)[0]
    expected = float(np.corrcoef(first, second)[0, 1])
    assert phi_coefficient(table) == pytest.approx(expected)
    interval = phi_interval(table)
    assert interval is not None
    assert interval.low < expected < interval.high
    assert interval.n == 500
    # Fisher's interval of a correlation is close to the bootstrap's here.
    fisher = np.tanh(np.arctanh(expected) + np.array([-1.96, 1.96]) / np.sqrt(497))
    assert [interval.low, interval.high] == pytest.approx(fisher, abs=0.02)


def test_phi_is_undefined_when_one_label_never_varies() -> None:
    assert math.isnan(phi_coefficient([[5, 3], [0, 0]]))
    assert phi_interval([[5, 3], [0, 0]]) is None
