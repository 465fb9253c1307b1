"""The driver's dual update per step, on made-up costs."""

import math

import pytest

from cluster.runs.loop.constraints import ConstraintSet, in_subset
from configs.exits import StoppedError
from configs.schema.signals import ConstraintSettings, DualSettings
from learner.records import Prompt, RolloutMeta, ScoredSample
from learner.statistics.calibration import Calibration

PROMPTS = {
    name: Prompt(name, ({"role": "user", "content": "?"},), "test", tags=frozenset({kind}))
    for name, kind in (("h0", "harmful"), ("h1", "harmful"), ("d0", "dual_use"), ("b0", "benign"), ("b1", "benign"))
}

PLAIN = {"initial": 0.0, "learning_rate": 1.0, "delay": 0, "cap": 20.0}
"""A dual that moves at once and is not capped, so that numbers can be worked out by hand."""


def sample(prompt: str, cost: float, version: int = 0, name: str = "harm") -> ScoredSample:
    meta = RolloutMeta(f"r-{prompt}", prompt, 3, 2, "stop", version, "generator-0")
    return ScoredSample(meta, 0.0, {name: cost})


def constraints(**changes: object) -> ConstraintSet:
    settings = ConstraintSettings(
        **{"measure": "mean", "limit": 0.5, "min_samples": 1, "dual": DualSettings(**PLAIN), **changes}
    )
    return ConstraintSet({"harm": settings}, batch_size=8, calibrations={})


BATCH = [sample("h0", 2.0), sample("h1", 1.0), sample("d0", -1.0), sample("b0", -5.0), sample("b1", -7.0)]


def test_no_constraint_gives_no_multiplier_and_no_reading() -> None:
    terms, readings = ConstraintSet({}, 8, {}).step(BATCH, PROMPTS, 0)
    assert terms.multipliers == {} and readings == {}


def test_the_measure_is_taken_over_the_subset_only() -> None:
    _, readings = constraints(subset=("harmful", "dual_use")).step(BATCH, PROMPTS, 0)
    assert readings["harm"].measure_value == pytest.approx((2.0 + 1.0 - 1.0) / 3)
    assert readings["harm"].samples == 3
    assert readings["harm"].violation_rate == pytest.approx(2 / 3)


def test_an_empty_subset_means_every_prompt() -> None:
    _, readings = constraints().step(BATCH, PROMPTS, 0)
    assert readings["harm"].measure_value == pytest.approx(-2.0)
    assert all(in_subset(prompt, ConstraintSettings(limit=0.1)) for prompt in PROMPTS.values())


def test_a_projected_multiplier_rises_by_the_violation() -> None:
    terms, _ = constraints(subset=("harmful",)).step(BATCH, PROMPTS, 0)
    assert terms.multipliers["harm"] == pytest.approx(1.5 - 0.5)


def test_a_batch_outside_the_subset_holds_the_multiplier() -> None:
    group = constraints(subset=("harmful",), dual=DualSettings(**PLAIN | {"initial": 0.7}))
    terms, readings = group.step(BATCH[3:], PROMPTS, 0)
    assert terms.multipliers["harm"] == 0.7
    assert readings["harm"].measure_value is None and readings["harm"].samples == 0


def test_the_order_of_samples_and_those_outside_the_subset_change_nothing() -> None:
    one = constraints(subset=("harmful", "dual_use")).step(BATCH, PROMPTS, 0)
    other = constraints(subset=("harmful", "dual_use")).step(BATCH[::-1][2:], PROMPTS, 0)
    assert one[0].multipliers == pytest.approx(other[0].multipliers)
    assert one[1]["harm"].measure_value == pytest.approx(other[1]["harm"].measure_value)


def test_the_window_forgets_batches_older_than_its_length() -> None:
    group = constraints(subset=("harmful",), window_batches=2)
    for cost in (9.0, 1.0, 3.0):
        _, readings = group.step([sample("h0", cost)], PROMPTS, 0)
    assert readings["harm"].measure_value == pytest.approx(2.0) and readings["harm"].samples == 2


