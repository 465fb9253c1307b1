"""The line reward = a + b sqrt(KL)."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import statsmodels.api as sm

from learner.statistics.sqrt_kl import fit_sqrt_kl


def test_it_recovers_the_line_it_was_made_from() -> None:
    kl = np.array([0.0, 1.0, 4.0, 9.0, 16.0])
    fit = fit_sqrt_kl(kl, 0.5 + 2.0 * np.sqrt(kl))
    assert (fit.intercept, fit.slope, fit.r_squared) == pytest.approx((0.5, 2.0, 1.0))
    assert (fit.n, fit.clipped) == (5, 0)
    assert fit.expected([4.0, -1.0]) == pytest.approx([4.5, 0.5])


def test_it_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    kl = rng.random(40) * 12
    reward = 1.0 + 0.7 * np.sqrt(kl) + rng.normal(0, 0.3, 40)
    fit = fit_sqrt_kl(kl, reward)
    theirs = sm.OLS(reward, sm.add_constant(np.sqrt(kl))).fit()
    assert (fit.intercept, fit.slope, fit.r_squared) == pytest.approx((*theirs.params, theirs.rsquared))
    assert (fit.slope_low, fit.slope_high) == pytest.approx(tuple(theirs.conf_int()[1]))
    assert all(isinstance(value, (int, float)) for value in asdict(fit).values())  # goes into JSON as it is


def test_a_negative_kl_counts_as_none_and_is_counted() -> None:
    fit = fit_sqrt_kl([-0.01, 1.0, 4.0], [0.0, 1.0, 2.0])
    assert fit.clipped == 1 and fit.slope == pytest.approx(1.0) and fit.r_squared == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kl", "reward", "said"),
    [
        ([1.0, 2.0], [1.0, 2.0], "at least 3 points, got 2"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "one reward per KL"),
        ([1.0, 2.0, float("nan")], [1.0, 2.0, 3.0], "not finite"),
        ([-1.0, -2.0, 0.0], [1.0, 2.0, 3.0], "the KL is the same at every point"),
        ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], "the reward is the same at every point"),
    ],
)
def test_what_cannot_be_fitted_is_refused(kl: list[float], reward: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_sqrt_kl(kl, reward)
