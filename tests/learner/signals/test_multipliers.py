"""Duals: bounded for any input, monotone, delayed, resumable, and they converge to the known optimum."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.signals.multiplier import (
    FixedMultiplier,
    LogMultiplier,
    Multiplier,
    PidMultiplier,
    ProjectedMultiplier,
    make_multiplier,
)

KINDS: dict[str, Callable[[], Multiplier]] = {
    "log": lambda: LogMultiplier(1.0, lr=0.5, cap=20.0, delay=1),
    "projected": lambda: ProjectedMultiplier(0.5, lr=1.0, cap=20.0, delay=1),
    "pid": lambda: PidMultiplier(0.5, kp=1.0, ki=0.2, kd=0.5, cap=20.0, delay=1, derivative_delay=2),
    "fixed": lambda: FixedMultiplier(1.5),
}
finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(-20, 20)


@pytest.mark.parametrize("kind", KINDS)
@given(measurements=st.lists(st.one_of(st.none(), finite), max_size=30), limit=finite)
def test_every_value_is_finite_and_within_its_cap(kind: str, measurements: list[float | None], limit: float) -> None:
    multiplier = KINDS[kind]()
    for J in measurements:
        value = multiplier.update(J, limit)
        assert math.isfinite(value) and 0.0 <= value <= 20.0
        assert value == multiplier.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_measure_that_is_not_finite_is_refused(kind: str, bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        KINDS[kind]().update(bad, 0.0)


@pytest.mark.parametrize("kind", ["log", "projected"])
@given(before=st.lists(moderate, min_size=1, max_size=5), smaller=moderate, difference=st.floats(0, 20), limit=moderate)
def test_log_and_projected_rise_with_the_gap(
    kind: str, before: list[float], smaller: float, difference: float, limit: float
) -> None:
    one, other = KINDS[kind](), KINDS[kind]()
    for J in before:  # at least one: past the delay
        one.update(J, limit)
        other.update(J, limit)
    assert one.update(smaller, limit) <= other.update(smaller + difference, limit)


@given(before=st.lists(moderate, min_size=1, max_size=5), smaller=moderate, difference=st.floats(0, 20), limit=moderate)
def test_the_integral_of_pid_rises_with_the_gap(
    before: list[float], smaller: float, difference: float, limit: float
) -> None:
    one, other = PidMultiplier(ki=0.2), PidMultiplier(ki=0.2)
    for J in before:
        one.update(J, limit)
        other.update(J, limit)
    one.update(smaller, limit)
    other.update(smaller + difference, limit)
    assert one.integral <= other.integral


@pytest.mark.parametrize("kind", ["log", "projected"])
def test_a_violation_below_the_cap_strictly_raises_the_multiplier(kind: str) -> None:
    multiplier = KINDS[kind]()
    multiplier.update(1.0, 0.0)  # the delay
    before = multiplier.value
    assert multiplier.update(1.0, 0.0) > before


@pytest.mark.parametrize("kind", KINDS)
def test_none_holds_and_the_delay_only_observes(kind: str) -> None:
    multiplier = KINDS[kind]()
    before = multiplier.state_dict()
    assert multiplier.update(None, 0.0) == before["value"]
    assert multiplier.state_dict() == before
    assert multiplier.update(5.0, 0.0) == before["value"]  # delay 1: the first measurement moves nothing


def test_one_step_of_each_dual_by_hand() -> None:
    # log: log lambda = ln 2 + 0.1 * (3 - 1) * 2 = ln 2 + 0.4.
    assert LogMultiplier(2.0, lr=0.1).update(3.0, 1.0) == pytest.approx(2.0 * math.exp(0.4))
    assert ProjectedMultiplier(0.5, lr=0.1).update(3.0, 1.0) == pytest.approx(0.7)
    assert ProjectedMultiplier(0.5, lr=1.0).update(-3.0, 1.0) == 0.0
    assert FixedMultiplier(0.5).update(3.0, 1.0) == 0.5
    # pid, gap 2 then 4, J 3 then 5, smoothing 0.5: averages 2 then 3 (gap), 3 then 4 (J); integral 0.2*2 + 0.2*4 = 1.2;
    # P 1*3, D 0.5*(4 - 3): 4.7.
    pid = PidMultiplier(kp=1.0, ki=0.2, kd=0.5, smoothing=0.5, derivative_delay=1)
    pid.update(3.0, 1.0)
    assert pid.update(5.0, 1.0) == pytest.approx(4.7)


@pytest.mark.parametrize("kind", KINDS)
@given(first=st.lists(moderate, max_size=6), second=st.lists(moderate, max_size=6))
def test_a_resumed_multiplier_goes_on_bit_for_bit(kind: str, first: list[float], second: list[float]) -> None:
    whole = KINDS[kind]()
    for J in first:
        whole.update(J, 0.5)
    resumed = KINDS[kind]()
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert [whole.update(J, 0.5) for J in second] == [resumed.update(J, 0.5) for J in second]


def test_a_state_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        LogMultiplier().load_state_dict(ProjectedMultiplier().state_dict())


def test_bad_settings_are_refused() -> None:
    for kind, settings in [
        ("log", {"cap": math.inf}),
        ("log", {"initial": 0.0}),
        ("projected", {"initial": 30.0, "cap": 20.0}),
        ("projected", {"lr": -1.0}),
        ("pid", {"smoothing": 1.0}),
        ("fixed", {"initial": -1.0}),
        ("newton", {}),
    ]:
        with pytest.raises(ValueError):
            make_multiplier(kind, **settings)


@given(
    reward_gap=st.floats(0.5, 3.0),
    cost_gap=st.floats(0.5, 3.0),
    beta=st.floats(0.1, 1.0),
    prior=st.floats(0.2, 0.8),
    target=st.floats(0.05, 0.95),
)
@pytest.mark.parametrize("kind", ["projected", "pid"])
def test_converges_on_the_regularised_bandit(
    kind: str, reward_gap: float, cost_gap: float, beta: float, prior: float, target: float
) -> None:
    """pi ~ pi0 exp((r - lambda c)/beta) on two arms; the limit is set so that arm 1 may have probability ``target``."""

    def arm_one(multiplier: float) -> float:
        log_odds = math.log(prior / (1 - prior)) + (reward_gap - multiplier * cost_gap) / beta
        return 1.0 / (1.0 + math.exp(-log_odds))

    # Expected number: arm_one(lambda*) = target solved for lambda; complementary slackness makes it 0 when feasible.
    optimum = max(
        0.0, (reward_gap + beta * (math.log(prior / (1 - prior)) - math.log(target / (1 - target)))) / cost_gap
    )
    curvature = cost_gap**2 / (4.0 * beta)  # the steepest |dJ/dlambda|
    multiplier: Multiplier = ProjectedMultiplier(0.0, lr=0.5 / curvature, cap=100.0)
    if kind == "pid":
        multiplier = PidMultiplier(
            0.0,
            kp=0.3 / curvature,
            ki=0.3 / curvature,
            kd=0.1 / curvature,
            cap=100.0,
            smoothing=0.3,
            derivative_delay=2,
        )
    J_at_limit = target * cost_gap
    for _ in range(1500):
        multiplier.update(arm_one(multiplier.value) * cost_gap, J_at_limit)
    assert multiplier.value == pytest.approx(optimum, rel=0.01, abs=0.01 * beta / cost_gap)
