"""Every generator is told to sleep and to wake, over real Ray calls; one that fails is given up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actors.generation import sleep

pytestmark = pytest.mark.system


class Sleeper:
    def __init__(self, fails: bool) -> None:
        self._fails = fails
        self.done: list[str] = []

    def sleep(self) -> None:
        if self._fails:
            raise RuntimeError("out of host memory")
        self.done.append("sleep")

    def wake(self, part: str) -> None:
        self.done.append(part)

    def seen(self) -> list[str]:
        return self.done


def test_every_generator_is_told_and_one_that_fails_is_given_up(ray_session: None):
    actors = {"generator-0": False, "generator-1": True}
    handles = {name: ray.remote(num_cpus=0)(Sleeper).remote(fails) for name, fails in actors.items()}
    failed: dict[str, str] = {}
    group: Any = SimpleNamespace(
        actor=handles.__getitem__,
        health=SimpleNamespace(reachable=lambda: [name for name in handles if name not in failed]),
        failed=failed.__setitem__,
    )
    sleep.put_to_sleep(group, 60)
    assert list(failed) == ["generator-1"] and "out of host memory" in failed["generator-1"]
    sleep.wake(group, sleep.WEIGHTS, 60)
    sleep.wake(group, sleep.CACHE, 60)
    assert ray.get(handles["generator-0"].seen.remote(), timeout=60) == ["sleep", "weights", "kv_cache"]
    for handle in handles.values():
        ray.kill(handle)
