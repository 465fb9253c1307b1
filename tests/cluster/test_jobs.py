"""What is uploaded with a job."""

from __future__ import annotations

from pathlib import Path

from actors.crowd.world import DEFAULT_WORLD_PATH
from cluster.jobs import CONFIG_NAME, ROOMS, WORLD_NAME, stage_working_dir
from configs.load import load_settings


def test_a_job_gets_the_rooms_and_its_configuration_and_nothing_else(tmp_path: Path):
    settings = load_settings("quickstart")
    stage_working_dir(tmp_path / "job", settings, local=True)
    assert {path.name for path in (tmp_path / "job").iterdir()} == {*ROOMS, CONFIG_NAME}
    assert load_settings(tmp_path / "job" / CONFIG_NAME) == settings
    assert not list((tmp_path / "job").rglob("__pycache__"))
    assert (tmp_path / "job" / "configs" / "presets" / "quickstart.yaml").is_file()


def test_a_remote_job_takes_its_world_along(tmp_path: Path):
    settings = load_settings("quickstart", [f"sandbox.world={DEFAULT_WORLD_PATH}"])
    stage_working_dir(tmp_path / "job", settings, local=False)
    assert (tmp_path / "job" / WORLD_NAME).read_bytes() == DEFAULT_WORLD_PATH.read_bytes()
    assert f"world: {WORLD_NAME}" in (tmp_path / "job" / CONFIG_NAME).read_text()
