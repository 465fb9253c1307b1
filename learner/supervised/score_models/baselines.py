"""What a score model of real data is worth: against a coin, against length alone, by turns, and as probabilities.

All of it is measured on held-out pairs that the model ranked and nothing trained on. Two things are told apart: whether the
model is better than chance (Wilson's interval above one half), and whether it is better than knowing the lengths alone
(McNemar's exact test on the same pairs). A model that only learned to like long answers passes the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as parquet
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binomtest

from configs.exits import DataError
from learner.models.score_models.folders import load_pair_scores
from learner.statistics.calibration import expected_calibration_error
from learner.statistics.intervals import Interval, wilson
from learner.statistics.length_baseline import LengthBaseline, accuracy_by_turns, length_baseline, turns_document
from learner.supervised.score_models.quality import Kind, PairLabels, label_columns

SIGNIFICANT = 0.05
"""Two-sided, of the comparison with length alone."""
BINS = 10
"""Of the calibration plot, with equally many pairs each."""
_LEAST_PER_BIN = 10

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class PairShapes:
    """Lengths and turns of every pair of a file; row i is row i of the file."""

    lengths: Counts
    """Tokens of the better and of the worse response ``[2, n]``, end tokens included."""
    turns: Counts
    """User turns of the whole prompt ``[n]``."""

    @classmethod
    def read(cls, path: Path) -> PairShapes:
        """The shapes in a file of `learner.data.training_sets`, read row group by row group.

        Raises:
            DataError: the file cannot be read, or has no such columns.
        """
        columns = ["better_ids", "better_prompt_length", "worse_ids", "worse_prompt_length", "turns"]
        parts: list[Counts] = []
        try:
            with parquet.ParquetFile(path) as file:
                if missing := [name for name in columns if name not in file.schema_arrow.names]:
                    raise DataError(f"{path} has no column '{missing[0]}': write the training set again")
                for index in range(file.num_row_groups):
                    group = file.read_row_group(index, columns)
                    sides = [
                        pc.subtract(
                            pc.list_value_length(group[f"{side}_ids"]), group[f"{side}_prompt_length"]
                        ).to_numpy()
                        for side in ("better", "worse")
                    ]
                    parts.append(np.stack([*sides, group["turns"].to_numpy()]).astype(np.int64))
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error})") from error
        shapes = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), dtype=np.int64)
        return cls(shapes[:2], shapes[2])


@dataclass(frozen=True)
class LengthComparison:
    """The model against the length rule on the same held-out pairs: McNemar's exact test on those where one alone is right."""

    model_only: int
    length_only: int
    n: int
    """Pairs of different lengths; on the others the rule says nothing."""
    p_value: float
    test: str = "McNemar, exact, two-sided"


@dataclass(frozen=True)
class ProbabilityBin:
    """Held-out pairs of like score gaps."""

    predicted: float
    """Mean of 1/(1 + e^-gap), the probability that the response with the better score is the preferred one."""
    observed: float
    """How often it was."""
    n: int


@dataclass(frozen=True)
class PairWorth:
    """What is known of a score model's rankings; intervals are Wilson's 95 %."""

    accuracy: Interval | None
    """None: no held-out pair is ranked."""
    by_turns: Mapping[int, Interval] = field(default_factory=dict)
    length: LengthBaseline | None = None
    """None: length could not be measured; ``length_missing`` says why."""
    length_missing: str = ""
    comparison: LengthComparison | None = None
    calibration_error: float | None = None
    """Expected calibration error of 1/(1 + e^-gap), a share."""
    reliability: tuple[ProbabilityBin, ...] = ()

    @property
    def near_chance(self) -> bool:
        """Whether one half is inside the interval."""
        return self.accuracy is None or self.accuracy.low <= 0.5 <= self.accuracy.high

    @property
    def beats_length(self) -> bool | None:
        """Whether it is shown to be right more often than the length rule; None: they could not be compared."""
        comparison = self.comparison
        if comparison is None:
            return None
        return comparison.model_only > comparison.length_only and comparison.p_value < SIGNIFICANT

    @property
    def doubtful(self) -> bool:
        """Whether `sentence` is a warning: at or under chance, or not shown to beat length."""
        return (
            self.near_chance or self.beats_length is False or (self.accuracy is not None and self.accuracy.high < 0.5)
        )

    @property
    def sentence(self) -> str:
        """``near chance: 53.1 % [46, 60] on 190 held-out pairs; length alone 51.2 %``."""
        accuracy = self.accuracy
        if accuracy is None:
            return "not measured: no held-out pair is ranked; give more pairs, or raise splits.holdout"
        kind = "near chance: " if self.near_chance else "worse than chance: " if accuracy.high < 0.5 else ""
        text = f"{kind}{100 * accuracy.value:.1f} % [{100 * accuracy.low:.0f}, {100 * accuracy.high:.0f}] on {accuracy.n} held-out pairs"
        if self.length is None:
            return f"{text}; length alone says nothing ({self.length_missing})"
        text += f"; length alone {100 * self.length.expected_accuracy:.1f} %"
        if self.comparison is None or self.near_chance:
            return text
        outcome = "which it beats" if self.beats_length else "which it is not shown to beat"
        return f"{text}, {outcome} (p {self.comparison.p_value:.2g})"

    def document(self) -> dict[str, Any]:
        """For JSON: the fields, ``sentence``, ``near_chance``, ``beats_length`` and ``doubtful``."""
        return {
            "sentence": self.sentence,
            "near_chance": self.near_chance,
            "beats_length": self.beats_length,
            "doubtful": self.doubtful,
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
            "by_turns": turns_document(self.by_turns),
            "length": None if self.length is None else self.length.document(),
            "length_missing": self.length_missing,
            "comparison": None if self.comparison is None else asdict(self.comparison),
            "calibration_error": self.calibration_error,
            "reliability": [asdict(bucket) for bucket in self.reliability],
        }


