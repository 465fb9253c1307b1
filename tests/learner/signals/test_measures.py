"""Measures: g and J agree, and what enters the cost stream is the gradient of what is constrained."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from learner.algorithms.losses import policy_loss
from learner.signals.combine import combine_advantages
from learner.signals.measure import Measure, standard_error, ucb
from learner.signals.warnings import mean_hides_violations, measure_is_too_noisy
from learner.signals.window import CostWindow

MEASURES = [
    Measure("mean"),
    Measure("rate"),
    Measure("rate", slope=2.5, intercept=-0.7),
    Measure("rectified"),
    Measure("cvar", alpha=0.3),
    Measure("mean", scale=4.0),
    Measure("cvar", alpha=0.3, scale=0.5),
]
IDS = ["mean", "rate", "rate-calibrated", "rectified", "cvar", "mean-scaled", "cvar-scaled"]
COSTS = np.array([[-3.0, -1.0, 0.5, 2.0], [-2.0, 1.0, 3.0, 6.0]])
"""Two arms; each draws one of four costs with ARM_PROBABILITIES."""
ARM_PROBABILITIES = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.35, 0.25, 0.3]])

costs_arrays = arrays(np.float64, st.integers(2, 40), elements=st.floats(-50, 50))


def outcome_probabilities(theta: float) -> np.ndarray:
    """[2, 4]: arm 1 has probability sigma(theta)."""
    p = 1.0 / (1.0 + math.exp(-theta))
    return np.array([1.0 - p, p])[:, None] * ARM_PROBABILITIES


def cvar_by_tail_average(weights: np.ndarray, costs: np.ndarray, alpha: float) -> float:
    """CVaR from its definition: the mean of the worst alpha of the probability mass."""
    left, total = alpha, 0.0
    for index in np.argsort(-costs.ravel()):
        taken = min(left, weights.ravel()[index])
        total += taken * costs.ravel()[index]
        left -= taken
    return total / alpha


def frozen_state(measure: Measure, theta: float) -> dict[str, float]:
    """The state from a window that represents the policy exactly: each outcome in proportion to its probability."""
    counts = np.rint(outcome_probabilities(theta).ravel() * 100_000).astype(int)
    return measure.freeze(np.repeat(COSTS.ravel(), counts))


@pytest.mark.parametrize("measure", MEASURES, ids=IDS)
def test_expected_update_direction_is_the_finite_difference_of_J(measure: Measure) -> None:
    theta, step = 0.3, 1e-5
    g = measure.g(COSTS, frozen_state(measure, theta))

    def J(at: float) -> float:  # cvar: eta stays at its quantile
        return float((outcome_probabilities(at) * g).sum())

    p = 1.0 / (1.0 + math.exp(-theta))
    score = np.array([-p, 1.0 - p])[:, None]  # d log pi(arm) / d theta of a logistic policy
    direction = float((outcome_probabilities(theta) * score * g).sum())
    # Expected number: the central difference of J itself.
    assert direction == pytest.approx((J(theta + step) - J(theta - step)) / (2 * step), rel=1e-6)


def test_cvar_with_frozen_eta_has_the_gradient_of_the_true_cvar() -> None:
    measure, theta, step = Measure("cvar", alpha=0.3), 0.3, 1e-6
    state = frozen_state(measure, theta)
    p = 1.0 / (1.0 + math.exp(-theta))
    score = np.array([-p, 1.0 - p])[:, None]
    direction = float((outcome_probabilities(theta) * score * measure.g(COSTS, state)).sum())
    # Expected numbers: CVaR by its definition, an independent computation, and its central difference.
    above, below = (cvar_by_tail_average(outcome_probabilities(theta + s), COSTS, 0.3) for s in (step, -step))
    value = float((outcome_probabilities(theta) * measure.g(COSTS, state)).sum())
    assert value == pytest.approx(cvar_by_tail_average(outcome_probabilities(theta), COSTS, 0.3), rel=1e-9)
    assert direction == pytest.approx((above - below) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("measure", MEASURES, ids=IDS)
def test_the_whole_loss_descends_the_constrained_measure(measure: Measure) -> None:
    """One-token responses: minus the loss's gradient is (dE[R] - lambda dJ)/(1 + lambda), derivatives by autograd."""
    lam = 1.7
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    probabilities = torch.tensor(outcome_probabilities(0.3)).reshape(-1)
    g = torch.tensor(measure.g(COSTS, frozen_state(measure, 0.3))).reshape(-1, 1)
    rewards = torch.tensor([[1.0] * 4, [2.0] * 4], dtype=torch.float64).reshape(-1, 1)
    arm_log_probs = torch.stack([torch.nn.functional.logsigmoid(-theta), torch.nn.functional.logsigmoid(theta)])
    current = arm_log_probs.repeat_interleave(4)[:, None]
    combined = combine_advantages(rewards, {"harm": g}, {"harm": lam}, {})
    # Rows weighted by their probability stand for an infinite batch.
    loss = policy_loss(
        current,
        current.detach(),
        combined,
        torch.ones(8, 1, dtype=torch.bool),
        importance_weights=probabilities[:, None],
        token_count=1,
    )
    (update,) = torch.autograd.grad(-loss, theta, retain_graph=True)
    exact = torch.exp(current) * torch.tensor(ARM_PROBABILITIES).reshape(-1, 1)
    (expected,) = torch.autograd.grad(((rewards - lam * g) * exact).sum() / (1 + lam), theta)
    assert update.item() == pytest.approx(expected.item(), rel=1e-12)


