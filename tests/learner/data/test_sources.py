"""The sources a run's settings name: found, told apart by content, tagged, quarantined."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.exits import ConfigError, DataError
from configs.schema.data import SourceSettings
from learner.data.quarantine import Quarantine
from learner.data.records import PreferencePair
from learner.data.sources import find_source, rows_of
from tests.learner.data.made_up import hh


def write(path: Path, rows: int, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(hh(first + number)) + "\n" for number in range(rows)))
    return path


def test_rows_carry_the_settings_tags_and_the_limit(tmp_path: Path) -> None:
    write(tmp_path / "harmless" / "a.jsonl", 5)
    source = find_source(SourceSettings(source="harmless/a.jsonl", rows=3, tags=("x", "y")), tmp_path, "data.prompts.0")
    records = [parsed.record for parsed in source.rows()]
    assert len(records) == 3
    assert all(isinstance(one, PreferencePair) and one.tags == ("x", "y") and one.safer == 0 for one in records)


def test_a_pattern_takes_files_and_what_is_below_folders(tmp_path: Path) -> None:
    write(tmp_path / "harmless-base-1500.jsonl", 2)
    write(tmp_path / "harmless-base" / "train.jsonl", 3, first=10)
    write(tmp_path / "helpful-base" / "train.jsonl", 4, first=20)
    source = find_source(SourceSettings(source="harmless-base*"), tmp_path, "data.harmlessness.0")
    assert len(list(source.rows())) == 5


def test_a_missing_source_names_its_key_or_gives_way(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.helpfulness\.0: .*nothing"):
        find_source(SourceSettings(source="nothing.jsonl"), tmp_path, "data.helpfulness.0")
    spare = write(tmp_path / "spare.jsonl", 1)
    found = find_source(SourceSettings(source="nothing*", otherwise="spare.jsonl"), tmp_path, "data.helpfulness.0")
    assert found.replaced and found.place == str(spare)
    with pytest.raises(DataError, match=r"^data\.helpfulness\.0\.otherwise: "):
        find_source(SourceSettings(source="nothing*", otherwise="neither*"), tmp_path, "data.helpfulness.0")


def test_an_unknown_packaged_set_or_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no packaged set 'helpfullness'"):
        find_source(SourceSettings(source="packaged:helpfullness"), tmp_path, "k")
    write(tmp_path / "a.jsonl", 1)
    with pytest.raises(ConfigError, match="hh_rlfh"):
        find_source(SourceSettings(source="a.jsonl", format="hh_rlfh"), tmp_path, "k")


def test_a_digest_follows_content_and_settings_and_not_the_place(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.jsonl", 3)
    write(tmp_path / "two" / "a.jsonl", 3)
    settings = SourceSettings(source="a.jsonl", ranking="safer")
    first = find_source(settings, tmp_path / "one", "k").digest()
    assert find_source(settings, tmp_path / "two", "k").digest() == first
    other = settings.model_copy(update={"ranking": "better"})
    assert find_source(other, tmp_path / "one", "k").digest() != first
    write(tmp_path / "two" / "a.jsonl", 3, first=7)
    assert find_source(settings, tmp_path / "two", "k").digest() != first


def test_the_hub_is_not_asked_before_it_is_read(tmp_path: Path) -> None:
    source = find_source(SourceSettings(source="hub:someone/set@main", split="train"), tmp_path, "k")
    assert source.on_hub and source.digest() == source.digest()


def test_bad_rows_are_kept_apart_and_passed_on(tmp_path: Path) -> None:
    path = write(tmp_path / "harmless.jsonl", 3)
    path.write_text(path.read_text() + "{broken\n")
    source = find_source(SourceSettings(source="harmless.jsonl"), tmp_path, "k")
    with Quarantine(tmp_path / "quarantine.parquet") as quarantine:
        found = list(rows_of([source], quarantine))
    assert [parsed.error is None for parsed in found] == [True, True, True, False]
    kept = pq.read_table(tmp_path / "quarantine.parquet").to_pylist()
    assert [(row["row"], row["kind"]) for row in kept] == [(4, "bad_json")]
