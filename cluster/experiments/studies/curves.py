"""How reward and distance from SFT go together over one loop. Pure."""

from __future__ import annotations

import numpy as np
from scipy import stats

from cluster.experiments.results.rows import Row


def r_squared_sqrt(row: Row) -> float | None:
    """Share of the reward's variance over the loop that a line in sqrt(KL) explains; None without a loop."""
    return _r_squared(row, root=True)


def r_squared_linear(row: Row) -> float | None:
    """Likewise of a line in KL."""
    return _r_squared(row, root=False)


def better_fit(row: Row) -> float | None:
    """By how much a line in sqrt(KL) explains more than a line in KL."""
    root, line = r_squared_sqrt(row), r_squared_linear(row)
    return None if root is None or line is None else root - line


def _r_squared(row: Row, *, root: bool) -> float | None:
    points = [(point["kl"], point["reward"]) for point in row.curve if "kl" in point and "reward" in point]
    if len(points) < 3:
        return None
    kl, reward = np.array(points).T
    distance = np.maximum(kl, 0.0)
    return float(stats.linregress(np.sqrt(distance) if root else distance, reward).rvalue) ** 2
