"""p-values of several tests that are made together: adjusted, so that one of them small by chance is not taken for a find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Method = Literal["holm", "benjamini_hochberg"]


def adjusted(p_values: Sequence[float | None], method: Method = "holm") -> list[float | None]:
    """Adjusted p-values in the order given; None, a test that could not be made, stays None and does not count.

    ``holm`` (Holm 1979) bounds the chance of any false find, ``benjamini_hochberg`` (1995) the expected share of false
    ones among the finds.

    Raises:
        ValueError: a p-value is not in [0, 1].
    """
    tested = [p for p in p_values if p is not None]
    if any(not 0.0 <= p <= 1.0 or math.isnan(p) for p in tested):
        raise ValueError(f"p-values are in [0, 1], got {[p for p in tested if not 0.0 <= p <= 1.0][:3]}")
    if not tested:
        return list(p_values)
    p = np.asarray(tested, dtype=np.float64)
    corrected = iter((_holm(p) if method == "holm" else stats.false_discovery_control(p, method="bh")).tolist())
    return [None if value is None else float(next(corrected)) for value in p_values]


def _holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Not statsmodels': its `multipletests` collects all garbage of the process each time, 0.2 s once torch is loaded."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    values = np.empty_like(p)
    values[order] = np.minimum(stepped, 1.0)
    return values
