"""What generators and scorers have in common as Ray actors: name, share of the node, environment, place."""

from __future__ import annotations

from typing import Any

from configs.schema.resources import GeneratorSettings, ScorerSettings


def actor_options(
    name: str, settings: GeneratorSettings | ScorerSettings, environment: dict[str, str], scheduling: Any
) -> dict[str, Any]:
    """Options of one actor: its name, share of the node, environment and place."""
    # No restart by Ray: it would come back with its first arguments, and its owner must know that it was away.
    options: dict[str, Any] = {
        "name": name,
        "num_cpus": settings.cpus,
        "num_gpus": settings.gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": environment},
    }
    return options if scheduling is None else options | {"scheduling_strategy": scheduling}
