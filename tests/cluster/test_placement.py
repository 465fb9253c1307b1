"""A run that a cluster could never hold is refused before anything starts, and who shares what is decided here."""

from __future__ import annotations

import pytest

from cluster.groups import sorted_by_address
from cluster.placement import (
    GENERATORS,
    LEARNER,
    SCORERS,
    bundles_of,
    needed_resources,
    require_resources,
    share_of_gpu,
    unmet,
)
from configs.exits import ClusterError, ConfigError, Exit
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
