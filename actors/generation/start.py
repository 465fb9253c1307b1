"""How a generator is started as a Ray actor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.generation import generator
from actors.generation.generator import Generator, generator_environment
from actors.ray_options import actor_options
from configs.schema.resources import GeneratorSettings


@dataclass(frozen=True)
class GeneratorSpec:
    """What every generator of a group has in common."""

    tokenizer_path: Path
    settings: GeneratorSettings
    max_length: int
    deterministic: bool = False


def start_generator(name: str, spec: GeneratorSpec, model_path: Path, version: int, scheduling: Any = None) -> Any:
    """Start one generator; returns its handle at once, while its engine is being built.

    Args:
        scheduling: a Ray scheduling strategy, or None.

    Raises:
        ValueError: an actor of this name is still there (Ray frees the name of a killed one within moments).
    """
    actor = ray.remote(concurrency_groups={generator.HEALTH: 1})(Generator)
    options = actor_options(name, spec.settings, generator_environment(spec.settings), scheduling)
    return actor.options(**options).remote(
        name, model_path, spec.tokenizer_path, spec.settings, spec.max_length, spec.deterministic, version
    )
