"""A run that a cluster could never hold is refused before anything starts."""

import pytest

from cluster.placement import needed_resources, require_resources
from configs.exits import ClusterError, Exit
from configs.schema.resources import GeneratorSettings, LearnerSettings, ResourceSettings


def test_the_busiest_phase_counts():
    settings = ResourceSettings()
    # two generators, one scorer and two ranks of 0.4 each, which is more than two generators and two trainers
    assert needed_resources(settings) == {"CPU": 5 * 0.4, "GPU": 0.0}


def test_two_cores_are_enough_for_the_defaults():
    require_resources(ResourceSettings(), {"CPU": 2.0})


def test_a_cluster_that_is_too_small_is_named_with_what_to_change():
    settings = ResourceSettings(generators=GeneratorSettings(gpus=1, count=4), learner=LearnerSettings(gpus=1, ranks=8))
    with pytest.raises(
        ClusterError, match=r"asks for 12 GPU and the cluster has 8: lower resources\.\*\.gpus"
    ) as caught:
        require_resources(settings, {"CPU": 64.0, "GPU": 8.0})
    assert caught.value.exit_code == Exit.UNSATISFIABLE
