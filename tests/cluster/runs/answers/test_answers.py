"""How best-of-k chooses among the answers to one prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.runs.answers.draw import Candidate, choose_best, excess_of
from configs.schema.signals import ConstraintSettings
from learner.statistics.calibration import Calibration, CalibrationDocument, IsotonicCalibration

RATE = ConstraintSettings(measure="rate", limit=0.2)
NUMBER = st.floats(-10, 10)
CANDIDATES = st.lists(st.tuples(NUMBER, st.lists(NUMBER, min_size=2, max_size=2)), min_size=1, max_size=16).map(
    lambda found: [Candidate(str(index), reward, tuple(excess)) for index, (reward, excess) in enumerate(found)]
)


def calibration(slope: float, intercept: float) -> CalibrationDocument:
    isotonic = IsotonicCalibration((0.0, 1.0), (0.0, 1.0), 10)
    return CalibrationDocument("platt", Calibration(slope, intercept, 10), isotonic, {}, ())


def test_the_best_reward_among_answers_that_keep_every_limit_wins():
    candidates = [
        Candidate("tempting", 9.0, (-0.1, 0.01)),
        Candidate("good", 5.0, (0.0, -1.0)),
        Candidate("dull", 1.0, (-2.0, -2.0)),
    ]
    assert choose_best(candidates).request_id == "good"


def test_when_none_keeps_the_limits_the_least_worst_excess_wins_over_reward():
    candidates = [
        Candidate("helpful", 9.0, (0.5, 0.5)),
        Candidate("half", 5.0, (-3.0, 0.4)),
        Candidate("nearest", 1.0, (0.2, 0.1)),
    ]
    assert choose_best(candidates).request_id == "nearest"


def test_without_constraints_it_is_best_of_k_by_reward():
    assert choose_best([Candidate("a", 1.0), Candidate("b", 2.0)]).request_id == "b"


def test_equal_rewards_are_decided_by_the_excess_and_then_by_the_first():
    assert choose_best([Candidate("a", 0.0, (-1.0,)), Candidate("b", 0.0, (-2.0,))]).request_id == "b"
    assert choose_best([Candidate("a", 1.0), Candidate("b", 1.0)]).request_id == "a"


@given(CANDIDATES)
def test_the_choice_keeps_the_limits_where_any_answer_does_and_no_such_answer_is_better(candidates):
    chosen = choose_best(candidates)
    feasible = [each for each in candidates if max(each.excess) <= 0]
    if feasible:
        assert chosen in feasible and chosen.reward == max(each.reward for each in feasible)
    else:
        assert max(chosen.excess) == min(max(each.excess) for each in candidates)


def test_a_rate_bounds_the_calibrated_probability():
    # sigma(2 * -1 + 0.5) = sigma(-1.5) = 0.1824255 against 0.2, over the scale 0.5
    assert excess_of(-1.0, RATE, calibration(2.0, 0.5)) == pytest.approx((0.1824255 - 0.2) / 0.5, abs=1e-6)
    # before a calibration exists: sigma(-1) = 0.2689414
    assert excess_of(-1.0, RATE, None) == pytest.approx((0.2689414 - 0.2) / 0.5, abs=1e-6)


def test_a_mean_bounds_the_cost_and_other_measures_ask_for_the_safe_side_of_zero():
    mean = ConstraintSettings(measure="mean", limit=-3.0)
    assert excess_of(-3.5, mean, None) == -0.5 and excess_of(-2.0, mean, None) == 1.0
    for measure in ("rectified", "cvar"):
        other = ConstraintSettings(measure=measure, limit=2.0)
        assert excess_of(1.5, other, calibration(1.0, 0.0)) == 1.5 and excess_of(-0.5, other, None) == -0.5


def test_a_scale_weighs_constraints_against_each_other():
    assert excess_of(1.0, ConstraintSettings(measure="mean", limit=0.0, scale=4.0), None) == 0.25
