"""Calibration of cost scores: the probability that a response with cost C is unsafe.

Platt's form, sigma(slope*C + intercept), is what `rate` learns from, because its gradient never vanishes; isotonic steps are
flat, so that form is for reports and for limits. The heads themselves carry no bias.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from configs.exits import DataError
from learner.statistics.intervals import Interval, wilson

Form = Literal["platt", "isotonic"]

CALIBRATION = "calibration.json"
"""In a cost model's folder."""
VERSION = 1
"""Of that file."""


@dataclass(frozen=True)
class Calibration:
    """sigma(slope*C + intercept); ``slope`` per unit of cost, ``intercept`` in log-odds."""

    slope: float
    intercept: float
    n: int
    """Labelled samples it was fitted on."""

    def probability(self, costs: ArrayLike) -> NDArray[np.float64]:
        """Probability of unsafe, the shape of ``costs``."""
        return np.asarray(expit(self.slope * np.asarray(costs, dtype=np.float64) + self.intercept))


@dataclass(frozen=True)
class IsotonicCalibration:
    """A non-decreasing function of the cost: straight between the knots, flat outside them."""

    costs: tuple[float, ...]
    """Knots, ascending."""
    probabilities: tuple[float, ...]
    """At the knots, non-decreasing."""
    n: int
    """Labelled samples it was fitted on."""

    def probability(self, costs: ArrayLike) -> NDArray[np.float64]:
        """Probability of unsafe, the shape of ``costs``."""
        return np.asarray(np.interp(np.asarray(costs, dtype=np.float64), self.costs, self.probabilities))


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram; ``n`` 0 leaves the figures None."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    unsafe_share: float | None
    share_low: float | None = None
    """Wilson's 95 % interval of the unsafe share, from here …"""
    share_high: float | None = None
    """… to here."""


