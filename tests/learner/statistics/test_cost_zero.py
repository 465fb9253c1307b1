"""The fitted zero of a cost from rankings: each rule against a case by hand, and what it declares."""

from __future__ import annotations

import json

import numpy as np
import pytest

from learner.statistics.cost_zero import WARNING, CostZero, fit_cost_zero


def scores(n: int = 400, gap: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Costs of safer and less safe responses around 5 - gap/2 and 5 + gap/2."""
    rng = np.random.default_rng(seed)
    return rng.normal(5 - gap / 2, 1, n), rng.normal(5 + gap / 2, 1, n)


def test_the_separating_zero_lies_midway_between_what_it_separates() -> None:
    found = fit_cost_zero([0.0, 1.0, 2.0], [4.0, 5.0, 6.0], rule="separating")
    assert found.value == 3.0 and found.safer_below == found.less_safe_above == 1.0


def test_no_other_threshold_separates_better() -> None:
    safer, less = scores(60, 1.0)
    found = fit_cost_zero(safer, less, rule="separating")
    every = [((safer <= at).mean() + (less > at).mean()) for at in np.concatenate([safer, less])]
    assert found.safer_below + found.less_safe_above == pytest.approx(max(every))


def test_of_equally_good_thresholds_the_one_nearest_the_median_is_taken() -> None:
    # Cuts after 0, 2 and 4 each get one safer response more below than above; 2.5 is the median of all.
    assert fit_cost_zero([0.0, 2.0, 4.0], [1.0, 3.0, 5.0], rule="separating").value == 2.5


def test_midpoint_and_quantile_by_hand() -> None:
    safer, less = [0.0, 1.0, 5.0], [2.0, 4.0, 9.0]
    assert fit_cost_zero(safer, less, rule="midpoint").value == 2.5
    found = fit_cost_zero(*scores(), rule="quantile", quantile=0.8)
    costs = np.concatenate(scores())
    assert (costs > found.value).mean() == pytest.approx(0.2, abs=0.002)


@pytest.mark.parametrize(("rule", "room"), [("separating", 0.5), ("midpoint", 0.15)])
def test_the_zero_is_found_where_both_kinds_meet(rule: str, room: float) -> None:
    found = fit_cost_zero(*scores(), rule=rule)
    assert found.value == pytest.approx(5.0, abs=room)
    assert found.low <= found.value <= found.high and found.high - found.low < 1.5
    assert found.safer_below > 0.75 and found.less_safe_above > 0.75


def test_a_shift_of_all_costs_shifts_the_zero_with_them() -> None:
    safer, less = scores(100)
    for rule in ("separating", "midpoint"):
        one, two = (fit_cost_zero(safer + shift, less + shift, rule=rule) for shift in (0.0, 16.0))
        assert two.value == pytest.approx(one.value + 16.0) and two.low == pytest.approx(one.low + 16.0)


def test_near_chance_the_shares_say_so() -> None:
    found = fit_cost_zero(*scores(500, 0.0), rule="midpoint")
    assert found.safer_below + found.less_safe_above == pytest.approx(1.0, abs=0.08)


def test_the_document_declares_what_the_zero_is() -> None:
    found = fit_cost_zero(*scores(50), rule="quantile", quantile=0.5, seed=3)
    document = json.loads(json.dumps(found.document()))
    assert document["warning"] == WARNING == "relative: not a safety label"
    assert document["method"] == "the quantile 0.5 of the costs of all responses, on 50 calibration pairs"
    assert CostZero(**document) == found == fit_cost_zero(*scores(50), rule="quantile", quantile=0.5, seed=3)
    sentence = fit_cost_zero(*scores(50), rule="separating").method
    assert (
        sentence
        == "the threshold that best separates the less safe responses from the safer ones, on 50 calibration pairs"
    )


def test_equal_costs_have_that_zero() -> None:
    assert fit_cost_zero([1.0, 1.0], [1.0, 1.0], rule="separating").value == 1.0


@pytest.mark.parametrize(
    ("safer", "less", "options", "message"),
    [
        ([1.0], [2.0], {"rule": "midpoint"}, "at least 2 pairs, got 1"),
        ([1.0, 2.0], [2.0], {"rule": "midpoint"}, "got 2 safer and 1 less safe"),
        ([1.0, np.inf], [2.0, 3.0], {"rule": "midpoint"}, "not finite"),
        ([1.0, 2.0], [2.0, 3.0], {"rule": "quantile"}, "with quantile None"),
        ([1.0, 2.0], [2.0, 3.0], {"rule": "quantile", "quantile": 1.0}, r"with quantile 1\.0"),
        ([1.0, 2.0], [2.0, 3.0], {"rule": "midpoint", "quantile": 0.5}, "others take none"),
    ],
)
def test_what_cannot_be_placed_is_refused(safer, less, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit_cost_zero(safer, less, **options)
