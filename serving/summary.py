"""summary.json: the figures of a finished run, checked on the way in and on the way out.

The report, the terminal table and the comparison of arms all read this file, so a figure is worked out once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.exits import DataError
from learner.statistics.certificate import Certificate as LearnerCertificate
from serving.model_verdict import meets_limits, scored_verdict

SCHEMA_VERSION = 1
STAGES = (
    "data",
    "sft",
    "red_team",
    "preferences",
    "baseline",
    "reward_model",
    "cost_model",
    "scales",
    "ppo",
    "direct",
    "selection",
    "evaluate",
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(_Part):
    """One figure: None where nothing was measured."""

    value: float | None
    low: float | None
    high: float | None
    n: int = Field(ge=0)


class ConstraintCertificate(_Part):
    """`learner.statistics.certificate.Certificate` as it is kept; the fields mean the same."""

    feasible: bool
    measure: str
    value: float
    low: float
    high: float
    upper_bound: float
    limit: float
    n: int
    confidence: float
    labels_source: str
    method: str = "clopper_pearson"
    """The bound's construction."""
    labelled: int | None = None
    """Answers that were labelled, where fewer than `n` were (prediction-powered)."""

    def verdict(self) -> str:
        """``feasible: 2.1 % [1.2, 3.4] ≤ 5 %``."""
        return LearnerCertificate(**self.model_dump()).verdict()


class Certificate(_Part):
    """The claim about the trained policy; feasible when every constraint is."""

    feasible: bool
    constraints: dict[str, ConstraintCertificate]


class Reliability(_Part):
    """One bin of a calibration curve."""

    predicted: float
    observed: float
    n: int


class LengthFigures(_Part):
    """`learner.statistics.length_baseline.LengthBaseline` as it is kept."""

    rule: str
    winner: str
    train: Interval
    accuracy: Interval
    expected_accuracy: float
    ties: int
    by_turns: dict[str, Interval] = {}


class LengthComparison(_Part):
    """`learner.supervised.score_models.baselines.LengthComparison` as it is kept."""

    model_only: int
    length_only: int
    n: int
    p_value: float
    test: str


class PairWorth(_Part):
    """`learner.supervised.score_models.baselines.PairWorth` as it is kept; the fields mean the same."""

    sentence: str
    near_chance: bool
    beats_length: bool | None
    doubtful: bool
    accuracy: Interval | None
    by_turns: dict[str, Interval] = {}
    length: LengthFigures | None
    length_missing: str = ""
    comparison: LengthComparison | None
    calibration_error: float | None
    reliability: list[Reliability] = []


class ZeroFigures(_Part):
    """`learner.statistics.cost_zero.CostZero` as it is kept; the fields mean the same."""

    value: float
    low: float
    high: float
    rule: str
    method: str
    safer_below: float
    less_safe_above: float
    n: int
    warning: str


class ScoreModelFigures(_Part):
    """How good a reward or cost model is on the pairs kept out of its training."""

    pair_accuracy: float | None = None
    """None where no pair that was kept out is ranked."""
    pair_accuracy_interval: Interval | None = None
    sign_accuracy: float | None = None
    """Cost models only: share of responses on the right side of zero."""
    sign_accuracy_interval: Interval | None = None
    holdout_pairs: int | None = None
    calibration_slope: float | None = None
    calibration_intercept: float | None = None
    """Platt: probability of unsafe = sigmoid(slope * cost + intercept)."""
    calibration_error: float | None = None
    """Expected calibration error, a share."""
    pair_calibration_error: float | None = None
    """Likewise of the probability that the preferred response of a pair is preferred."""
    axes: dict[str, dict[str, float]] = {}
    """Reward models of the sandbox: by ranking of the crowd ``{accuracy, conflicting, n, conflicting_n}``."""
    reliability: list[Reliability] = []
    score_mean: float | None = None
    score_std: float | None = None
    scorer: str | None = None
    """Of a signal that this run trained no model for: who scores it. Mean and spread are then over answers of SFT."""
    worth: PairWorth | None = None
    """Of a run on data: against chance, against length alone, by turns."""
    zero: ZeroFigures | None = None
    """Of a cost that no safety label trained."""


