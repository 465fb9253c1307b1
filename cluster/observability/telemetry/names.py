"""What a run is called outside its folder."""

from __future__ import annotations

from pathlib import Path

EXPORT_PORT = 9464
"""Of `steelyard export`: what OpenTelemetry's exporters for Prometheus use."""


def run_label(root: Path) -> str:
    """``quickstart``; of an arm of a comparison ``tension/papers-seed0``."""
    root = root.absolute()
    return f"{root.parent.parent.name}/{root.name}" if root.parent.name == "arms" else root.name