def measure_worth(folder: Path, kind: Kind, data: Path, half: int | None = None) -> PairWorth:
    """The worth of a trained model, or ensemble, from the scores in its folder and the file that it was trained from.

    Args:
        half: of the training pairs, where it was trained on one; the length rule learns from the same.

    Raises:
        DataError: the folder or the file cannot be used.
    """
    table = parquet.read_table(data, columns=label_columns(kind, half))
    labels, scores = PairLabels.of(table, str(data), kind, half), load_pair_scores(folder)
    if scores.shape[1] != labels.train.size:
        raise DataError(
            f"{folder} was judged on {scores.shape[1]} pairs and {data} has {labels.train.size}: train it again"
        )
    return pair_worth(kind, labels, scores, PairShapes.read(data))


def pair_worth(kind: Kind, labels: PairLabels, scores: np.ndarray, shapes: PairShapes) -> PairWorth:
    """Worth from scores ``[2, n]`` of better and worse responses (of a cost: safer and less safe)."""
    gaps = scores[0] - scores[1] if kind == "reward" else scores[1] - scores[0]
    ranked = labels.rank_weights > 0
    holdout, train = labels.holdout & ranked, labels.train & ranked
    if not holdout.any():
        return PairWorth(None, length_missing="no held-out pair is ranked")
    right, longer_by = gaps > 0, shapes.lengths[0] - shapes.lengths[1]
    length, missing, comparison = None, "", None
    try:
        length = length_baseline(
            longer_by[train],
            np.ones(train.sum()),
            longer_by[holdout],
            np.ones(holdout.sum()),
            held_turns=shapes.turns[holdout],
        )
        comparison = _compare(right[holdout], longer_by[holdout], length)
    except ValueError as error:
        missing = str(error)
    probabilities = expit(np.abs(gaps[holdout]))
    return PairWorth(
        accuracy=wilson(int(right[holdout].sum()), int(holdout.sum())),
        by_turns=accuracy_by_turns(right[holdout], shapes.turns[holdout]),
        length=length,
        length_missing=missing,
        comparison=comparison,
        calibration_error=expected_calibration_error(probabilities, right[holdout]),
        reliability=equal_bins(probabilities, right[holdout]),
    )


def _compare(right: np.ndarray, longer_by: np.ndarray, length: LengthBaseline) -> LengthComparison:
    differs = longer_by != 0
    length_right = (longer_by[differs] > 0) == (length.winner == "longer")
    model_only, length_only = int((right[differs] & ~length_right).sum()), int((~right[differs] & length_right).sum())
    discordant = model_only + length_only
    p_value = float(binomtest(model_only, discordant).pvalue) if discordant else 1.0
    return LengthComparison(model_only, length_only, int(differs.sum()), p_value)


def equal_bins(probabilities: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[ProbabilityBin, ...]:
    """Bins of nearly equally many pairs, by probability: equal widths would put a model near chance into one bin."""
    count = max(1, min(bins, probabilities.size // _LEAST_PER_BIN))
    order = np.argsort(probabilities, kind="stable")
    return tuple(
        ProbabilityBin(float(probabilities[rows].mean()), float(right[rows].mean()), int(rows.size))
        for rows in np.array_split(order, count)
    )