class PpoFigures(_Part):
    """What the loop did."""

    steps: int
    samples_per_second: float
    phase_seconds: dict[str, float]
    """Mean wall-clock seconds per step by phase."""
    quarantined: int = 0
    """Samples set aside because a score was missing or not finite."""
    scorer_faults: dict[str, int] = {}
    """``<signal>/<reason>`` to how many samples a scorer gave no score for."""
    kl_budget_spent: bool = False
    """The loop ended early because the policy had moved as far from the reference as was allowed."""
    sqrt_kl: dict[str, Any] | None = None
    """`learner.statistics.sqrt_kl.SqrtKlFit` of reward = a + b sqrt(KL) over the steps; None where no fit was possible."""
    halves: dict[str, Any] | None = None
    """`learner.statistics.overoptimisation.HalvesGap`: how far the train and test reward models rose; None unless `halves.enabled`."""


class Candidate(_Part):
    """One snapshot of the loop on the selection split."""

    step: int
    helpfulness: float
    unsafe_share: dict[str, float] = {}
    """By labels; of a run without labels `measures` is there instead."""
    measures: dict[str, Interval] = {}
    """By constraint: its measure by its own cost model."""
    upper_bound: dict[str, float]
    feasible: bool
    excess: float


class SelectionFigures(_Part):
    """Which snapshot was promoted, and how far calibrations had moved on its answers."""

    promoted_step: int
    feasible: bool
    """On the selection split; the certificate, where there is one, has the last word."""
    candidates: list[Candidate]
    drift: dict[str, dict[str, Any]]
    """By constraint: `learner.statistics.calibration.Drift`."""


class WeightFigures(_Part):
    """Sending weights to the generators."""

    version: int
    bytes: int
    seconds_per_broadcast: float


class Summary(_Part):
    """Everything summary.json holds."""

    schema_version: int = SCHEMA_VERSION
    name: str
    seed: int
    algorithm: str = "ppo_lag"
    verdict: str
    evaluation: dict[str, Any]
    """What `actors.judging.by_gold.figures.evaluate_cells` gives: ``{sft, policy}.{split}.{measure}`` and the finer tables."""
    scored: dict[str, Any] | None = None
    """Of a run without labels, in place of `evaluation` and `certificate`: the figures by its own score models
    (`actors.judging.by_models.figures.evaluate_scored`), the constraints' units and zeros, and the promoted snapshot's bounds."""
    certificate: Certificate | None
    """None when there was no constraint to certify, or no one to label."""
    reward_model: ScoreModelFigures | None
    cost_model: ScoreModelFigures | None
    """Of the first constraint; every constraint's is in `cost_models`."""
    cost_models: dict[str, ScoreModelFigures] = {}
    preferences: dict[str, int] = {}
    """``pairs`` and ``questions`` (asked of annotators: the labelling cost)."""
    labelled_by: str | None = None
    """Who labelled the pairs: crowd, people, a judge's name, or files; None in older files."""
    seconds: dict[str, float]
    """Per stage, and ``total`` from job start to this file."""
    ppo: PpoFigures | None
    """None for an algorithm without a loop; so are `weights` and `selection`."""
    weights: WeightFigures | None
    selection: SelectionFigures | None = None
    versions: dict[str, str]
    digests: dict[str, str] = {}
    """sha256 of what went in and came out: world, configuration, models."""
    warnings: list[str] = []
    rounds: list[dict[str, Any]] = []
    """Of a run of several rounds, the record of each (`cluster.runs.rounds.record.round_record`); every other figure here is the
    last round's, but `seconds`, which are all rounds'. Not in the file of a single round."""

    @property
    def meets_limits(self) -> bool:
        """Whether the exit code may be 0: certified, or of a run without labels feasible by its own cost models."""
        if self.certificate is not None:
            return self.certificate.feasible
        return self.scored is None or meets_limits(self.scored)


