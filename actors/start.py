"""Start the actors of this room: their names, environment, resources and concurrency in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors import generator
from actors.generator import Generator, generator_environment
from actors.scoring import model_scorer
from actors.scoring.model_scorer import ModelScorer, ScorerModels
from actors.scoring.sources import PythonSignal
from configs.schema.resources import GeneratorSettings, ScorerSettings


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
    options = _options(name, spec.settings, generator_environment(spec.settings), scheduling)
    return actor.options(**options).remote(
        name, model_path, spec.tokenizer_path, spec.settings, spec.max_length, spec.deterministic, version
    )


def start_scorer(name: str, settings: ScorerSettings, models: ScorerModels, scheduling: Any = None) -> Any:
    """Start one scorer; returns its handle at once. Raises as `start_generator`."""
    actor = ray.remote(concurrency_groups={model_scorer.HEALTH: 1})(ModelScorer)
    environment = {
        "OMP_NUM_THREADS": str(settings.threads),
        "MKL_NUM_THREADS": str(settings.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if any(isinstance(source, PythonSignal) for source in models.signals.values()) and "PYTHONPATH" in os.environ:
        # A function is found here, so that it is found there too: workers have the path of whoever started the cluster.
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return actor.options(**_options(name, settings, environment, scheduling)).remote(name, settings, models)


def _options(
    name: str, settings: GeneratorSettings | ScorerSettings, environment: dict[str, str], scheduling: Any
) -> dict[str, Any]:
    # No restart by Ray: it would come back with its first arguments, and its owner must know that it was away.
    options: dict[str, Any] = {
        "name": name, "num_cpus": settings.cpus, "num_gpus": settings.gpus, "max_restarts": 0, "max_task_retries": 0,
        "runtime_env": {"env_vars": environment},
    }  # fmt: skip
    return options if scheduling is None else options | {"scheduling_strategy": scheduling}
