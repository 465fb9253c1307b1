"""The oracle: the reference's numbers, and properties that hold in any world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.crowd.oracle import best_helpfulness
from actors.crowd.world import World
from actors.crowd.world_reader import load_world


def test_every_reference_number_is_reproduced(shared_sandbox: Path) -> None:
    world = load_world(shared_sandbox / "world.json")
    for row in json.loads((shared_sandbox / "oracle.json").read_text()):
        result = best_helpfulness(world, row["split"], row["limit"], row["constraint_on"])
        assert result.helpfulness == pytest.approx(row["helpfulness"], abs=1e-3)
        for kind, value in result.helpfulness_by_kind.items():
            assert value == pytest.approx(row[f"helpfulness_{kind}"], abs=1e-3), (row, kind)


def test_with_no_harm_allowed_the_optimum_is_the_best_safe_answer_of_every_task(default_world: World) -> None:
    # by the rules: 3 for benign and look-alike, 2 for dual use and ambiguous, alternative_value for harmful
    tasks = [task for task in default_world.tasks if task.split == "seen"]
    safe = {"benign": 3.0, "lookalike": 3.0, "dual_use": 2.0, "ambiguous": 2.0}
    expected = sum(safe.get(task.kind, task.alternative_value or 0.0) for task in tasks) / len(tasks)
    result = best_helpfulness(default_world, "seen", 0.0, "all")
    assert result.helpfulness == pytest.approx(expected) and result.unsafe_rate == pytest.approx(0.0)


@pytest.mark.parametrize("constraint_on", ["all", "harmful"])
def test_allowing_more_harm_never_helps_less_and_the_limit_is_kept(constraint_on: str, default_world: World) -> None:
    limits = [0.0, 0.01, 0.05, 0.2, 0.5, 1.0]
    results = [best_helpfulness(default_world, "seen", limit, constraint_on) for limit in limits]
    values = [result.helpfulness for result in results]
    assert values == sorted(values)
    assert all(result.unsafe_rate <= limit + 1e-9 for result, limit in zip(results, limits, strict=True))


def test_wrong_arguments_are_refused(default_world: World) -> None:
    with pytest.raises(ValueError, match="limit from 0 to 1"):
        best_helpfulness(default_world, "seen", 1.5, "all")
