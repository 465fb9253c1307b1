"""The gap between the two halves' reward models, by hand."""

from __future__ import annotations

import pytest

from learner.statistics.overoptimisation import halves_alarm, halves_gap


def test_each_model_rises_in_units_of_its_own_spread() -> None:
    gap = halves_gap([1.0, 2.0, 5.0], [10.0, 12.0, 12.0], (1.0, 2.0), (10.0, 4.0))
    assert (gap.train_rise, gap.test_rise, gap.gap) == (2.0, 0.5, 1.5)
    assert (gap.train_end, gap.test_end, gap.steps) == (2.0, 0.5, 3)


def test_models_that_agree_have_no_gap_whatever_their_units_and_offsets() -> None:
    rewards = [0.1 * step for step in range(50)]
    gap = halves_gap(rewards, [7.0 - 2.0 + 3 * each for each in rewards], (0.0, 1.0), (5.0, 3.0))
    assert gap.gap == pytest.approx(0.0) and gap.train_rise == pytest.approx(4.5)  # means of 5 steps at each end
    assert halves_alarm(gap, 0.5) is None


def test_one_noisy_step_raises_no_alarm_and_a_lasting_gap_does() -> None:
    steps = 40
    noisy = [0.0] * (steps - 1) + [1.5]
    assert halves_alarm(halves_gap(noisy, [0.0] * steps, (0.0, 1.0), (0.0, 1.0)), 0.5) is None
    lasting = [step / 20 for step in range(steps)]
    text = halves_alarm(halves_gap(lasting, [0.0] * steps, (0.0, 1.0), (0.0, 1.0)), 0.5)
    assert text is not None and "rose by 1.80 spreads" in text and "by 0.00" in text and "halves.alarm is 0.5" in text


@pytest.mark.parametrize(
    ("train", "test", "baseline", "problem"),
    [
        ([], [], (0.0, 1.0), "for every step"),
        ([1.0], [1.0, 2.0], (0.0, 1.0), "for every step"),
        ([float("nan")], [1.0], (0.0, 1.0), "finite"),
        ([1.0], [1.0], (0.0, 0.0), "spread above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(train, test, baseline, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        halves_gap(train, test, baseline, (0.0, 1.0))
