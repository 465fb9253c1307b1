"""Where the checkout is, and the shared data next to it that some tests read, from whatever folder a test is in."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SHARED = ROOT.parent / "shared"
"""Tests that need it are skipped, with the reason, where this folder is absent."""
