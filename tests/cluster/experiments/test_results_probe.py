"""Probes: which code gives the same figures, and which rows stay fresh because of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.experiments.results.cells import TABLE, Cell, covers, logic_digest
from cluster.experiments.results.plan import Scope
from cluster.experiments.results.probe import ARMS, FILE, STUDIED, moved, probe_settings, read_probes, record, same_code
from cluster.experiments.results.status import standing
from cluster.experiments.studies.catalogue import STUDIES, find_study
from configs.exits import DataError
from configs.load import arm_settings
from tests.cluster.made_up_rows import keep, made_up_row

FIGURES = {"a/step 1/reward": 0.5, "a/certificate/harm": 0.0}


def test_equal_figures_make_two_digests_one(tmp_path: Path) -> None:
    record(tmp_path, "old", FIGURES)
    nearly = {name: value * (1 + 1e-6) for name, value in FIGURES.items()}
    assert record(tmp_path, "new", nearly).codes == ("old", "new")
    assert same_code(tmp_path, "new") == {"old", "new"} and same_code(tmp_path, "else") == {"else"}
    assert read_probes(tmp_path)[0].figures == FIGURES, "the first probe stays the measure: no drift by small steps"


def test_other_figures_begin_another_probe_and_a_digest_is_in_one_only(tmp_path: Path) -> None:
    record(tmp_path, "old", FIGURES)
    other = {**FIGURES, "a/step 1/reward": 0.51}
    assert moved(other, FIGURES) == ["a/step 1/reward: 0.51 was 0.5"]
    assert record(tmp_path, "new", other).codes == ("new",)
    assert same_code(tmp_path, "old") == {"old"}
    record(tmp_path, "new", FIGURES)
    assert [each.codes for each in read_probes(tmp_path)] == [("old", "new")]


def test_code_that_one_processor_ties_to_earlier_code_is_the_same_everywhere(tmp_path: Path) -> None:
    rounded = {**FIGURES, "a/step 1/reward": 0.5002}
    record(tmp_path, "oldest", FIGURES)
    record(tmp_path, "old", FIGURES)
    assert record(tmp_path, "old", rounded, "GenuineIntel 6-1").codes == ("old",), (
        "another processor rounds differently"
    )
    assert record(tmp_path, "new", rounded, "GenuineIntel 6-1").codes == ("old", "new")
    assert same_code(tmp_path, "new") == {"oldest", "old", "new"}
    wrong = {**FIGURES, "a/step 1/reward": 0.6}
    assert record(tmp_path, "wrong", wrong, "GenuineIntel 6-1").codes == ("wrong",)
    assert same_code(tmp_path, "wrong") == {"wrong"}
    assert [probe.processor for probe in read_probes(tmp_path)] == ["", "GenuineIntel 6-1", "GenuineIntel 6-1"]


def test_what_is_new_and_what_is_gone_in_an_arm_counts_as_moved() -> None:
    assert moved({"a/y": 1.0}, {"a/x": 1.0}) == ["a/y: is new", "a/x: is gone"]


def test_an_arm_with_other_overrides_says_nothing_of_the_code(tmp_path: Path) -> None:
    then, now = {"a@1/x": 1.0, "b@1/x": 2.0}, {"a@1/x": 1.0, "b@2/x": 7.0}
    assert moved(now, then) == []
    assert moved({"b@2/x": 7.0}, then) == ["no arm is the same as then"]
    record(tmp_path, "old", then)
    record(tmp_path, "new", now)
    (probe,) = read_probes(tmp_path)
    assert probe.codes == ("old", "new") and probe.figures == {**then, **now}, "known from now on too"


def test_a_row_of_equal_code_stays_fresh(tmp_path: Path) -> None:
    rows = tmp_path / "results" / "rows"
    keep(rows, made_up_row("gdpo", code="old"))
    assert standing(rows, Scope(), logic_digest()).stale == {"results-gdpo-seed0": ("code",)}
    record(rows.parent, "old", FIGURES)
    record(rows.parent, logic_digest(), FIGURES)
    assert standing(rows, Scope(), logic_digest()).stale == {}


def test_a_file_that_is_no_probe_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[{}]")
    with pytest.raises(DataError, match=r"probes\.json is no file of probes"):
        read_probes(tmp_path)


def test_settings_that_came_later_do_not_make_a_row_stale() -> None:
    then = {"ppo": {"steps": 60}, "seed": 0}
    assert covers({"ppo": {"steps": 60, "novelty": 1}, "seed": 0, "data": {}}, then)
    assert not covers({"ppo": {"steps": 61}, "seed": 0}, then)
    assert not covers({"seed": 0}, then)


def test_every_arm_of_the_probe_is_a_valid_arm_of_the_table() -> None:
    settings = probe_settings()
    assert set(ARMS) <= {Cell(TABLE, arm, 0).arm for arm in settings.arms}
    for arm in ARMS:
        assert arm_settings(settings, arm, 0).deterministic


def test_every_study_with_a_path_of_its_own_is_probed_at_the_smallest_size() -> None:
    sizes = {preset for preset in find_study("model_size").arms.values() if preset != TABLE}
    assert {preset for study in STUDIES for preset in study.presets} - {TABLE} == set(STUDIED) | sizes
    for preset, arms in STUDIED.items():
        settings = probe_settings(preset, arms)
        for arm in arms:
            varied = arm_settings(settings, arm, 0)
            assert varied.deterministic and varied.ppo.steps == 3 and varied.preferences.pairs == 160
            assert set(settings.arms[arm]), "an arm of a study changes something"
