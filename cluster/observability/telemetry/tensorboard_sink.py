"""TensorBoard: event files, written by tensorboardX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.observability.telemetry.names import run_label
from cluster.observability.telemetry.sinks import SinkError
from configs.schema.run import RunSettings
from configs.schema.tracking import TensorBoardSettings


class TensorBoardSink:
    """One scalar per key of ``metrics.jsonl``; a resumed run hides the steps that it does again."""

    name = "TensorBoard"

    def __init__(self, sink: TensorBoardSettings, settings: RunSettings, root: Path) -> None:
        self._folder = sink.folder / run_label(root) if sink.folder is not None else root / "tensorboard"
        self._writer: Any = None

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """See `MetricsSink.step`."""
        from tensorboardX import SummaryWriter

        try:
            if self._writer is None:
                self._writer = SummaryWriter(str(self._folder), purge_step=step)
            for key, value in figures.items():
                self._writer.add_scalar(key, value, step)
            self._writer.flush()
        except OSError as error:
            raise SinkError(f"{self._folder}: {error}") from error

    def close(self, state: str) -> None:
        """See `MetricsSink.close`."""
        if self._writer is not None:
            self._writer.close()
