"""MLflow: a run per attempt on a tracking server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.observability.telemetry.names import run_label
from cluster.observability.telemetry.sinks import SinkError
from configs.schema.run import RunSettings
from configs.schema.tracking import MlflowSettings

_BATCH = 1000
"""Metrics that one call takes at most."""


class MlflowSink:
    """One metric per key of ``metrics.jsonl``. An attempt is a run; its tag ``steelyard.run`` joins attempts."""

    name = "MLflow"

    def __init__(self, sink: MlflowSettings, settings: RunSettings, root: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._errors: tuple[type[Exception], ...] = (MlflowException, OSError)
        label = run_label(root)
        try:
            self._client: Any = MlflowClient(tracking_uri=sink.uri)
            existing = self._client.get_experiment_by_name(sink.experiment)
            experiment = existing.experiment_id if existing else self._client.create_experiment(sink.experiment)
            tags = {"steelyard.run": label, "algorithm": settings.algorithm, "seed": str(settings.seed)}
            self._id = self._client.create_run(experiment, run_name=label, tags=tags).info.run_id
        except self._errors as error:
            raise SinkError(f"MLflow at {sink.uri} does not start: {_one_line(error)}") from error

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """See `MetricsSink.step`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, value in figures.items()]
        try:
            for start in range(0, len(metrics), _BATCH):
                self._client.log_batch(self._id, metrics=metrics[start : start + _BATCH])
        except self._errors as error:
            raise SinkError(_one_line(error)) from error

    def close(self, state: str) -> None:
        """See `MetricsSink.close`."""
        status = {"finished": "FINISHED", "stopped": "KILLED"}.get(state, "FAILED")
        try:
            self._client.set_terminated(self._id, status)
        except self._errors as error:
            raise SinkError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