@given(costs_arrays, st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]))
def test_cvar_J_is_the_mean_of_the_worst_share(costs: np.ndarray, alpha: float) -> None:
    measure = Measure("cvar", alpha=alpha)
    J = measure.aggregate(measure.g(costs, measure.freeze(costs)))
    # Expected number: the definition, by sorting.
    assert (
        pytest.approx(cvar_by_tail_average(np.full(costs.size, 1 / costs.size), costs, alpha), rel=1e-9, abs=1e-9) == J
    )


def test_g_by_hand() -> None:
    costs = np.array([-1.0, 0.0, 2.0])
    # sigma(0) = 1/2; ln 3 gives odds of 3 to 1; the other values by the table in ALGORITHMS.
    assert Measure("rate").g([0.0, math.log(3.0)], Measure("rate").freeze([])) == pytest.approx([0.5, 0.75])
    np.testing.assert_array_equal(Measure("mean").g(costs, {}), costs)
    np.testing.assert_array_equal(Measure("rectified").g(costs, {}), [0.0, 0.0, 2.0])
    np.testing.assert_allclose(Measure("cvar", alpha=0.5).g(costs, {"eta": 0.0}), [0.0, 0.0, 4.0])


@given(costs_arrays)
def test_ucb_adds_a_half_width_to_J_and_leaves_g_alone(costs: np.ndarray) -> None:
    base = Measure("mean")
    bounded = ucb(base, 0.95)
    np.testing.assert_array_equal(bounded.g(costs, bounded.freeze(costs)), base.g(costs, base.freeze(costs)))
    assert bounded.aggregate(costs) >= base.aggregate(costs)
    assert bounded.label == "ucb(mean)"


def test_ucb_half_width_is_students() -> None:
    # Values 1, 2, 3: mean 2, sd 1, SE 1/sqrt(3); the 95 % quantile of t with 2 degrees of freedom is 2.9200 (any table).
    assert ucb(Measure("mean")).aggregate([1.0, 2.0, 3.0]) == pytest.approx(2.0 + 2.91999 / math.sqrt(3.0), rel=1e-5)


@given(costs_arrays, st.sampled_from(["mean", "rectified", "cvar"]))
def test_scale_divides_g_and_limit_together(costs: np.ndarray, name: str) -> None:
    plain, scaled = Measure(name), Measure(name, scale=10.0)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        scaled.g(10.0 * costs, scaled.freeze(10.0 * costs)), plain.g(costs, plain.freeze(costs)), rtol=1e-12, atol=1e-12
    )
    assert scaled.scaled_limit(10.0 * 0.5) == 0.5


def test_aggregate_counts_only_the_subset() -> None:
    assert Measure("mean").aggregate([1.0, 5.0, 9.0], [True, False, True]) == 5.0


def test_bad_settings_and_costs_are_refused() -> None:
    for settings in (
        {"name": "median"},
        {"name": "cvar", "alpha": 0.0},
        {"name": "mean", "scale": 0.0},
        {"name": "rate", "slope": -1.0},
    ):
        with pytest.raises(ValueError):
            Measure(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        Measure("mean").g([1.0, math.nan], {})
    with pytest.raises(ValueError, match="hold"):
        ucb(Measure("mean")).aggregate([1.0])


def test_window_slides_by_samples_and_forgets_stale_versions() -> None:
    window = CostWindow(4, max_staleness=1)
    window.extend([1.0, 2.0, 3.0], [0, 0, 1])
    window.extend([4.0, 5.0], [2, 2])
    assert len(window) == 4  # 1.0 fell out
    np.testing.assert_array_equal(window.fresh_costs(2), [3.0, 4.0, 5.0])
    np.testing.assert_array_equal(CostWindow(4).fresh_costs(0), [])


def test_window_holds_below_min_samples_and_says_so() -> None:
    window = CostWindow(8, min_samples=3)
    window.extend([1.0, -2.0], [0, 0])
    reading = window.read(Measure("mean"), 0)
    assert reading.measure_value is None
    assert (reading.samples, reading.violation_rate) == (2, 0.5)
    window.extend([4.0], [0])
    reading = window.read(Measure("mean"), 0)
    assert reading.measure_value == 1.0
    # sd of (1, -2, 4) is 3 by hand.
    assert reading.standard_error == pytest.approx(3.0 / math.sqrt(3.0))
    assert standard_error([1.0, -2.0, 4.0]) == reading.standard_error


def test_empty_window_reads_as_a_hold_for_every_measure() -> None:
    for measure in MEASURES:
        assert CostWindow(4).read(measure, 0).measure_value is None


def test_window_state_survives_json() -> None:
    window, again = CostWindow(3), CostWindow(3)
    window.extend([0.1, 0.2, 0.3, 0.4], [0, 1, 1, 2])
    again.load_state_dict(json.loads(json.dumps(window.state_dict())))
    assert again.state_dict() == window.state_dict()
    with pytest.raises(ValueError, match="not finite"):
        window.extend([1.0, math.inf], [3, 3])
    assert len(window) == 3


def test_warnings_speak_only_when_they_should() -> None:
    assert mean_hides_violations("mean", -0.5, 0.0, 0.3) is not None
    assert mean_hides_violations("mean", 0.5, 0.0, 0.3) is None
    assert mean_hides_violations("mean", -0.5, 0.0, 0.01) is None
    assert mean_hides_violations("rate", 0.01, 0.05, 0.3) is None
    assert measure_is_too_noisy(0.04, 0.05, 0.02, 128) is not None
    assert measure_is_too_noisy(0.40, 0.05, 0.02, 128) is None
    assert measure_is_too_noisy(0.04, 0.05, None, 1) is None
