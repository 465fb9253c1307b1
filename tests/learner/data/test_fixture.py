"""The packaged set of made-up pairs: clean, balanced, and labelled for helpfulness alone."""

from __future__ import annotations

from collections import Counter

import pytest

from configs.schema.data import SourceSettings
from learner.data.quality.check import QualityCheck
from learner.data.quality.lengths import user_turns
from learner.data.records import PreferencePair
from learner.data.sources import FoundSource, find_source
from learner.statistics.intervals import wilson


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FoundSource:
    settings = SourceSettings(source="nothing-here.jsonl", otherwise="packaged:helpfulness")
    return find_source(settings, tmp_path_factory.mktemp("empty"), "data.helpfulness.0")


@pytest.fixture(scope="module")
def pairs(source: FoundSource) -> list[PreferencePair]:
    return [parsed.record for parsed in source.rows() if isinstance(parsed.record, PreferencePair)]


def test_the_check_finds_nothing(source: FoundSource, pairs: list[PreferencePair]) -> None:
    check = QualityCheck()
    for parsed in source.rows():
        check.add(parsed)
    quality = check.finish()
    assert [tally.kind for tally in quality.findings] == []
    assert quality.rows == quality.ok_rows == len(pairs) == 301


def test_only_helpfulness_is_labelled_and_prompts_have_one_to_three_turns(pairs: list[PreferencePair]) -> None:
    for pair in pairs:
        assert pair.better is not None and pair.safer is None and pair.safe == (None, None) and not pair.tags
    assert Counter(user_turns(pair.prompt) for pair in pairs) == {1: 199, 2: 76, 3: 26}


@pytest.mark.parametrize("unit", ["characters", "words"])
def test_length_does_not_give_the_better_response_away(pairs: list[PreferencePair], unit: str) -> None:
    def length(text: str) -> int:
        return len(text) if unit == "characters" else len(text.split())

    longer_by = [
        length(pair.responses[pair.better or 0]) - length(pair.responses[1 - (pair.better or 0)]) for pair in pairs
    ]
    longer_wins = wilson(sum(each > 0 for each in longer_by), sum(each != 0 for each in longer_by))
    assert longer_wins.low < 0.5 < longer_wins.high


def test_no_response_is_given_twice(pairs: list[PreferencePair]) -> None:
    texts = Counter(text for pair in pairs for text in pair.responses)
    assert texts.most_common(1)[0][1] == 1