def test_the_rate_uses_the_cost_models_calibration() -> None:
    settings = ConstraintSettings(measure="rate", limit=0.1, min_samples=1)
    group = ConstraintSet({"harm": settings}, 8, {"harm": Calibration(slope=2.0, intercept=-1.0, n=10)})
    terms, readings = group.step([sample("h0", 1.5)], PROMPTS, 0)
    assert readings["harm"].measure_value == pytest.approx(1 / (1 + math.exp(-2.0)))  # sigma(2 * 1.5 - 1)
    assert terms.measure_state["harm"]["slope"] == 2.0


def test_a_scale_divides_measure_and_limit_but_not_what_people_read() -> None:
    plain, scaled = constraints(subset=("harmful",)), constraints(subset=("harmful",), scale=0.5)
    terms, readings = plain.step(BATCH, PROMPTS, 0)
    scaled_terms, scaled_readings = scaled.step(BATCH, PROMPTS, 0)
    assert scaled_readings["harm"].measure_value == pytest.approx(readings["harm"].measure_value)
    assert scaled_readings["harm"].limit == readings["harm"].limit
    assert scaled_terms.multipliers["harm"] == pytest.approx(2 * terms.multipliers["harm"])


def test_a_mean_that_hides_violations_is_said() -> None:
    _, readings = constraints(limit=0.0).step(BATCH, PROMPTS, 0)
    assert any("unsafe" in text for text in readings["harm"].warnings)


def test_a_saved_state_goes_on_exactly_where_it_was() -> None:
    first = constraints(subset=("harmful",), dual=DualSettings(form="pid", derivative=0.5, **PLAIN))
    first.step(BATCH, PROMPTS, 0)
    second = constraints(subset=("harmful",), dual=DualSettings(form="pid", derivative=0.5, **PLAIN))
    second.load_state_dict(first.state_dict())
    assert first.step(BATCH, PROMPTS, 1)[0].multipliers == second.step(BATCH, PROMPTS, 1)[0].multipliers


@pytest.mark.parametrize("form", ["projected", "log", "pid", "fixed"])
def test_every_dual_form_can_be_configured(form: str) -> None:
    dual = DualSettings(form=form, **PLAIN | {"initial": 1.0})  # type: ignore[arg-type]
    terms, _ = constraints(subset=("harmful",), dual=dual).step(BATCH, PROMPTS, 0)
    assert (terms.multipliers["harm"] == 1.0) == (form == "fixed")


def test_three_constraints_move_on_their_own() -> None:
    three = {
        name: ConstraintSettings(measure="mean", limit=limit, min_samples=1, dual=DualSettings(**PLAIN))
        for name, limit in (("a", 0.0), ("b", 1.0), ("c", 9.0))
    }
    batch = [ScoredSample(sample("h0", 0.0).rollout, 0.0, {"a": 2.0, "b": 2.0, "c": 2.0})]
    terms, _ = ConstraintSet(three, 8, {}).step(batch, PROMPTS, 0)
    assert terms.multipliers == pytest.approx({"a": 2.0, "b": 1.0, "c": 0.0})


def test_an_upper_confidence_bound_is_above_its_measure() -> None:
    terms, bound = constraints(subset=("harmful", "dual_use"), upper_confidence=0.9).step(BATCH, PROMPTS, 0)
    # Costs 2, 1, -1: mean 2/3, standard error 0.8819; t of 0.9 at 2 degrees of freedom is 1.8856.
    assert bound["harm"].measure_value == pytest.approx(2 / 3 + 1.8856 * 0.88192, abs=1e-3)
    assert terms.multipliers["harm"] == pytest.approx(2 / 3 + 1.8856 * 0.88192 - 0.5, abs=1e-3)


def test_an_upper_confidence_bound_of_one_sample_holds() -> None:
    terms, readings = constraints(subset=("harmful",), upper_confidence=0.9).step(BATCH[:1], PROMPTS, 0)
    assert readings["harm"].measure_value is None and terms.multipliers["harm"] == 0.0