def build_summary(
    *,
    name: str,
    seed: int,
    evaluation: Mapping[str, Any],
    certificates: Mapping[str, LearnerCertificate],
    reward_model: ScoreModelFigures | None,
    cost_models: Mapping[str, ScoreModelFigures],
    seconds: Mapping[str, float],
    ppo: PpoFigures | None,
    weights: WeightFigures | None,
    versions: Mapping[str, str],
    algorithm: str = "ppo_lag",
    selection: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    preferences: Mapping[str, int] | None = None,
    labelled_by: str | None = None,
    digests: Mapping[str, str] | None = None,
    scored: Mapping[str, Any] | None = None,
    rounds: Sequence[Mapping[str, Any]] = (),
) -> Summary:
    """Assemble a run's summary.

    Args:
        evaluation: as `evaluate_cells` gives it; every figure must be finite.
        certificates: by constraint; empty when there is none.
        cost_models: by constraint, in the configuration's order (`cost_model` is the first).
        scored: evaluation.json of a run without labels; `evaluation` and `certificates` are then empty.
        seconds: by stage; ``total`` must be among them.
        rounds: the record of each round of several.

    Raises:
        DataError: a figure is not finite or ``total`` is missing; the message names it.
    """
    if "total" not in seconds:
        raise DataError("summary: seconds has no 'total'; give the time from job start to now")
    _require_finite(evaluation, "evaluation")
    _require_finite(scored or {}, "scored")
    certificate = certificate_of(certificates)
    try:
        return Summary(
            name=name,
            seed=seed,
            algorithm=algorithm,
            verdict=_verdict(certificate, scored),
            evaluation=dict(evaluation),
            scored=None if scored is None else dict(scored),
            certificate=certificate,
            reward_model=reward_model,
            cost_model=next(iter(cost_models.values()), None),
            cost_models=dict(cost_models),
            preferences=dict(preferences or {}),
            labelled_by=labelled_by,
            seconds=dict(seconds),
            ppo=ppo,
            weights=weights,
            selection=None
            if selection is None
            else SelectionFigures(**{k: selection[k] for k in SelectionFigures.model_fields}),
            versions=dict(versions),
            digests=dict(digests or {}),
            warnings=list(dict.fromkeys(warnings)),
            rounds=[dict(record) for record in rounds],
        )
    except ValidationError as error:
        raise DataError(f"summary: {_first_problem(error)}") from error


def _verdict(certificate: Certificate | None, scored: Mapping[str, Any] | None) -> str:
    if scored is None:
        return verdict_line(certificate)
    return scored_verdict(scored, None if certificate is None else certified_line(certificate))


def certified_line(certificate: Certificate) -> str:
    """Of a run on data, whose word it is first: ``certified by people: 2.1 % [1.2, 3.4] ≤ 5 % on 212 kept prompts``."""
    constraints = certificate.constraints
    parts = []
    for name, constraint in constraints.items():
        outcome, _, figures = constraint.verdict().partition(": ")
        word = {"feasible": "certified", "not feasible": "not certified"}.get(outcome, outcome)
        subject = f"{name} " if len(constraints) > 1 else ""
        prompts = f"{constraint.n} conversations that nothing else used, one answer each"
        parts.append(f"{subject}{word} by {constraint.labels_source}: {figures} on {prompts}")
    return "; ".join(parts)


def certificate_of(certificates: Mapping[str, LearnerCertificate]) -> Certificate | None:
    """Join the constraints' certificates; None when there is no constraint."""
    if not certificates:
        return None
    constraints = {name: ConstraintCertificate(**asdict(certificate)) for name, certificate in certificates.items()}
    return Certificate(feasible=all(each.feasible for each in constraints.values()), constraints=constraints)


def verdict_line(certificate: Certificate | None) -> str:
    """The first thing anyone reads: ``feasible: 2.1 % [1.2, 3.4] ≤ 5 %``; several constraints are named and joined."""
    if certificate is None:
        return "no constraint to certify"
    if len(certificate.constraints) == 1:
        return next(iter(certificate.constraints.values())).verdict()
    return "; ".join(f"{name} {certificate.verdict()}" for name, certificate in certificate.constraints.items())


def write_summary(summary: Summary, path: Path) -> None:
    """Write the file atomically: a reader sees all of it or none."""
    partial = path.with_name(path.name + ".partial")
    left_out = None if summary.rounds else {"rounds"}
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(
            summary.model_dump(mode="json", exclude=left_out), stream, indent=1, ensure_ascii=False, allow_nan=False
        )
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def read_summary(path: Path) -> Summary:
    """Read and check a summary.

    Raises:
        DataError: missing, not JSON, or not of this schema.
    """
    try:
        return Summary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: no summary here ({error.strerror}); the run has not finished") from error
    except ValidationError as error:
        raise DataError(f"{path}: {_first_problem(error)}") from error


def _require_finite(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _require_finite(entry, f"{where}.{key}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"summary: {where} is {value}; a figure must be finite, or None where nothing was measured")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "file"
    return f"{place}: {problem['msg']}"
