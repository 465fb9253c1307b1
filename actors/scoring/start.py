"""How a scorer is started as a Ray actor."""

from __future__ import annotations

import os
from typing import Any

import ray

from actors.ray_options import actor_options
from actors.scoring import model_scorer
from actors.scoring.model_scorer import ModelScorer, ScorerModels
from actors.scoring.sources import PythonSignal
from configs.schema.resources import ScorerSettings


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
        # A function that is found here must be found there too: workers have the path of the process that started the cluster.
        environment["PYTHONPATH"] = absolute_folders(os.environ["PYTHONPATH"])
    return actor.options(**actor_options(name, settings, environment, scheduling)).remote(name, settings, models)


def absolute_folders(path: str) -> str:
    """A search path whose relative folders are made absolute here: a worker has another working folder."""
    return os.pathsep.join(os.path.abspath(folder) for folder in path.split(os.pathsep) if folder)
