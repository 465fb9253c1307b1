"""Agreement between the annotators of pairs, and between rows that label the same thing again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.inter_rater import cohens_kappa

from learner.data.quality.labels import short
from learner.data.quality.rows import one_vote_each
from learner.data.records import PreferencePair
from learner.statistics.agreement import fleiss_kappa, krippendorff_alpha, krippendorff_interval, raw_agreement

_RATER_PAIRS = 20_000
"""Pairs of annotators whose common answers are counted; 200 annotators who all met are as many."""
_VOTES = 100
"""Votes on one question of one pair of which Cohen's kappa takes notice."""
_COMMON = 10
"""Units that two annotators must share before their kappa is shown."""
_SHOWN = 20
LABEL_OF = {"better": "better", "safer": "safer", "safe_0": "safe", "safe_1": "safe"}
"""Whether a response is safe is one question, whichever of the two it is."""


class Patterns:
    """Units by how often they were answered 0 and 1: all that agreement without names needs, whatever the units."""

    def __init__(self) -> None:
        self._units: Counter[tuple[int, int]] = Counter()

    def add(self, zeros: int, positives: int, units: int = 1) -> None:
        """Count units with so many answers of each kind."""
        self._units[zeros, positives] += units

    def document(self) -> dict[str, Any] | None:
        """Raw agreement, Fleiss' kappa and Krippendorff's alpha; None where no unit has two answers.

        Fleiss' kappa wants one number of answers for all: the most frequent one is taken, and named.
        """
        rated = {pattern: times for pattern, times in self._units.items() if sum(pattern) >= 2}
        if not rated:
            return None
        counts, weights = np.array(list(rated)), np.array(list(rated.values()))
        ratings = counts.sum(axis=1)
        usual = max(set(ratings.tolist()), key=lambda size: (int(weights[ratings == size].sum()), size))
        of_usual_size = ratings == usual
        alpha = krippendorff_interval(counts, weights)
        return {
            "units": int(weights.sum()),
            "ratings": int(weights @ ratings),
            "raw": raw_agreement(counts, weights),
            "unanimous": float(weights[(counts == 0).any(axis=1)].sum() / weights.sum()),
            "fleiss": number(fleiss_kappa(counts[of_usual_size], weights[of_usual_size])),
            "fleiss_ratings_per_unit": usual,
            "fleiss_units": int(weights[of_usual_size].sum()),
            "krippendorff": number(krippendorff_alpha(counts, weights)),
            "krippendorff_interval": None if alpha is None else [alpha.low, alpha.high],
        }


class RaterPairs:
    """What every two annotators answered to the same question about the same pair."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], NDArray[np.int64]] = {}
        self._left_out = False

    def add(self, answers: Mapping[str, int]) -> None:
        """Count one unit: annotator -> answer."""
        by_annotator = sorted((short(name), answer) for name, answer in answers.items())
        self._left_out |= len(by_annotator) > _VOTES
        for (rater, first), (co_rater, second) in combinations(by_annotator[:_VOTES], 2):
            if (rater, co_rater) not in self._tables:
                if len(self._tables) >= _RATER_PAIRS:
                    self._left_out = True
                    continue
                self._tables[rater, co_rater] = np.zeros((2, 2), dtype=np.int64)
            self._tables[rater, co_rater][first, second] += 1

    def document(self) -> dict[str, Any] | None:
        """Cohen's kappa of annotators with enough units in common: the mean weighted by units, and those who met most.

        ``undefined`` counts pairs of annotators who both gave one and the same answer throughout.
        """
        tables = {names: table for names, table in self._tables.items() if table.sum() >= _COMMON}
        if not tables:
            return None
        kappas = {names: cohen_kappa(table) for names, table in tables.items()}
        defined = [(kappa, int(tables[names].sum())) for names, kappa in kappas.items() if not math.isnan(kappa)]
        shared = sum(units for _kappa, units in defined)
        mean = sum(kappa * units for kappa, units in defined) / shared if defined else None
        most_shared = sorted(tables, key=lambda names: (-int(tables[names].sum()), names))[:_SHOWN]
        pairs = [
            {"annotators": list(names), "units": int(tables[names].sum()), "kappa": number(kappas[names])}
            for names in most_shared
        ]
        return {
            "mean": mean,
            "annotator_pairs": len(tables),
            "undefined": len(tables) - len(defined),
            "some_left_out": self._left_out,
            "pairs": pairs,
        }


def cohen_kappa(table: NDArray[np.int64]) -> float:
    """Cohen's kappa of two raters from their table of counts ``[values, values]`` (statsmodels); nan: no variation."""
    margins = table.sum(axis=0) @ table.sum(axis=1)
    return math.nan if margins == table.sum() ** 2 else float(cohens_kappa(table, return_results=False))


class Votes:
    """All votes of a source."""

    def __init__(self) -> None:
        self._patterns = {label: Patterns() for label in LABEL_OF.values()}
        self._raters = {label: RaterPairs() for label in LABEL_OF.values()}

    def add(self, pair: PreferencePair) -> None:
        """Count the votes of one good pair."""
        for question, answers in one_vote_each(pair).items() if pair.votes else ():
            positives = sum(answers.values())
            self._patterns[LABEL_OF[question]].add(len(answers) - positives, positives)
            self._raters[LABEL_OF[question]].add(answers)

    def document(self) -> dict[str, Any]:
        """Label -> agreement; labels without two votes on anything are left out."""
        agreements = {label: patterns.document() for label, patterns in self._patterns.items()}
        return {
            label: {**values, "cohen": self._raters[label].document()}
            for label, values in agreements.items()
            if values is not None
        }


def repeated_agreement(
    patterns: Iterable[tuple[str, NDArray[np.int64], NDArray[np.int64]]],
) -> dict[str, Any]:
    """Label -> agreement of rows that label the same again; each such row counts as one more annotator, without a name."""
    merged: dict[str, Patterns] = {}
    for name, counts, times in patterns:
        into = merged.setdefault(LABEL_OF.get(name, name), Patterns())
        for (zeros, positives), units in zip(counts.tolist(), times.tolist(), strict=True):
            into.add(zeros, positives, units)
    agreements = {name: label_patterns.document() for name, label_patterns in merged.items()}
    return {name: values for name, values in agreements.items() if values is not None}


def number(value: float) -> float | None:
    """None for nan, which JSON does not have."""
    return None if math.isnan(value) else value
