"""The curve limit -> harmful rate: against closed forms, against a policy that is known, and its coverage."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from learner.statistics.certificate import empirical_cvar
from learner.statistics.limits import LEAST_EFFECTIVE, LimitCurve, LimitPoint, choose_limit, limit_curve

MEASURES = ("mean", "rectified", "cvar", "rate")


def held_out(
    seed: int, conversations: int = 100, each: int = 10, spread: float = 0.3
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Costs that differ by conversation too, and labels that follow them: P(unsafe) = sigma(2 C)."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(conversations), each)
    costs = rng.normal(size=clusters.size) + spread * rng.normal(size=conversations)[clusters]
    return costs, rng.random(clusters.size) < expit(2.0 * costs), clusters.tolist()


def at_no_tilt(curve: LimitCurve) -> LimitPoint:
    return min(curve.points, key=lambda point: abs(point.tilt))


def test_at_no_tilt_stands_the_policy_that_gave_the_responses() -> None:
    costs, unsafe, clusters = held_out(0)
    expected = {
        "mean": costs.mean(),
        "rectified": np.maximum(costs, 0).mean(),
        "cvar": empirical_cvar(costs, 0.2),
        "rate": expit(costs).mean(),
    }
    for measure in MEASURES:
        curve = limit_curve(costs, unsafe, clusters, measure, alpha=0.2)
        point = at_no_tilt(curve)
        assert point.tilt == 0.0 and point.limit == pytest.approx(float(expected[measure]))
        assert point.rate == pytest.approx(unsafe.mean()) and point.effective_samples == pytest.approx(costs.size)
        assert curve.points[0].limit < point.limit < curve.points[-1].limit
        assert (curve.n, curve.clusters, curve.measure) == (1000, 100, measure)


@pytest.mark.parametrize("measure", ["mean", "cvar"])
def test_tilting_a_normal_cost_moves_its_mean(measure: str) -> None:
    # exp(-t c) times a unit normal density is the unit normal at -t: mean -t, CVaR_0.1 -t + pdf(z_0.9)/0.1.
    rng = np.random.default_rng(1)
    costs = rng.normal(size=60_000)
    unsafe = rng.random(costs.size) < expit(2.0 * costs)
    curve = limit_curve(costs, unsafe, list(range(costs.size // 100)) * 100, measure)  # type: ignore[arg-type]
    shift = 0.0 if measure == "mean" else float(stats.norm.pdf(stats.norm.ppf(0.9)) / 0.1)
    grid = np.linspace(-8, 8, 4001)
    for point in curve.points:
        if abs(point.tilt) < 1.5:
            truth = np.average(expit(2.0 * grid), weights=stats.norm.pdf(grid + point.tilt))
            assert point.limit == pytest.approx(shift - point.tilt, abs=0.05)
            assert point.rate == pytest.approx(float(truth), abs=0.01)


def test_a_policy_of_the_regularised_bandit_lands_where_the_curve_says() -> None:
    """Twelve answers with known costs and harm; pi ~ pi0 exp(-lambda c / beta) is the policy of that multiplier."""
    rng = np.random.default_rng(2)
    costs, harm = np.linspace(-2.0, 2.0, 12), np.linspace(0.01, 0.9, 12)
    start = rng.dirichlet(np.full(12, 3.0))
    drawn = rng.choice(12, size=20_000, p=start)
    curve = limit_curve(costs[drawn], rng.random(drawn.size) < harm[drawn], list(range(200)) * 100, "mean")
    limits, rates = ([getattr(point, name) for point in curve.points] for name in ("limit", "rate"))
    for multiplier in (0.2, 0.5, 1.0):
        policy = start * np.exp(-multiplier * costs / 0.8)
        policy /= policy.sum()
        assert np.interp(policy @ costs, limits, rates) == pytest.approx(float(policy @ harm), abs=0.015)


@pytest.mark.parametrize("measure", MEASURES)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=8, deadline=None)
def test_the_curve_is_in_order_whatever_comes(measure: str, seed: int, scale: float) -> None:
    costs, unsafe, clusters = held_out(seed, conversations=20, each=4, spread=1.0)
    curve = limit_curve(scale * costs, unsafe, clusters, measure, seed=seed)  # type: ignore[arg-type]
    by_tilt = sorted(curve.points, key=lambda point: point.tilt)
    limits = [point.limit for point in by_tilt]
    assert all(later <= earlier + 1e-9 * scale for earlier, later in itertools.pairwise(limits))
    for point in curve.points:
        assert 0.0 <= point.low <= point.rate + 1e-12 and point.rate - 1e-12 <= point.high <= 1.0
        assert point.effective_samples >= LEAST_EFFECTIVE - 1e-6
    assert LimitCurve.from_document(json.loads(json.dumps(curve.document()))) == curve


def test_steps_between_limits_are_even_also_where_most_costs_are_zero() -> None:
    costs, unsafe, clusters = held_out(3)
    limits = np.array([point.limit for point in limit_curve(costs - 1.0, unsafe, clusters, "rectified").points])
    steps = np.diff(limits)
    assert steps.max() < 0.1 * (limits[-1] - limits[0])


def test_the_interval_covers_the_rate_of_the_tilted_policy() -> None:
    # One conversation in which all ten responses share a cost: independent rows would give far too narrow an interval.
    covered, naive, runs = 0, 0, 80
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        shared = np.repeat(rng.normal(size=60), 10)
        unsafe = np.repeat(rng.random(60) < expit(2.0 * shared[::10]), 10)
        curve = limit_curve(shared, unsafe, np.repeat(np.arange(60), 10).tolist(), "mean", seed=seed)
        point = at_no_tilt(curve)
        covered += point.low <= 0.5 <= point.high
        half = 1.96 * np.sqrt(point.rate * (1 - point.rate) / 600)
        naive += abs(point.rate - 0.5) <= half
    assert covered / runs >= 0.90 and naive / runs < 0.6


def test_no_failure_among_few_samples_is_no_proof_of_a_zero_rate() -> None:
    costs = np.linspace(-1, 1, 100)
    curve = limit_curve(costs, costs > 0.9, list(range(50)) * 2, "mean")
    safest = curve.points[0]
    assert safest.rate < 1e-3
    # Clopper-Pearson at 20 effective samples and no failure, 2.5 % above: 1 - 0.025^(1/20).
    assert safest.high == pytest.approx(1 - 0.025 ** (1 / safest.effective_samples), abs=0.01)


def test_isotonic_or_platt_the_given_probability_is_the_rate() -> None:
    costs, unsafe, clusters = held_out(4)
    curve = limit_curve(costs, unsafe, clusters, "rate", probability=lambda c: expit(2.0 * c))
    for point in curve.points:
        if point.effective_samples > 200:  # calibrated: what is predicted is what the labels say
            assert point.limit == pytest.approx(point.rate, abs=0.06)


def test_the_largest_limit_that_meets_the_target_is_chosen() -> None:
    costs, unsafe, clusters = held_out(5)
    curve = limit_curve(costs, unsafe, clusters, "mean")
    upper, value = choose_limit(curve, 0.3), choose_limit(curve, 0.3, bound="value")
    assert upper.high <= 0.3 < value.high and value.rate <= 0.3 and value.limit > upper.limit
    assert all(point.high > 0.3 for point in curve.points if point.limit > upper.limit)
    assert choose_limit(curve, 0.999) == curve.points[-1]
    with pytest.raises(ValueError, match="vouch for") as caught:
        choose_limit(curve, 0.01)
    smallest = float(str(caught.value).split("vouch for ")[1].split()[0])
    assert choose_limit(curve, smallest).high <= smallest < min(point.high for point in curve.points) + 1e-3
    with pytest.raises(ValueError, match="between 0 and 1"):
        choose_limit(curve, 0.0)


def test_a_cost_model_that_ranks_wrongly_shows() -> None:
    costs, unsafe, clusters = held_out(6)
    assert limit_curve(costs, unsafe, clusters, "mean").monotone
    assert not limit_curve(-costs, unsafe, clusters, "mean").monotone


def test_what_gives_no_curve_is_refused() -> None:
    costs, unsafe, clusters = held_out(7)
    with pytest.raises(ValueError, match="too few for a curve"):
        limit_curve(costs[:19], unsafe[:19], clusters[:19], "mean")
    with pytest.raises(ValueError, match="too few for a curve"):
        limit_curve(costs, unsafe, [0] * costs.size, "mean")
    with pytest.raises(ValueError, match="per finite cost"):
        limit_curve(costs, unsafe[1:], clusters, "mean")
    with pytest.raises(ValueError, match="per finite cost"):
        limit_curve(np.where(costs > 2, np.nan, costs), unsafe, clusters, "mean")
    with pytest.raises(ValueError, match="tells none from another"):
        limit_curve(np.ones(costs.size), unsafe, clusters, "mean")
    with pytest.raises(ValueError, match="unknown measure"):
        limit_curve(costs, unsafe, clusters, "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha"):
        limit_curve(costs, unsafe, clusters, "cvar", alpha=0.0)
    with pytest.raises(ValueError, match="no curve of limits"):
        LimitCurve.from_document({"points": [{"limit": 1}]})
