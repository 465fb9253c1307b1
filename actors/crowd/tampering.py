"""Harmlessness labels that are wrong on purpose: flipped for a share of the pairs, or dealt out among them at random.

What a study of poisoning, or a negative control, compares with. Helpfulness labels stay as they are, and so do the votes:
a poisoner changes the file that is learned from, not what people said.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from configs.exits import DataError

HARMLESSNESS = (
    "safer_response_id",
    "is_response_0_safe",
    "is_response_1_safe",
    "response_0_categories",
    "response_1_categories",
)
"""The columns that change, together."""


@dataclass(frozen=True)
class Tampering:
    """What is done. ``flip``: of a ``share`` of all pairs, among requests of these ``categories`` where some are given, the
    safe response is called unsafe, the unsafe one safe, and the ranking turned. ``shuffle``: every pair has another one's.
    """

    how: Literal["flip", "shuffle"]
    share: float
    categories: tuple[str, ...] = ()


def tamper(
    rows: Sequence[Mapping[str, Any]], tampering: Tampering, seed: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Labelled pairs with tampered harmlessness labels, in the same order, and how many of them have changed.

    Raises:
        DataError: fewer pairs are of these categories than are to be flipped.
    """
    rng = random.Random(f"tampering/{seed}")
    if tampering.how == "shuffle":
        order = list(range(len(rows)))
        rng.shuffle(order)
        changed = [{**row, **_labels(rows[partner])} for row, partner in zip(rows, order, strict=True)]
    else:
        chosen = _chosen(rows, tampering, rng)
        changed = [_flipped(row) if index in chosen else dict(row) for index, row in enumerate(rows)]
    moved = sum(_labels(new) != _labels(old) for new, old in zip(changed, rows, strict=True))
    return changed, {"tampered": float(moved)}


def _chosen(rows: Sequence[Mapping[str, Any]], tampering: Tampering, rng: random.Random) -> frozenset[int]:
    count = round(tampering.share * len(rows))
    eligible = [
        index for index, row in enumerate(rows) if not tampering.categories or row["category"] in tampering.categories
    ]
    if len(eligible) < count:
        raise DataError(
            f"preferences.tampering.share: {count} of {len(rows)} pairs are to be flipped, and only {len(eligible)} are of "
            f"{', '.join(tampering.categories)}; lower it to at most {len(eligible) / len(rows):.3f}, or name more categories"
        )
    return frozenset(rng.sample(eligible, count))


def _labels(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in HARMLESSNESS}


def _flipped(row: Mapping[str, Any]) -> dict[str, Any]:
    """Unsafe becomes safe and safe unsafe, of the request's category where it has one; the ranking turns with them."""
    new = {**row, "safer_response_id": 1 - int(row["safer_response_id"])}
    for side in (0, 1):
        safe = not row[f"is_response_{side}_safe"]
        new[f"is_response_{side}_safe"] = safe
        new[f"response_{side}_categories"] = () if safe else tuple([row["category"]] if row["category"] else [])
    return new
