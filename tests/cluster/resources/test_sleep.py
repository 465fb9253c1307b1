"""Generators on the learner's GPUs: when they sleep, and in which order they wake."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.generation import sleep
from cluster.resources.engines import Engines
from configs.schema.resources import GeneratorSettings, LearnerSettings, ResourceSettings

COLOCATED = ResourceSettings(
    placement="colocated", generators=GeneratorSettings(gpus=1), learner=LearnerSettings(gpus=1)
)


def test_colocated_generators_sleep_and_ask_for_half_a_gpu(tmp_path: Path):
    settings = Engines(COLOCATED, 128, tmp_path)._settings
    assert (settings.generators.sleep, settings.generators.gpus, settings.learner.gpus) == (True, 0.5, 0.5)
    assert not Engines(ResourceSettings(), 128, tmp_path)._settings.generators.sleep


def test_weights_wake_before_they_are_loaded_and_the_cache_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    monkeypatch.setattr(sleep, "put_to_sleep", lambda group, seconds: done.append("sleep"))
    monkeypatch.setattr(sleep, "wake", lambda group, part, seconds: done.append(f"wake {part}"))
    report = SimpleNamespace(send=SimpleNamespace(size_bytes=1, seconds=0.0), seconds=0.1)

    def publish(version: int) -> Any:
        done.append(f"publish {version}")
        return report

    for settings, expected in (
        (COLOCATED, ["sleep", "wake weights", "publish 3", "wake kv_cache"]),
        (ResourceSettings(), ["publish 3"]),
    ):
        engines = Engines(settings, 128, tmp_path)
        engines._generators, engines._publisher = SimpleNamespace(), SimpleNamespace(publish=publish)  # type: ignore[assignment]
        engines.before_learning()
        engines.publish(3)
        assert done == expected
        done.clear()
