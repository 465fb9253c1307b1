"""Weights & Biases: a run per run folder, offline unless told otherwise."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.observability.telemetry.names import run_label
from cluster.observability.telemetry.sinks import SinkError
from configs.schema.run import RunSettings
from configs.schema.tracking import WandbSettings


class WandbSink:
    """One metric per key of ``metrics.jsonl``, over ``step``. A resumed run goes on in the same W&B run."""

    name = "W&B"

    def __init__(self, sink: WandbSettings, settings: RunSettings, root: Path) -> None:
        import wandb

        self._errors = wandb.errors.Error
        label = run_label(root)
        # The same folder is the same run, also after a resume; a run of that name elsewhere is another.
        place = hashlib.sha256(f"{socket.gethostname()}:{root.resolve()}".encode()).hexdigest()[:8]
        try:
            self._run: Any = wandb.init(
                project=sink.project,
                entity=sink.entity,
                name=label,
                id=f"{label.replace('/', '-')}-{place}",
                dir=str(root),
                mode=sink.mode,
                resume="allow",
                config=settings.model_dump(mode="json"),
                settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
            )
            # Steps come from the line: W&B would drop those that a resumed run does again.
            self._run.define_metric("*", step_metric="step")
        except (self._errors, OSError) as error:
            raise SinkError(f"W&B does not start: {_one_line(error)}") from error

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """See `MetricsSink.step`."""
        try:
            self._run.log({**figures, "step": step})
        except (self._errors, OSError) as error:
            raise SinkError(_one_line(error)) from error

    def close(self, state: str) -> None:
        """See `MetricsSink.close`."""
        try:
            self._run.finish(exit_code=0 if state == "finished" else 1)
        except (self._errors, OSError) as error:
            raise SinkError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