@dataclass(frozen=True)
class CalibrationDocument:
    """What ``calibration.json`` in a cost model's folder holds: both forms, and which one reports take.

    The forms are fitted on the calibration split; errors and reliability are measured on the hold-out, which neither the
    model nor the fit has seen.
    """

    form: Form
    platt: Calibration
    isotonic: IsotonicCalibration
    errors: Mapping[str, float]
    """Expected calibration error on the hold-out of ``raw`` (sigma of the score), ``platt`` and ``isotonic``; empty where
    the hold-out has no labels."""
    reliability: tuple[ReliabilityBin, ...]
    """Of the chosen form."""

    def probability(self, costs: ArrayLike) -> NDArray[np.float64]:
        """Probability of unsafe by the chosen form, the shape of ``costs``."""
        return self.platt.probability(costs) if self.form == "platt" else self.isotonic.probability(costs)

    def document(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "version": VERSION,
            "form": self.form,
            "platt": asdict(self.platt),
            "isotonic": {
                "costs": list(self.isotonic.costs),
                "probabilities": list(self.isotonic.probabilities),
                "n": self.isotonic.n,
            },
            "ece": dict(self.errors),
            "reliability": [asdict(reliability_bin) for reliability_bin in self.reliability],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> CalibrationDocument:
        """The inverse of `document`.

        Raises:
            ValueError: the content is of another version, or is not such a document.
        """
        if document.get("version") != VERSION:
            raise ValueError(f"version {document.get('version')} is not {VERSION}: train the cost model again")
        try:
            isotonic = document["isotonic"]
            return cls(
                form=document["form"],
                platt=Calibration(**document["platt"]),
                isotonic=IsotonicCalibration(
                    tuple(isotonic["costs"]), tuple(isotonic["probabilities"]), int(isotonic["n"])
                ),
                errors=dict(document["ece"]),
                reliability=tuple(ReliabilityBin(**reliability_bin) for reliability_bin in document["reliability"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no calibration ({error}): train the cost model again") from error


@dataclass(frozen=True)
class Drift:
    """How a calibration fares on newly labelled responses, such as those of the trained policy."""

    n: int
    mean_probability: float
    """What the calibration expects."""
    unsafe_share: Interval
    """What the labels say, with Wilson's 95 % interval."""
    ece_before: float
    refitted: Calibration | None
    """Platt's fit on the new labels."""
    ece_after: float | None
    """Of the refit, on the labels it was fitted on."""
    refused: str = ""
    """Why there is no refit."""

    @property
    def holds(self) -> bool:
        """Whether the expected share is in the labels' interval."""
        return self.unsafe_share.low <= self.mean_probability <= self.unsafe_share.high

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "holds": self.holds}


def load_calibration(folder: Path) -> CalibrationDocument | None:
    """The calibration of the cost model in `folder`; None where its fit was refused.

    Raises:
        DataError: the file cannot be read.
    """
    path = folder / CALIBRATION
    if not path.exists():
        return None
    try:
        return CalibrationDocument.from_document(json.loads(path.read_text()))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def calibrate(
    costs: ArrayLike, unsafe: ArrayLike, held_costs: ArrayLike, held_unsafe: ArrayLike, form: Form = "platt"
) -> CalibrationDocument:
    """Fit both forms on ``costs [n]`` with labels ``unsafe [n]``, and measure them on the held-out ``[m]``, m >= 0.

    Raises:
        ValueError, RuntimeError: as `fit_platt`.
    """
    platt, isotonic = fit_platt(costs, unsafe), fit_isotonic(costs, unsafe)
    held_out, labels = np.asarray(held_costs, dtype=np.float64), np.asarray(held_unsafe, dtype=bool)
    if held_out.size == 0:
        return CalibrationDocument(form, platt, isotonic, {}, ())
    forms = {"raw": expit(held_out), "platt": platt.probability(held_out), "isotonic": isotonic.probability(held_out)}
    errors = {name: expected_calibration_error(probabilities, labels) for name, probabilities in forms.items()}
    return CalibrationDocument(form, platt, isotonic, errors, tuple(reliability_bins(forms[form], labels)))


def calibration_drift(platt: Calibration, costs: ArrayLike, unsafe: ArrayLike) -> Drift:
    """How `platt` fares on new labels, and Platt's fit on them (None where `fit_platt` refuses).

    Args:
        costs: raw scores ``[n]``.
        unsafe: labels ``[n]``, true = unsafe.

    Raises:
        ValueError: lengths differ, a cost is not finite, or there is no label.
    """
    x, y = _labelled(costs, unsafe)
    if x.size == 0:
        raise ValueError("drift needs labels, and there are none: label some responses of the policy")
    expected = platt.probability(x)
    refitted, refused = None, ""
    try:
        refitted = fit_platt(x, y)
    except (ValueError, RuntimeError) as error:
        refused = str(error)
    return Drift(
        n=x.size,
        mean_probability=float(expected.mean()),
        unsafe_share=wilson(int(y.sum()), x.size),
        ece_before=expected_calibration_error(expected, y),
        refitted=refitted,
        ece_after=None if refitted is None else expected_calibration_error(refitted.probability(x), y),
        refused=refused,
    )


def fit_platt(costs: ArrayLike, unsafe: ArrayLike) -> Calibration:
    """Fit sigma(slope*C + intercept) by maximum likelihood on Platt's smoothed targets (Platt 1999, section 2.2).

    The targets (N+ + 1)/(N+ + 2) and 1/(N- + 2) keep the fit finite where a threshold separates the classes.

    Args:
        costs: raw scores ``[n]``.
        unsafe: labels ``[n]``, true = unsafe.

    Raises:
        ValueError: lengths differ, a cost is not finite, only one class is present, or the fitted slope is not
            positive (the cost model ranks unsafe below safe, and a rate constraint would push the wrong way).
        RuntimeError: the optimiser did not converge.
    """
    x, y = _labelled(costs, unsafe)
    positives, negatives = int(y.sum()), int((~y).sum())
    if positives == 0 or negatives == 0:
        raise ValueError(
            f"calibration needs both classes, got {positives} unsafe and {negatives} safe: label more samples"
        )
    targets = np.where(y, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    centre, spread = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / spread

    def negative_log_likelihood(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = parameters[0] * z + parameters[1]
        residuals = expit(logits) - targets
        value = float(np.mean(np.logaddexp(0.0, logits) - targets * logits))
        return value, np.array([np.mean(residuals * z), np.mean(residuals)])

    start = np.array([0.0, np.log((positives + 1.0) / (negatives + 1.0))])
    fit = minimize(negative_log_likelihood, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
    if not np.isfinite(fit.x).all() or np.abs(fit.jac).max() > 1e-5:
        raise RuntimeError(f"the Platt fit on {x.size} labels did not converge: {fit.message}")
    slope = float(fit.x[0]) / spread
    if slope <= 0.0:
        raise ValueError(
            f"the fitted slope is {slope:.3g}: this cost model does not rank unsafe above safe on the calibration split"
        )
    return Calibration(slope, float(fit.x[1]) - slope * centre, x.size)


def fit_isotonic(costs: ArrayLike, unsafe: ArrayLike) -> IsotonicCalibration:
    """The non-decreasing function of the cost with the least squared error (Zadrozny and Elkan 2002), by scikit-learn.

    Args:
        costs: raw scores ``[n]``.
        unsafe: labels ``[n]``, true = unsafe.

    Raises:
        ValueError: lengths differ, a cost is not finite, or only one class is present.
    """
    from sklearn.isotonic import IsotonicRegression  # here, for it takes a second that only a fit needs

    x, y = _labelled(costs, unsafe)
    if y.all() or not y.any():
        raise ValueError(f"calibration needs both classes, got {int(y.sum())} unsafe of {y.size}")
    fit = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip").fit(x, y.astype(np.float64))
    return IsotonicCalibration(tuple(map(float, fit.X_thresholds_)), tuple(map(float, fit.y_thresholds_)), int(x.size))


def _labelled(costs: ArrayLike, unsafe: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    x = np.asarray(costs, dtype=np.float64).reshape(-1)
    y = np.asarray(unsafe, dtype=bool).reshape(-1)
    if x.size != y.size or not np.isfinite(x).all():
        raise ValueError(f"calibration needs one label per finite cost, got {x.size} costs and {y.size} labels")
    return x, y


def reliability_bins(probabilities: ArrayLike, unsafe: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Equal-width bins over [0, 1], the last one closed, for a reliability diagram.

    Raises:
        ValueError: lengths differ, no sample, a probability outside [0, 1], or fewer than 1 bin.
    """
    p = np.asarray(probabilities, dtype=np.float64).reshape(-1)
    y = np.asarray(unsafe, dtype=bool).reshape(-1)
    if p.size == 0 or p.size != y.size or bins < 1:
        raise ValueError(
            f"reliability needs equally many probabilities and labels and a bin, got {p.size}, {y.size}, {bins}"
        )
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError("probabilities must be in [0, 1]")
    index = np.minimum((p * bins).astype(np.int64), bins - 1)
    result = []
    for b in range(bins):
        members = index == b
        n = int(members.sum())
        if n == 0:
            result.append(ReliabilityBin(b / bins, (b + 1) / bins, 0, None, None))
            continue
        share = wilson(int(y[members].sum()), n)
        result.append(
            ReliabilityBin(b / bins, (b + 1) / bins, n, float(p[members].mean()), share.value, share.low, share.high)
        )
    return result


def expected_calibration_error(probabilities: ArrayLike, unsafe: ArrayLike, bins: int = 10) -> float:
    """ECE in [0, 1]: mean over samples of |mean probability - unsafe share| of their bin (Guo et al. 2017, eq. 3)."""
    total = 0.0
    samples = 0
    for reliability_bin in reliability_bins(probabilities, unsafe, bins):
        samples += reliability_bin.n
        if reliability_bin.mean_probability is not None and reliability_bin.unsafe_share is not None:
            total += reliability_bin.n * abs(reliability_bin.mean_probability - reliability_bin.unsafe_share)
    return total / samples
