"""What a reward or cost model's folder holds next to its weights, and how it is loaded whole.

A folder is a plain Hugging Face model. Of an ensemble it is member 0, the others are in ``members/1`` …, and
``ensemble.json`` says how their scores become one; who reads the folder as a plain model gets member 0.
``affine.json`` moves the score to other units or another zero; who reads the folder as a plain model gets the raw score.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from configs.exits import DataError
from learner.models.modules import Dtype, forward_end_scores, load_score_model

ENSEMBLE, SCORES, AFFINE = "ensemble.json", "scores.json", "affine.json"


@dataclass(frozen=True)
class EnsembleBound:
    """How the members' scores become one: their mean, shifted to the cautious side by `spread` standard deviations."""

    members: int
    spread: float
    bound: Literal["lower", "upper"]
    """``lower`` of a reward, ``upper`` of a cost (Coste et al. 2024 take the mean less a multiple of the variance)."""

    def combine(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and disagreement (population standard deviation), ``[…]``, of the members' scores ``[members, …]``."""
        mean, deviation = scores.mean(axis=0, dtype=np.float64), scores.std(axis=0, dtype=np.float64)
        return mean + (self.spread if self.bound == "upper" else -self.spread) * deviation, deviation


@dataclass(frozen=True)
class Affine:
    """score = ``scale`` * raw + ``offset``, after an ensemble's combination: a bias, a normaliser, or another zero."""

    scale: float = 1.0
    offset: float = 0.0


class WholeScoreModel:
    """A score model, or an ensemble of them that answers as one, in eval mode."""

    def __init__(
        self, members: Sequence[PreTrainedModel], bound: EnsembleBound | None, affine: Affine | None = None
    ) -> None:
        self._members, self.bound, self.affine = tuple(members), bound, affine

    @property
    def vocabulary_size(self) -> int:
        """Rows of the smallest member's embedding: token ids must be below it."""
        return min(int(member.get_input_embeddings().num_embeddings) for member in self._members)

    @torch.inference_mode()
    def score(self, input_ids: Tensor, lengths: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores float32 ``[B]`` at each row's last token, and the members' disagreement ``[B]`` (None of one model)."""
        member_scores = [forward_end_scores(member, input_ids, lengths).cpu().numpy() for member in self._members]
        if self.bound is None:
            return self._moved(member_scores[0]), None
        scores, deviation = self.bound.combine(np.stack(member_scores))
        if self.affine is not None:
            deviation = self.affine.scale * deviation
        return self._moved(scores).astype(np.float32), deviation.astype(np.float32)

    def _moved(self, scores: np.ndarray) -> np.ndarray:
        if self.affine is None:
            return scores
        moved = self.affine.scale * scores.astype(np.float64) + self.affine.offset
        return moved.astype(np.float32)


def load_whole_score_model(
    folder: Path, dtype: Dtype = torch.float32, device: torch.device | str = "cpu"
) -> WholeScoreModel:
    """The folder's model, or all members of its ensemble.

    Raises:
        DataError: the folder, or one of its members', holds no score model, or ``affine.json`` cannot be read.
    """
    bound = ensemble_of(folder)
    count = 1 if bound is None else bound.members
    members = [load_score_model(member_folder(folder, index), dtype).to(device) for index in range(count)]
    return WholeScoreModel(members, bound, affine_of(folder))


def member_folder(folder: Path, index: int) -> Path:
    """Where member `index` of an ensemble is: the folder itself, then ``members/1`` …"""
    return folder if index == 0 else folder / "members" / str(index)


def ensemble_of(folder: Path) -> EnsembleBound | None:
    """How the folder's members are combined; None of a single model.

    Raises:
        DataError: ``ensemble.json`` cannot be read.
    """
    path = folder / ENSEMBLE
    if not path.exists():
        return None
    try:
        bound = EnsembleBound(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} says nothing of an ensemble ({error}): train the model again") from error
    if bound.members < 2 or bound.bound not in ("lower", "upper"):
        raise DataError(f"{path} is of {bound.members} members, bound '{bound.bound}': train the model again")
    return bound


def save_ensemble(folder: Path, bound: EnsembleBound) -> None:
    """Write ``ensemble.json``."""
    write_document(folder / ENSEMBLE, asdict(bound))


def affine_of(folder: Path) -> Affine | None:
    """How the folder's raw score is moved; None where it is taken as it is.

    Raises:
        DataError: ``affine.json`` cannot be read, or its numbers are no scale and offset.
    """
    path = folder / AFFINE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text())
        affine = Affine(float(document["scale"]), float(document["offset"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} gives no scale and offset ({error}): make the model again") from error
    _check_affine(affine, path)
    return affine


def save_affine(folder: Path, scale: float, offset: float) -> None:
    """Write ``affine.json``: from now on the folder's score is ``scale`` * raw + ``offset``; it replaces one that was there.

    Raises:
        DataError: a number is not finite, or the scale is not above 0 (it would turn the order of the scores round, and an
            ensemble's cautious bound into its bold one; a model of the opposite is trained on the opposite).
    """
    affine = Affine(float(scale), float(offset))
    _check_affine(affine, folder / AFFINE)
    partial = folder / f".{AFFINE}.partial"
    write_document(partial, asdict(affine))
    os.replace(partial, folder / AFFINE)


def _check_affine(affine: Affine, path: Path) -> None:
    if not (math.isfinite(affine.scale) and math.isfinite(affine.offset) and affine.scale > 0):
        raise DataError(
            f"{path}: score = {affine.scale:g} * raw + {affine.offset:g} is of no use: the scale is a finite number above 0, "
            "the offset a finite number"
        )


def load_pair_scores(folder: Path) -> np.ndarray:
    """Scores float64 ``[2, n]`` of the better and the worse response of every pair of the file it was trained from.

    Raises:
        DataError: the folder has none.
    """
    path = folder / SCORES
    if not path.exists():
        raise DataError(f"{path} is missing: train the model again")
    document = json.loads(path.read_text())
    return np.array([document["better"], document["worse"]], dtype=np.float64)


def pair_scores_document(scores: np.ndarray) -> dict[str, list[float]]:
    """The content of ``scores.json``."""
    return {"better": scores[0].tolist(), "worse": scores[1].tolist()}


def write_document(path: Path, content: object) -> None:
    """One JSON file of a model's folder."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
