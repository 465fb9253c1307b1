"""The watch over the two halves' reward models: the gap after each step, the alarm, and a resume."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.runs.loop.overoptimisation_watch import ALARM_EVERY, HalvesWatch
from configs.schema.supervised import HalvesSettings

ON = HalvesSettings(enabled=True, alarm=0.5)


def line(step: int) -> dict[str, Any]:
    """The train model's mean rises by a tenth of its spread (2) a step, the test model's by a twentieth of its own (1)."""
    return {"step": step, "reward": 3.0 + 0.2 * step, "watched/reward_test": 1.0 + 0.05 * step}


def watch(settings: HalvesSettings = ON, earlier: list[dict[str, Any]] | None = None) -> HalvesWatch:
    return HalvesWatch(settings, (3.0, 2.0), (1.0, 1.0), earlier or [])


def test_the_gap_is_in_spreads_of_each_model() -> None:
    halves = watch()
    gaps = [halves.observe(line(step))["halves_gap"] for step in range(1, 6)]
    assert gaps == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_the_alarm_sounds_once_in_ten_steps_and_only_above_its_bound() -> None:
    halves, heard = watch(), {}
    for step in range(1, 31):
        halves.observe(line(step))
        if (text := halves.alarm(step)) is not None:
            heard[step] = text
    assert list(heard) == [2 * ALARM_EVERY, 3 * ALARM_EVERY] and "halves.alarm is 0.5" in heard[20]


def test_a_resumed_watch_goes_on_where_it_was() -> None:
    whole = watch()
    for step in range(1, 9):
        whole.observe(line(step))
    resumed = watch(earlier=[line(step) for step in range(1, 7)])
    for step in (7, 8):
        resumed.observe(line(step))
    assert resumed.facts() == whole.facts()


def test_nothing_is_watched_unless_asked() -> None:
    halves = watch(HalvesSettings())
    assert halves.observe({"step": 1, "reward": 0.0}) == {} and halves.alarm(10) is None and halves.facts() == {}
