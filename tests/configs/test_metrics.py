"""The catalogue of series: well-formed, and the page that is written from it."""

from __future__ import annotations

import re

import pytest

from configs.metrics import CATALOGUE, GROUPS, SOURCES, Series, markdown
from tests.paths import ROOT


def test_the_page_is_what_the_catalogue_says():
    assert (ROOT / "docs" / "metrics.md").read_text() == markdown(), "run `make generated`"


def test_names_are_there_once_and_every_series_is_in_a_group():
    names = [one.name for one in CATALOGUE]
    assert len(set(names)) == len(names)
    assert [one.name for group in GROUPS.values() for one in group] == names


@pytest.mark.parametrize("series", CATALOGUE, ids=lambda one: one.name)
def test_a_series_is_well_formed(series: Series):
    assert re.fullmatch(r"steelyard_[a-z][a-z0-9_]*", series.name)
    assert not series.name.endswith("_total")  # `exposed` adds it, to counters alone
    assert series.meaning.endswith(".")
    assert series.unit
    assert series.source in SOURCES
    assert "run" not in series.labels
    assert (series.source == "step") == bool(series.keys)
    for key, labels in series.keys.items():
        assert set(labels) == set(series.labels)
        assert key.count("*") <= 1
        assert any("*" in text for text in labels.values()) <= ("*" in key)
