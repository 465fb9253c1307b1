"""p-values of several tests that are made together: adjusted, so that one of them small by chance is not taken for a find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from statsmodels.stats.multitest import multipletests

Method = Literal["holm", "benjamini_hochberg"]
_NAMES = {"holm": "holm", "benjamini_hochberg": "fdr_bh"}


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
    corrected = iter(multipletests(tested, method=_NAMES[method])[1].tolist())
    return [None if p is None else float(next(corrected)) for p in p_values]
