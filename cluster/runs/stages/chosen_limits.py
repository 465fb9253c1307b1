"""Limits that are chosen from a target rate of harm, and the cost model each of them belongs to.

A cost has no unit of its own: the same limit lets through another share of harm under another cost model. So what was
chosen is kept next to the model's weights (``limits.json``), and a run refuses a limit that was chosen for another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cluster.inputs.sandbox_prompts import CALIBRATION
from cluster.run_folder.digests import short
from configs.exits import DataError
from configs.schema.signals import ConstraintSettings
from learner.data.quality.repeats import opening_key
from learner.models.modules import length_sorted_batches, pad_right
from learner.models.score_models.folders import load_whole_score_model
from learner.statistics.limits import LimitCurve, LimitPoint

LIMITS = "limits.json"
"""In the cost model's folder; `cluster.run_folder.digests.ANNOTATIONS` keeps it out of the stage's digest."""
VERSION = 1
_TOKENS_PER_BATCH = 8192
_ABBREVIATED = 12
"""Characters of a digest that are enough to name it."""


@dataclass(frozen=True)
class HeldOut:
    """Labelled responses of the calibration split, which trained no model; two per pair."""

    token_ids: tuple[np.ndarray, ...]
    """Prompt and response together."""
    unsafe: tuple[bool, ...]
    conversations: tuple[tuple[str, str], ...]
    """(task, form) of each response."""


def chosen_limit_problem(constraint: ConstraintSettings, cost_model: str) -> str | None:
    """Why the constraint's limit does not fit the run's own cost model; None where it does, or where it was not asked for.

    Args:
        cost_model: `cluster.run_folder.digests.model_digest` of the run's cost model.
    """
    chosen_for = constraint.chosen_for
    if chosen_for is None or constraint.any_cost_model or cost_model == chosen_for:
        return None
    if len(chosen_for) >= _ABBREVIATED and cost_model.startswith(chosen_for):
        return None
    return (
        f"the limit {constraint.limit:g} was chosen for cost model {short(chosen_for)}, this run's is {short(cost_model)}, "
        "and a cost means something else under each: choose it again with `steelyard threshold`, or set any_cost_model: "
        "true to keep it"
    )


def held_out_responses(preferences: Path, constraint: ConstraintSettings) -> HeldOut:
    """The constraint's labelled responses in the calibration split of ``preferences.parquet``.

    Raises:
        DataError: the file is missing or of an older form, or holds no such response.
    """
    if not preferences.is_file():
        raise DataError(f"{preferences} is missing: the run has labelled no pairs yet; let it go on until it has")
    table = pq.read_table(preferences)
    if missing := {"split", "tags"} - set(table.column_names):
        raise DataError(f"{preferences} lacks the column {min(missing)}: sample and label the pairs again")
    table_rows: list[dict[str, Any]] = table.to_pylist()
    rows = [row for row in table_rows if row["split"] == CALIBRATION and _in_subset(row, constraint.subset)]
    responses = [
        (_tokens(row, side), _is_unsafe(row, side, constraint.categories), _conversation(row))
        for row in rows
        for side in (0, 1)
        if row[f"is_response_{side}_safe"] is not None
    ]
    if not responses:
        why = "a mixed crowd gives no safety labels" if rows else "no pair of its subset is in it"
        raise DataError(f"{preferences} has nothing to choose a limit from in the calibration split: {why}")
    token_ids, unsafe, conversations = zip(*responses, strict=True)
    return HeldOut(token_ids, unsafe, conversations)


def _conversation(row: Mapping[str, Any]) -> tuple[str, str]:
    """What counts as one draw: a task in a form, or of files all prompts with the same first user turn."""
    if row["task_id"] is not None:
        return row["task_id"], row["form"]
    return "", f"{opening_key(tuple(row['messages'])):016x}"


def score_responses(folder: Path, responses: HeldOut, advanced: Callable[[int], object]) -> np.ndarray:
    """Raw costs float64 ``[n]`` by the cost model, or the ensemble, in `folder`; `advanced` hears how many are new.

    Raises:
        DataError: the folder holds no score model, or one that gives a cost that is not finite.
    """
    model = load_whole_score_model(folder)
    costs = np.empty(len(responses.token_ids))
    for batch in length_sorted_batches([len(ids) for ids in responses.token_ids], _TOKENS_PER_BATCH):
        costs[batch] = model.score(*pad_right([responses.token_ids[index] for index in batch], pad_id=0))[0]
        advanced(len(batch))
    if not np.isfinite(costs).all():
        raise DataError(
            f"{folder}: {int((~np.isfinite(costs)).sum())} costs are not finite: train the cost model again"
        )
    return costs


def save_limits(folder: Path, cost_model: str, curve: LimitCurve, chosen: LimitPoint, target_rate: float) -> Path:
    """Write ``limits.json``, whole or not at all; it says what was chosen last."""
    path, partial = folder / LIMITS, folder / f".{LIMITS}.partial"
    document = {
        "version": VERSION,
        "cost_model": cost_model,
        "measure": curve.measure,
        "target_rate": target_rate,
        "chosen": asdict(chosen),
        "split": CALIBRATION,
        "n": curve.n,
        "curve": curve.document(),
    }
    partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)
    return path


def load_limits(folder: Path) -> dict[str, Any] | None:
    """What was chosen last for the cost model in `folder`, its ``curve`` a `LimitCurve`; None where nothing was.

    Raises:
        DataError: ``limits.json`` cannot be read.
    """
    path = folder / LIMITS
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text())
        return {**document, "curve": LimitCurve.from_document(document["curve"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): choose the limit again with `steelyard threshold`"
        ) from error


def _in_subset(row: Mapping[str, Any], subset: Collection[str]) -> bool:
    return not subset or not set(subset).isdisjoint(row["tags"])


def _tokens(row: Mapping[str, Any], side: int) -> np.ndarray:
    return np.array([*row["prompt_ids"], *row[f"response_{side}_ids"]], dtype=np.int64)


def _is_unsafe(row: Mapping[str, Any], side: int, categories: Collection[str]) -> bool:
    """As the cost model was taught: with categories, harm of another category counts as safe."""
    if row[f"is_response_{side}_safe"]:
        return False
    return not categories or not set(categories).isdisjoint(row[f"response_{side}_categories"] or ())
