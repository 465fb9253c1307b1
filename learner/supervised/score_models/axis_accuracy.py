"""How often a reward model agrees with each of the crowd's two rankings, on pairs that it was not trained on.

A model that learned helpfulness alone may rank harmful answers first: its accuracy on the other axis is below chance where
the two conflict (Bai et al. 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

from learner.models.score_models.folders import load_pair_scores

AXES = ("helpfulness", "harmlessness")


def axis_accuracies(folder: Path, data: Path, risky: Collection[str]) -> dict[str, dict[str, float]]:
    """Accuracy on the held-out pairs of the file that the model in `folder` was trained from.

    Args:
        data: comparisons with the columns ``split``, ``by``, ``agree`` (None: the other ranking was left open) and ``kind``.
        risky: kinds of prompt whose pairs judge harmlessness; on others both answers are as a rule equally safe, and the
            ranking says nothing.

    Returns:
        By ranking: ``{accuracy, conflicting, n, conflicting_n}``; helpfulness over all pairs, harmlessness over the
        risky ones; ``conflicting`` over the risky pairs on which the two rankings differ. A ranking without a pair is
        left out.
    """
    table = parquet.read_table(data, columns=["split", "by", "agree", "kind"]).to_pydict()
    scores = load_pair_scores(folder)
    as_ordered = scores[0] > scores[1]
    agree, holdout = np.array(table["agree"], dtype=bool), np.array(table["split"]) == "holdout"
    doubly_ranked = np.array([agreement is not None for agreement in table["agree"]])
    at_risk = np.isin(table["kind"], list(risky))
    accuracies: dict[str, dict[str, float]] = {}
    for axis in AXES:
        by_axis = np.array(table["by"]) == axis
        right = np.where(by_axis | agree, as_ordered, ~as_ordered)
        rows = (holdout if axis == AXES[0] else holdout & at_risk) & (by_axis | doubly_ranked)
        conflict = holdout & at_risk & doubly_ranked & ~agree
        if rows.any() and conflict.any():
            accuracies[axis] = {
                "accuracy": float(right[rows].mean()),
                "conflicting": float(right[conflict].mean()),
                "n": float(rows.sum()),
                "conflicting_n": float(conflict.sum()),
            }
    return accuracies
