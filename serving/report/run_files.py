"""What a run directory holds, read leniently: a report of half a run says what is missing instead of failing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from actors.judging.by_gold.samples import EvaluatedSample, read_samples
from actors.judging.by_models.answers import ScoredAnswer, read_answers
from configs.exits import DataError
from configs.layout import RunLayout
from serving.model_verdict import is_scored
from serving.report.blocks.blocks import Note
from serving.runs import labelled_in
from serving.summary import Summary, read_summary

T = TypeVar("T")
GOLD_STEPS = "training_gold.json"
ROUND = 1
"""The round of a run of one round."""


@dataclass(frozen=True)
class RunFiles:
    """The parts of a run; a part that is not there is empty or None, and `missing` says why."""

    layout: RunLayout
    settings: Mapping[str, Any]
    manifest: Mapping[str, Any]
    summary: Summary | None
    steps: list[dict[str, Any]]
    """Lines of metrics.jsonl, nested values flattened: ``phase_seconds/generate``."""
    samples: list[EvaluatedSample]
    evaluation: Mapping[str, Any]
    """By gold score; of a run on data `scored` and `answers` are there instead."""
    on_data: bool = False
    """Whether the run's own score models judged, for want of labels."""
    scored: Mapping[str, Any] = field(default_factory=dict)
    answers: list[ScoredAnswer] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Of a run of several rounds, the record of each finished one; every other part here is the last finished round's."""
    round_steps: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """`steps` by round, also of a round that is not finished."""
    number: int = ROUND
    """The last finished round."""
    gold: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """By round, what gold says of the samples of each step (training_gold.json); not of a run on data."""
    judged: list[EvaluatedSample] = field(default_factory=list)
    """The promoted snapshot's answers on the selection's prompts, with the scores of the run's own models next to gold."""
    missing: dict[str, str] = field(default_factory=dict)
    """Part → one sentence."""

    @property
    def labelled(self) -> frozenset[str] | None:
        """Constraints whose cost was trained on safety labels, so that above its zero may be called unsafe; None: all."""
        if not self.on_data:
            return None
        about = self.scored.get("constraints")
        if about is None:  # not evaluated yet
            return labelled_in(self.manifest) or frozenset()
        return frozenset(name for name, facts in about.items() if facts["safety_labels"])


def read_run(root: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        DataError: `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such run folder")
    layout = RunLayout(root)
    missing: dict[str, str] = {}

    def part(name: str, path: Path, read_part: Callable[[Path], T], otherwise: T) -> T:
        try:
            if not path.exists():
                raise DataError(f"{path.relative_to(root)} is not there")
            return read_part(path)
        except (DataError, OSError, ValueError, yaml.YAMLError) as error:
            missing[name] = f"{' '.join(str(error).replace(f'{root}/', '').split())}."
            return otherwise

    nothing: Mapping[str, Any] = {}
    summary = part("summary", layout.summary, _read_summary, None)
    unrecorded: list[dict[str, Any]] = []
    rounds = part("rounds", layout.rounds, _read_rounds, unrecorded) if layout.rounds.exists() else unrecorded
    number = max((int(record["round"]) for record in rounds), default=ROUND)
    folder = layout.evaluation(number)
    figures = (summary.scored or summary.evaluation) if summary is not None else nothing
    if not figures:
        figures = part("evaluation", folder / "evaluation.json", _read_json, nothing)
    settings = part("settings", layout.config, _read_yaml, nothing)
    on_data, file = is_scored(figures) or settings.get("data") is not None, folder / "samples.parquet"
    gold = {
        round_number: part("gold", layout.evaluation(round_number) / GOLD_STEPS, _read_gold, unrecorded)
        for round_number in range(1, number + 1)
    }
    promoted = layout.round(number) / "selection" / f"step-{_promoted(summary):05d}.parquet"
    return RunFiles(
        layout=layout,
        settings=settings,
        manifest=part("manifest", layout.manifest, _read_json, nothing),
        summary=summary,
        steps=part("steps", layout.metrics_of(number), read_metrics, []),
        samples=[] if on_data else part("samples", file, read_samples, []),
        evaluation=nothing if on_data else figures,
        on_data=on_data,
        scored=figures if on_data else nothing,
        answers=part("samples", file, read_answers, []) if on_data else [],
        rounds=rounds,
        round_steps=_steps_by_round(layout) if layout.rounds.exists() else {},
        number=number,
        gold={} if on_data else {round_number: steps for round_number, steps in gold.items() if steps},
        judged=read_samples(promoted) if not on_data and promoted.is_file() else [],
        missing=missing,
    )


def missing_note(run: RunFiles, *parts: str) -> Note:
    """Why figures of these parts are not there."""
    reasons = [run.missing[part] for part in parts if part in run.missing]
    return Note("Missing: " + (" ".join(reasons) or "this run holds no figures for it."), tone="missing")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, flattened, one per step: a step done again after a resume replaces the older line.

    A last line without its newline is a write that was cut, and is left out.

    Raises:
        DataError: another line is not JSON, or lacks ``step``.
    """
    steps: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            values = flatten(json.loads(line))
            steps[int(values["step"])] = values
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: line {number} is no step ({type(error).__name__}: {error})") from error
    return [steps[step] for step in sorted(steps)]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by ``/``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _steps_by_round(layout: RunLayout) -> dict[int, list[dict[str, Any]]]:
    """Of every round whose file is there and can be read; the reason of another is in the round's own part."""
    by_round: dict[int, list[dict[str, Any]]] = {}
    number = ROUND
    while layout.metrics_of(number).is_file():
        try:
            by_round[number] = read_metrics(layout.metrics_of(number))
        except (DataError, OSError):
            by_round[number] = []
        number += 1
    return by_round


def _read_gold(path: Path) -> list[dict[str, Any]]:
    steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
    if not isinstance(steps, list) or any(not isinstance(step, dict) or "step" not in step for step in steps):
        raise DataError(f"{path} is no record of steps")
    return steps


def _promoted(summary: Summary | None) -> int:
    """The promoted snapshot's step; 0, which no snapshot has, where there is none."""
    return 0 if summary is None or summary.selection is None else summary.selection.promoted_step


def _read_rounds(path: Path) -> list[dict[str, Any]]:
    rounds = json.loads(path.read_text(encoding="utf-8"))["rounds"]
    if not isinstance(rounds, list) or any(not isinstance(record, dict) or "round" not in record for record in rounds):
        raise DataError(f"{path} is no round manifest")
    return rounds


def _read_summary(path: Path) -> Summary | None:
    return read_summary(path)


def _read_json(path: Path) -> Mapping[str, Any]:
    return _as_mapping(path, json.loads(path.read_text(encoding="utf-8")))


def _read_yaml(path: Path) -> Mapping[str, Any]:
    return _as_mapping(path, yaml.safe_load(path.read_text(encoding="utf-8")))


def _as_mapping(path: Path, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no object")
    return value
