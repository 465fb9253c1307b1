"""What a configuration on data may say; and that the sandbox's rules still hold without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.crowd.world_reader import load_world
from cluster.inputs.sources import FileInputs, absolute_paths, check_inputs
from configs.exits import ConfigError, DataError
from configs.load import load_settings
from configs.schema.run import RunSettings
from tests.cluster.on_data import config_in


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return config_in(tmp_path)


def checked(config: Path, *overrides: str) -> FileInputs:
    found = check_inputs(load_settings(config, overrides))
    assert isinstance(found, FileInputs)
    return found


def test_without_data_it_is_the_world() -> None:
    assert check_inputs(load_settings("quickstart")) == load_world()


def test_prompts_are_those_of_the_pairs_with_their_tags(config: Path) -> None:
    found = checked(config)
    assert [source.settings.tags for source in found.prompts] == [("helpfulness",), ("dangerous", "harmlessness")]
    assert found.digest() == checked(config).digest()
    assert checked(config, "data.show=better").digest() != found.digest()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.harmlessness=[]"], "data.harmlessness: the cost model of harm needs pairs"),
        (["data.helpfulness=[]"], "data.helpfulness: a reward model needs pairs"),
        (["data.demonstrations=[]"], "data.demonstrations: a model from scratch must learn to answer first"),
        (["algorithm=safe_dpo"], "algorithm: safe_dpo is not offered on data yet; take gdpo"),
        (
            ["preferences.pairs=10"],
            "preferences: is the sandbox's, and this run is on data: the pairs are in the files",
        ),
        (["splits.by=task"], "splits.by: is the sandbox's, and this run is on data: take data.unit"),
        (["certificate.labels=crowd"], "certificate.labels: is the sandbox's"),
        (["evaluation.samples_unknown=3"], "evaluation.samples_unknown: is the sandbox's"),
        (["model.revision=main"], "model.revision: belongs to model.path"),
        (["model.path=owner/name", "model.layers=2"], "model.layers: is the given model's own"),
        (
            ["constraints.harm.subset=[dangerou]"],
            "no source of prompts has the tag 'dangerou'; did you mean 'dangerous'?",
        ),
        (["ppo.kind_weights={harmful: 1}"], "ppo.kind_weights: no source of prompts has the tag 'harmful'"),
        (
            [
                "rounds.count=2",
                "preferences.labels=judge",
                "preferences.judge={url: 'http://127.0.0.1:1/v1'}",
                "preferences.kind_weights={harmful: 1}",
            ],
            "preferences.kind_weights: no source of prompts has the tag 'harmful'",
        ),
        (["model.path=./nowhere"], "model.path: there is no folder ./nowhere"),
        (["arms={a: {data.helpfulness: []}}"], "data.helpfulness: a reward model needs pairs"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(config: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(config, *overrides)
    assert said in str(caught.value)


def test_a_missing_file_is_named(config: Path) -> None:
    (config.parent / "helpful.jsonl").unlink()
    with pytest.raises(DataError, match=r"data\.helpfulness\.0: .*helpful\.jsonl"):
        checked(config)


def test_a_relative_root_is_where_the_run_was_submitted(config: Path, tmp_path: Path) -> None:
    relative: RunSettings = load_settings(config, ["data.root=below"])
    moved = absolute_paths(relative, tmp_path)
    assert moved.data is not None and moved.data.root == tmp_path / "below"
    assert absolute_paths(moved, Path("/elsewhere")) == moved
    (tmp_path / "model").mkdir()
    assert absolute_paths(load_settings(config, ["model.path=model"]), tmp_path).model.path == str(tmp_path / "model")
    assert absolute_paths(load_settings(config, ["model.path=owner/name"]), tmp_path).model.path == "owner/name"
    assert absolute_paths(load_settings("quickstart"), tmp_path).data is None
