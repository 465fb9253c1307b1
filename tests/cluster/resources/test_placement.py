"""A run that a cluster could never hold is refused before anything starts, and who shares what is decided here."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.resources import placement_groups as groups
from cluster.resources.placement import (
    GENERATORS,
    LEARNER,
    SCORERS,
    bundles_of,
    needed_resources,
    require_resources,
    share_of_gpu,
    unmet,
)
from cluster.resources.placement_groups import RoleGroups, sorted_by_address, wait_for_nodes
from configs.exits import ClusterError, ConfigError, Exit, StopRequested
from configs.load import load_settings
from configs.schema.resources import GeneratorSettings, LearnerSettings, ResourceSettings, ScorerSettings


def on_gpus(placement: str, generators: int = 4, ranks: int = 4, scorers: int = 1) -> ResourceSettings:
    return ResourceSettings(
        placement=placement,
        generators=GeneratorSettings(gpus=1, cpus=2, count=generators),
        learner=LearnerSettings(gpus=1, cpus=3, ranks=ranks),
        scorers=ScorerSettings(gpus=1, cpus=1, replicas=scorers),
    )


def test_the_busiest_phase_counts():
    settings = ResourceSettings()
    # two generators, one scorer and two ranks of 0.4 each, which is more than two generators and two trainers
    assert needed_resources(settings) == {"CPU": 5 * 0.4, "GPU": 0.0}


def test_two_cores_are_enough_for_the_defaults():
    require_resources(ResourceSettings(), [{"CPU": 2.0}])


def test_a_cluster_that_is_too_small_is_named_with_what_to_change():
    settings = ResourceSettings(generators=GeneratorSettings(gpus=1, count=4), learner=LearnerSettings(gpus=1, ranks=8))
    with pytest.raises(
        ClusterError, match=r"asks for 12 GPU and the cluster has 8: lower resources\.\*\.gpus.*wait_for_nodes_seconds"
    ) as caught:
        require_resources(settings, [{"CPU": 64.0, "GPU": 8.0}])
    assert caught.value.exit_code == Exit.UNSATISFIABLE


def test_a_bundle_must_find_room_on_one_node():
    settings = ResourceSettings(learner=LearnerSettings(cpus=6, ranks=1))
    problem = unmet(settings, [{"CPU": 4.0}] * 4)
    assert problem is not None
    assert "no node has room for one more of learner (nodes: 4 x 4 CPU)" in problem
    assert unmet(settings, [{"CPU": 4.0}, {"CPU": 6.0}]) is None


@pytest.mark.parametrize(
    ("placement", "gpus"),
    [("disaggregated", 9.0), ("colocated", 5.0), ("mixed", 8.0)],
)
def test_who_shares_a_gpu_decides_how_many_are_needed(placement: str, gpus: float):
    settings = on_gpus(placement)
    assert needed_resources(settings)["GPU"] == gpus
    assert unmet(settings, [{"CPU": 64.0, "GPU": gpus}]) is None
    assert unmet(settings, [{"CPU": 64.0, "GPU": gpus - 1}]) is not None


def test_two_actors_on_one_gpu_ask_ray_for_half_each():
    assert [share_of_gpu(on_gpus("colocated"), role) for role in (GENERATORS, LEARNER, SCORERS)] == [0.5, 0.5, 1]
    assert [share_of_gpu(on_gpus("mixed"), role) for role in (GENERATORS, LEARNER, SCORERS)] == [1, 0.5, 0.5]
    assert [share_of_gpu(on_gpus("disaggregated"), role) for role in (GENERATORS, LEARNER, SCORERS)] == [1, 1, 1]


def test_a_shared_bundle_has_the_cores_of_both():
    shared = bundles_of(on_gpus("colocated", generators=6, ranks=4))[0]
    assert (shared.count, shared.resources()) == (6, {"CPU": 5.0, "GPU": 1.0})


def test_a_whole_gpu_for_two_is_refused_where_it_is_more_than_one():
    with pytest.raises(ConfigError, match=r"resources\.learner\.gpus: 2 cannot be shared: placement colocated"):
        load_settings("quickstart", ["resources.placement=colocated", "resources.learner.gpus=2"])
    with pytest.raises(ConfigError, match=r"resources\.scorers\.colocate: placement mixed"):
        load_settings("quickstart", ["resources.placement=mixed", "resources.scorers.colocate=false"])


def test_bundles_are_handed_out_node_by_node():
    homes = {0: "b", 1: "a", 2: "b", 3: "a", 4: "c"}
    addresses = {"a": "10.0.0.9", "b": "10.0.0.10", "c": "elsewhere"}
    assert sorted_by_address(homes, addresses) == [1, 3, 0, 2, 4]


# --- waiting ----------------------------------------------------------------------------------------------------------


class FakeRay:
    """A cluster of one node of 4 cores, whose groups are free after some slices of waiting."""

    def __init__(self, slices: float, stop_in: int | None = None) -> None:
        self.clock, self.left, self.stop_in, self.waits, self.removed = 0.0, slices, stop_in, [], []
        self.util = self

    def placement_group(self, bundles: list[Any], **options: Any) -> FakeRay:
        return self

    def wait(self, timeout_seconds: float) -> bool:
        self.waits.append(timeout_seconds)
        if len(self.waits) == self.stop_in:
            raise StopRequested("asked")
        if self.left:
            self.clock += timeout_seconds
            self.left -= 1
        return not self.left

    def remove_placement_group(self, group: Any) -> None:
        self.removed.append(group)

    def placement_group_table(self, group: Any) -> dict[str, Any]:
        return {"bundles_to_node_id": {}}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 4.0}, "NodeID": "a", "NodeManagerAddress": "10.0.0.1"}]


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch):
    def use(slices: float, stop_in: int | None = None) -> FakeRay:
        ray = FakeRay(slices, stop_in)
        monkeypatch.setattr(groups, "ray", ray)
        monkeypatch.setattr(groups.time, "monotonic", lambda: ray.clock)
        return ray

    return use


def test_a_reservation_waits_in_slices_and_says_what_for(fake_ray):
    ray, said = fake_ray(50), []
    RoleGroups(ResourceSettings(wait_for_nodes_seconds=90), said.append)._reserve(bundles_of(ResourceSettings())[0])
    assert max(ray.waits) <= 1 and ray.removed == []
    what = "waiting for 2 x generators of 0.4 CPU, {} s left: of 1 x 4 CPU the cluster has 1 x 1 CPU left: another job holds the rest"
    assert said == [what.format(85), what.format(55), ""]


def test_a_reservation_that_is_soon_there_is_not_spoken_of(fake_ray):
    said: list[str] = []
    fake_ray(3)
    RoleGroups(ResourceSettings(), said.append)._reserve(bundles_of(ResourceSettings())[0])
    assert said == []


def test_what_was_reserved_is_given_back_when_the_wait_is_stopped_or_too_long(fake_ray):
    ray = fake_ray(50, stop_in=3)
    with pytest.raises(StopRequested):
        RoleGroups(ResourceSettings(), list)._reserve(bundles_of(ResourceSettings())[0])
    assert ray.removed == [ray]
    ray = fake_ray(50)
    with pytest.raises(
        ClusterError, match=r"not free within 30 s; of 1 x 4 CPU .* another job holds the rest; wait for it"
    ):
        RoleGroups(ResourceSettings(), list)._reserve(bundles_of(ResourceSettings())[0])
    assert ray.removed == [ray] and ray.clock == 30


@pytest.mark.parametrize("ends", ["stopped", "too late", "there"])
def test_the_autoscaler_is_asked_for_nothing_once_the_wait_is_over(fake_ray, monkeypatch, ends: str):
    ray, asked, said = fake_ray(0), [], []
    settings = ResourceSettings(wait_for_nodes_seconds=60, learner=LearnerSettings(ranks=1, cpus=6))

    def sleep(seconds: float) -> None:
        ray.clock += seconds
        if ends == "stopped":
            raise StopRequested("asked")
        if ends == "there" and ray.clock > 40:
            monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}])

    monkeypatch.setattr(groups.time, "sleep", sleep)
    monkeypatch.setattr(groups, "_ask_autoscaler", asked.append)
    if ends == "there":
        wait_for_nodes(settings, said.append)
        assert len(said) == 3 and said[0].startswith("waiting for nodes, 60 s left: ") and said[-1] == ""
    else:
        with pytest.raises(StopRequested if ends == "stopped" else ClusterError):
            wait_for_nodes(settings, said.append)
    assert len(asked) == 2 and {"CPU": 6.0} in asked[0] and asked[1] == []
