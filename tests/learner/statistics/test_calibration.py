"""Both forms of calibration, their document and the drift, against scikit-learn and against known truths."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from configs.exits import DataError
from learner.statistics.calibration import (
    Calibration,
    CalibrationDocument,
    calibrate,
    calibration_drift,
    fit_isotonic,
    fit_platt,
    load_calibration,
    reliability_bins,
)
from learner.statistics.intervals import wilson

labelled = st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({unsafe for _, unsafe in rows}) == 2
)


def sampled(n: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Costs and labels drawn from a known calibration."""
    rng = np.random.default_rng(seed)
    costs = rng.normal(0.0, 2.0, n)
    return costs, rng.random(n) < expit(slope * costs + intercept)


@given(labelled, st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_isotonic_never_falls_stays_a_probability_and_is_scikit_learns(rows, asked) -> None:
    costs, unsafe = np.array([cost for cost, _ in rows]), np.array([label for _, label in rows])
    fit = fit_isotonic(costs, unsafe)
    found = fit.probability(sorted(asked))
    assert (np.diff(found) >= 0).all() and (found >= 0).all() and (found <= 1).all()
    theirs = IsotonicRegression(out_of_bounds="clip").fit(costs, unsafe.astype(float)).predict(asked)
    np.testing.assert_allclose(fit.probability(asked), theirs, atol=1e-9)
    # Pool-adjacent-violators keeps the mean (Ayer et al. 1955).
    assert fit.probability(costs).mean() == pytest.approx(unsafe.mean(), abs=1e-6)


def test_isotonic_recovers_a_truth_that_platt_cannot_express() -> None:
    rng = np.random.default_rng(1)
    costs = rng.uniform(-1.0, 1.0, 20_000)
    truth = np.where(costs < 0, 0.1, np.where(costs < 0.5, 0.3, 0.9))
    unsafe = rng.random(costs.size) < truth
    document = calibrate(costs[:10_000], unsafe[:10_000], costs[10_000:], unsafe[10_000:], "isotonic")
    np.testing.assert_allclose(document.isotonic.probability([-0.5, 0.25, 0.75]), [0.1, 0.3, 0.9], atol=0.05)
    assert document.errors["isotonic"] < 0.02 < document.errors["platt"]
    assert document.probability([0.25]) == document.isotonic.probability([0.25])


@pytest.mark.parametrize("seed", range(3))
def test_platt_is_a_logistic_regression_on_smoothed_targets(seed: int) -> None:
    costs, unsafe = sampled(120, 1.2, -0.5, seed)
    fit = fit_platt(costs, unsafe)
    # Expected: every sample once with either label, weighted by Platt's target; scikit-learn without a penalty.
    positives, negatives = unsafe.sum(), (~unsafe).sum()
    targets = np.where(unsafe, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    both = np.concatenate([np.ones(costs.size), np.zeros(costs.size)])
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.concatenate([costs, costs])[:, None], both, sample_weight=np.concatenate([targets, 1 - targets])
    )
    assert (fit.slope, fit.intercept) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=1e-4)


def test_errors_are_measured_on_the_held_out_labels_and_not_on_those_fitted() -> None:
    costs, unsafe = sampled(400, 1.5, -1.0)
    held_costs, held_unsafe = sampled(4000, 1.5, -1.0, seed=1)
    fitted_on_itself = calibrate(costs, unsafe, costs, unsafe, "isotonic")
    document = calibrate(costs, unsafe, held_costs, held_unsafe, "isotonic")
    assert fitted_on_itself.errors["isotonic"] < document.errors["isotonic"], "a fit flatters itself"
    assert document.errors["platt"] < document.errors["raw"]
    assert sum(each.n for each in document.reliability) == 4000
    nothing_held = calibrate(costs, unsafe, [], [])
    assert nothing_held.errors == {} and nothing_held.reliability == ()


def test_a_document_survives_its_file(tmp_path) -> None:
    document = calibrate(*sampled(300, 1.0, 0.3), *sampled(300, 1.0, 0.3, seed=1), "isotonic")
    (tmp_path / "calibration.json").write_text(json.dumps(document.document(), allow_nan=False))
    assert load_calibration(tmp_path) == document
    for form in ("platt", "isotonic"):
        chosen = CalibrationDocument(form, document.platt, document.isotonic, {}, ())
        expected = getattr(document, form).probability([-1.0, 2.0])
        np.testing.assert_array_equal(chosen.probability([-1.0, 2.0]), expected)


def test_an_absent_document_is_none_and_a_foreign_one_is_refused(tmp_path) -> None:
    assert load_calibration(tmp_path) is None
    for content, problem in (
        ('{"slope": 1.0, "intercept": 0.0, "n": 5}', "version None is not 1"),
        ('{"version": 1, "form": "platt"}', "no calibration"),
        ("no json", "cannot be read"),
    ):
        (tmp_path / "calibration.json").write_text(content)
        with pytest.raises(DataError, match=problem):
            load_calibration(tmp_path)


def test_fits_refuse_one_class_and_costs_without_labels() -> None:
    for fit in (fit_platt, fit_isotonic):
        with pytest.raises(ValueError, match="both classes"):
            fit([1.0, 2.0], [False, False])
        with pytest.raises(ValueError, match="one label per finite cost"):
            fit([1.0, float("nan")], [False, True])


def test_reliability_bins_carry_wilsons_interval() -> None:
    first, *_, last = reliability_bins([0.02, 0.03, 0.04, 0.99], [False, True, False, True])
    expected = wilson(1, 3)
    assert (first.unsafe_share, first.share_low, first.share_high) == (expected.value, expected.low, expected.high)
    assert last.n == 1 and reliability_bins([0.02], [True])[5].share_low is None


def test_drift_is_shown_where_the_policy_has_moved_and_the_refit_undoes_it() -> None:
    before = Calibration(1.0, -1.0, 500)
    costs, unsafe = sampled(4000, 1.0, 1.0)
    drift = calibration_drift(before, costs, unsafe)
    assert not drift.holds and drift.mean_probability < drift.unsafe_share.low
    assert drift.refitted is not None and drift.refitted.intercept == pytest.approx(1.0, abs=0.15)
    assert drift.ece_after is not None and drift.ece_after < 0.05 < drift.ece_before
    same = calibration_drift(before, *sampled(4000, 1.0, -1.0, seed=2))
    assert same.holds and same.ece_before < 0.03


def test_drift_without_unsafe_answers_says_why_there_is_no_refit() -> None:
    drift = calibration_drift(Calibration(1.0, 0.0, 10), [-3.0, -2.0], [False, False])
    assert drift.refitted is None and drift.ece_after is None and "both classes" in drift.refused
    assert drift.unsafe_share.n == 2 and json.loads(json.dumps(drift.document()))["unsafe_share"]["value"] == 0.0
    with pytest.raises(ValueError, match="needs labels"):
        calibration_drift(Calibration(1.0, 0.0, 10), [], [])
