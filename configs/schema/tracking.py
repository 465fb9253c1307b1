"""Where a run's figures go besides its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from configs.schema.base import Settings


class TensorBoardSettings(Settings):
    """Event files for `tensorboard --logdir`; needs the extra `tensorboard`."""

    folder: Path | None = None
    """Holds a folder per run; none: `tensorboard/` in the run's folder."""


class WandbSettings(Settings):
    """Weights & Biases; needs the extra `wandb`, and online its own login (`wandb login`, or WANDB_API_KEY)."""

    project: str = "steelyard"
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"
    """`offline` writes `wandb/` in the run's folder, for `wandb sync` later; nothing leaves the machine."""


class MlflowSettings(Settings):
    """MLflow; needs the extra `mlflow`. Credentials are its own environment variables'."""

    uri: str
    """Of the tracking server, such as `https://mlflow.example.org`; with all of `mlflow` installed also `sqlite:////path`."""
    experiment: str = "steelyard"


class TrackingSettings(Settings):
    """Sinks of the loop's figures; none of them changes a run. `metrics.jsonl` is always written."""

    prometheus: bool = True
    """Give every series of docs/metrics.md to Ray's metrics, for a Prometheus that scrapes the cluster."""
    tensorboard: TensorBoardSettings | None = None
    wandb: WandbSettings | None = None
    mlflow: MlflowSettings | None = None
