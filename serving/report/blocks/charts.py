"""Drawing: one chart in two colour schemes, as SVG data URIs. Nothing here knows what is drawn.

Each chart is drawn twice and a ``<picture>`` chooses, so that dark mode needs no script; backgrounds are transparent.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from serving.report.blocks.blocks import Picture

WIDTH_INCHES = 4.3
HEIGHT_INCHES = 2.7
"""Near the size of a phone, so that labels stay legible when the picture is shrunk to one."""


@dataclass(frozen=True)
class Scheme:
    """Colours of one scheme; pairs of series differ in lightness as well as hue."""

    text: str
    faint: str
    before: str
    after: str
    limit: str
    series: tuple[str, ...]
    good: str
    bad: str


LIGHT = Scheme(
    text="#1f2933",
    faint="#c9d1d9",
    before="#8a94a0",
    after="#1f5fbf",
    limit="#b42318",
    series=("#1f5fbf", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#2c7a7b", "#97266d", "#4a5568"),
    good="#2f855a",
    bad="#b42318",
)
DARK = Scheme(
    text="#e4e8ec",
    faint="#3d4854",
    before="#8f9aa6",
    after="#7fb2ff",
    limit="#ff8a80",
    series=("#7fb2ff", "#f6ad6b", "#7ed3a2", "#b79cf5", "#ecc94b", "#76d7d5", "#f191c5", "#a0aec0"),
    good="#7ed3a2",
    bad="#ff8a80",
)

Draw = Callable[[Axes, Scheme], None]


def picture(
    title: str,
    description: str,
    draw: Draw,
    *,
    width: float = WIDTH_INCHES,
    height: float = HEIGHT_INCHES,
    wide: bool = False,
) -> Picture:
    """Run `draw` once per colour scheme on fresh axes."""
    light, dark = (_render(draw, scheme, width, height) for scheme in (LIGHT, DARK))
    return Picture(title, description, light, dark, wide=wide)


def _render(draw: Draw, scheme: Scheme, width: float, height: float) -> str:
    settings: Any = {
        "font.size": 10,
        "text.color": scheme.text,
        "axes.labelcolor": scheme.text,
        "axes.edgecolor": scheme.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": scheme.faint,
        "grid.linewidth": 0.5,
        "xtick.color": scheme.text,
        "ytick.color": scheme.text,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.hashsalt": "steelyard",
        "svg.fonttype": "path",
    }
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        draw(canvas.add_subplot(), scheme)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="svg", transparent=True, dpi=150, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(_without_preamble(buffer.getvalue())).decode("ascii")


def _without_preamble(svg: bytes) -> bytes:
    """Drop the XML declaration, doctype and metadata, which name outside addresses that nothing reads."""
    svg = svg[svg.index(b"<svg") :]
    start, end = svg.find(b"<metadata>"), svg.find(b"</metadata>")
    return svg if start < 0 else svg[:start] + svg[end + len(b"</metadata>") :]


def trend(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """``reward from 0.12 at step 0 to 1.31 at step 59 (lowest 0.1, highest 1.4)``."""
    return (
        f"{name} from {values[0]:.3g} at step {steps[0]:g} to {values[-1]:.3g} at step {steps[-1]:g} "
        f"(lowest {min(values):.3g}, highest {max(values):.3g})"
    )
