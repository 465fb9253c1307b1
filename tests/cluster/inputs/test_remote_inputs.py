"""Before a run on a remote cluster: what only its nodes have is noted, everything else is refused here."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.inputs.remote_checks import check_remote_inputs
from cluster.inputs.sources import check_inputs
from cluster.job import main
from configs.exits import ConfigError, DataError, Exit
from configs.load import dump_settings, load_settings
from configs.schema.run import RunSettings
from tests.cluster.on_data import config_in

ABSENT = "/storage-of-no-machine"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return config_in(tmp_path)


ELSEWHERE = [
    (f"data.harmlessness=[{{source: {ABSENT}/pairs.jsonl}}]", "data.harmlessness.0", "pairs.jsonl"),
    (f"data.prompts=[{{source: '{ABSENT}/*/train/**'}}]", "data.prompts.0", "*/train/**"),
    (f"data.evaluation={{hard: {{source: {ABSENT}/hard}}}}", "data.evaluation.hard", "hard"),
    (f"model.path={ABSENT}/models/7b", "model.path", "models/7b"),
    (f"objective.scorer={{path: {ABSENT}/models/rm}}", "objective.scorer", "models/rm"),
    (f"constraints.harm.scorer={{path: {ABSENT}/models/cm}}", "constraints.harm.scorer", "models/cm"),
]


@pytest.mark.parametrize(("override", "key", "path"), ELSEWHERE)
def test_an_absolute_path_that_is_not_here_is_noted_and_the_job_refuses_it(
    config: Path, override: str, key: str, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = load_settings(config, [override])
    note = f"{key}: {ABSENT}/{path} is not on this machine; the job checks it on the cluster"
    assert check_remote_inputs(settings) == [note]
    with pytest.raises((ConfigError, DataError), match=ABSENT):
        check_inputs(settings)
    sent = tmp_path / "submitted.yaml"
    sent.write_text(dump_settings(settings))
    assert main([str(sent), "--dry-run"]) in (Exit.USAGE, Exit.DATA)
    assert f"{ABSENT}/{path}" in capsys.readouterr().err


def test_the_prompts_of_a_judge_may_lie_on_the_cluster(config: Path):
    judge = f"{{url: 'http://127.0.0.1:1/v1', model: m, prompts: {ABSENT}/prompts.yaml}}"
    settings = load_settings(
        config, ["rounds.count=2", "preferences.labels=judge", f"preferences.judge={judge}", "preferences.pairs=10"]
    )
    assert "preferences.judge.prompts: " in check_remote_inputs(settings)[0]
    with pytest.raises(ConfigError, match=r"preferences\.judge\.prompts"):
        check_inputs(settings)


def test_relative_sources_below_an_absolute_root_count_as_absolute(config: Path):
    notes = check_remote_inputs(load_settings(config, [f"data.root={ABSENT}"]))
    assert len(notes) == 3 and all(f"{ABSENT}/h" in note and "is not on this machine" in note for note in notes)


def test_an_arms_paths_are_noted_once_and_its_errors_name_it(config: Path):
    arms = f"arms={{a: {{data.prompts: [{{source: {ABSENT}/p}}]}}, b: {{data.prompts: [{{source: {ABSENT}/p}}]}}}}"
    assert len(check_remote_inputs(load_settings(config, [arms]))) == 1
    with pytest.raises(ConfigError, match=r"arms\.a: constraints\.harm\.subset: no source of prompts has the tag"):
        check_remote_inputs(load_settings(config, ["arms={a: {constraints.harm.subset: [dangerou]}}"]))


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("data.harmlessness=[{source: pears.jsonl}]", DataError),  # relative to a root that is here
        ("data.harmlessness=[]", ConfigError),
        ("model.path=./nowhere", ConfigError),
        ("model.path=~/nowhere", ConfigError),
        ("constraints.harm.subset=[dangerou]", ConfigError),
    ],
)
def test_everything_else_is_still_refused_here(config: Path, override: str, error: type[Exception]):
    with pytest.raises(error):
        check_remote_inputs(load_settings(config, [override]))


def test_a_folder_that_is_here_is_looked_at(config: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for override in (f"model.path={tmp_path}/empty", f"data.prompts=[{{source: {tmp_path}/empty}}]"):
        with pytest.raises((ConfigError, DataError)):
            check_remote_inputs(load_settings(config, [override]))


def test_on_the_sandbox_the_world_is_checked(tmp_path: Path):
    settings: RunSettings = load_settings("tension")
    assert check_remote_inputs(settings) == []