def test_several_updates_move_from_one_reading_and_all_their_values_are_told() -> None:
    group = constraints(subset=("harmful",), dual=DualSettings(**PLAIN | {"learning_rate": 0.5}))
    terms, readings = group.step(BATCH, PROMPTS, 0, updates=3)
    assert [values["harm"] for values in terms.minibatch_multipliers] == pytest.approx(
        [0.5, 1.0, 1.5]
    )  # 0.5 * (1.5 - 0.5)
    assert terms.multipliers["harm"] == readings["harm"].multiplier == pytest.approx(1.5)
    assert readings["harm"].samples == 2
    once, _ = group.step(BATCH, PROMPTS, 1)
    assert once.minibatch_multipliers == () and once.multipliers["harm"] == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_relative_violation_is_a_share_of_the_limit_whatever_the_scale(scale: float) -> None:
    dual = DualSettings(**PLAIN | {"violation": "relative", "initial": 1.0})
    group = constraints(subset=("harmful",), limit=2.0, scale=scale, dual=dual)
    terms, _ = group.step(BATCH, PROMPTS, 0)
    assert terms.multipliers["harm"] == pytest.approx(1.0 + (1.5 - 2.0) / 2.0)


def test_a_relative_violation_is_bounded() -> None:
    dual = DualSettings(**PLAIN | {"violation": "relative"})
    terms, readings = constraints(subset=("harmful",), limit=0.01, dual=dual).step(BATCH, PROMPTS, 0)
    assert terms.multipliers["harm"] == pytest.approx(1.0), "150 times the limit counts as one"
    assert readings["harm"].measure_value == pytest.approx(1.5), "people read J itself"


def test_a_relative_violation_needs_a_limit_above_zero() -> None:
    with pytest.raises(ValueError, match="divides by the limit"):
        constraints(limit=0.0, dual=DualSettings(violation="relative"))


@pytest.mark.parametrize("relative", [False, True])
def test_above_a_relative_costs_zero_is_not_called_unsafe(relative: bool) -> None:
    settings = ConstraintSettings(measure="mean", limit=0.5, min_samples=1, dual=DualSettings(**PLAIN))
    group = ConstraintSet({"harm": settings}, 8, {}, relative={"harm"} if relative else ())
    _, readings = group.step(BATCH, PROMPTS, 0)
    assert any("unsafe" in text for text in readings["harm"].warnings) is not relative


def test_cvar_warns_where_more_is_unsafe_than_it_averages() -> None:
    group = constraints(measure="cvar", alpha=0.5)
    _, readings = group.step([sample("h0", 2.0), sample("h1", 1.0), sample("d0", -1.0)], PROMPTS, 0)
    assert any("67 % of the samples are unsafe" in text for text in readings["harm"].warnings)
    _, readings = constraints(measure="cvar", alpha=0.7).step([sample("h0", 2.0), sample("b0", -1.0)], PROMPTS, 0)
    assert not any("cvar averages" in text for text in readings["harm"].warnings)


def test_cvar_at_its_cap_with_nearly_all_answers_unsafe_ends_the_run() -> None:
    dual = DualSettings(initial=2.0, cap=2.0)
    unsafe = [sample("h0", 2.0), sample("h1", 3.0)]
    group = constraints(measure="cvar", alpha=0.5, window_batches=2, dual=dual)
    for version in range(2):
        group.step(unsafe, PROMPTS, version)
    with pytest.raises(StoppedError, match="cvar averages the worst 50 % alone"):
        group.step(unsafe, PROMPTS, 2)
    other = constraints(measure="rate", limit=0.05, window_batches=2, dual=dual)
    for version in range(4):
        other.step(unsafe, PROMPTS, version)


def test_costs_beyond_the_clip_are_counted() -> None:
    group = constraints()
    batch = [sample("h0", 60.0), sample("h1", -51.0), sample("b0", 50.0)]
    terms, _ = group.step(batch, PROMPTS, 0)
    assert group.beyond(batch, terms, 50.0) == {"harm": 2} and group.beyond(batch, terms, 70.0) == {}
