"""Who gives a signal its scores, as it travels to the scorer actors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PythonSignal:
    """A Python function (`actors.scoring.python_scorer`)."""

    function: str
    """``package.module:function``."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    deadline_seconds: float = 60.0
    total_seconds: float | None = None
    """For one chunk: what has no score by then is too slow. Below the deadline after which the actor counts as silent."""


@dataclass(frozen=True)
class ForeignModel:
    """A score model that this run did not train, in a folder that every node sees."""

    folder: Path
    template: str | None = None
    """Name of the chat template its tokenizer gets; None: its own."""


SignalSource = Path | PythonSignal | ForeignModel
"""A plain path is the folder of a model on the policy's own tokens, or of an ensemble of them."""
