"""The generators' health, with a clock that only moves when told."""

from __future__ import annotations

import pytest

from actors.generation.fleet_health import FleetError, FleetHealth, FleetLost, FleetPolicy, Health

POLICY = FleetPolicy(
    max_restarts=2, start_seconds=100, probe_interval_seconds=5, probe_timeout_seconds=20, backoff_seconds=1
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> FleetHealth:
    fleet = FleetHealth(["a", "b"], POLICY, clock=clock)
    for name in "ab":
        fleet.started(name)
        fleet.updated(name, 0)
    return fleet


def test_a_started_engine_is_stale_until_its_weights_are_confirmed(clock: Clock) -> None:
    fleet = FleetHealth(["a"], POLICY, clock=clock)
    assert fleet.health("a") is Health.STARTING
    fleet.started("a")
    assert fleet.health("a") is Health.STALE and not fleet.serving() and fleet.reachable() == ["a"]
    fleet.updated("a", 0)
    assert fleet.serving() == ["a"]


def test_nobody_serves_while_an_update_is_under_way(fleet: FleetHealth) -> None:
    fleet.begin_update(1)
    assert fleet.serving() == [] and fleet.reachable() == ["a", "b"]
    fleet.updated("a", 1)
    assert fleet.serving() == ["a"] and fleet.weight_version("a") == 1


def test_an_update_to_an_older_version_leaves_a_generator_stale(fleet: FleetHealth) -> None:
    fleet.begin_update(2)
    fleet.updated("a", 1)
    assert fleet.health("a") is Health.STALE


def test_a_dead_generator_comes_back_only_by_way_of_stale_and_an_update(fleet: FleetHealth, clock: Clock) -> None:
    assert fleet.died("a", "killed") is Health.DEAD
    assert fleet.weight_version("a") is None and fleet.reason("a") == "killed"
    with pytest.raises(FleetError, match="cannot have completed"):
        fleet.updated("a", 0)
    with pytest.raises(FleetError, match="cannot become"):
        fleet.started("a")
    clock.now += 1
    fleet.restarting("a")
    with pytest.raises(FleetError):
        fleet.updated("a", 0)
    fleet.started("a")
    assert fleet.health("a") is Health.STALE and fleet.serving() == ["b"]
    fleet.begin_update(1)
    fleet.updated("a", 1)
    assert fleet.serving() == ["a"]


def test_restarts_wait_for_a_backoff_that_doubles(fleet: FleetHealth, clock: Clock) -> None:
    fleet.died("a", "killed")
    assert fleet.due_restarts() == []
    clock.now += 1
    assert fleet.due_restarts() == ["a"]
    fleet.restarting("a")
    fleet.died("a", "again")
    clock.now += 1.9
    assert fleet.due_restarts() == []
    clock.now += 0.1
    assert fleet.due_restarts() == ["a"]


def test_a_generator_without_restarts_left_is_lost_and_the_last_one_stops_the_run(
    fleet: FleetHealth, clock: Clock
) -> None:
    for _ in range(2):
        fleet.died("a", "killed")
        clock.now += 60
        fleet.restarting("a")
    assert fleet.died("a", "killed") is Health.LOST
    assert fleet.lost() == ["a"] and fleet.due_restarts() == []
    fleet.check_alive()
    once = FleetHealth(["c"], FleetPolicy(max_restarts=0, start_seconds=1), clock=clock)
    once.died("c", "out of memory")
    with pytest.raises(FleetLost, match="c: out of memory"):
        once.check_alive()


def test_death_is_counted_once_however_often_it_is_reported(fleet: FleetHealth, clock: Clock) -> None:
    fleet.died("a", "first")
    clock.now += 0.9
    fleet.died("a", "second")
    clock.now += 0.1
    assert fleet.reason("a") == "first" and fleet.due_restarts() == ["a"]


def test_one_probe_at_a_time_and_only_to_the_silent(fleet: FleetHealth, clock: Clock) -> None:
    assert fleet.due_probes() == []
    clock.now += 5
    assert fleet.due_probes() == ["a", "b"]
    fleet.heard("b")
    fleet.probe_sent("a")
    assert fleet.due_probes() == []
    clock.now += 5
    assert fleet.due_probes() == ["b"]
    fleet.heard("a")
    clock.now += 5
    assert "a" in fleet.due_probes()


def test_a_probe_without_answer_and_a_start_without_end_are_given_up(fleet: FleetHealth, clock: Clock) -> None:
    clock.now += 5
    fleet.probe_sent("a")
    clock.now += 19
    assert fleet.overdue() == []
    clock.now += 1
    assert [name for name, _ in fleet.overdue()] == ["a"]
    fleet.died("a", "silent")
    assert fleet.overdue() == []
    clock.now += 1
    fleet.restarting("a")
    clock.now += 100
    assert fleet.overdue() == [("a", "its engine did not start within 100 s")]


def test_signs_of_life_cancel_an_open_probe(fleet: FleetHealth, clock: Clock) -> None:
    clock.now += 5
    fleet.probe_sent("a")
    clock.now += 19
    fleet.heard("a")
    clock.now += 2
    assert fleet.overdue() == []
