"""Rows: what one finished run contributes to the results page, as JSON files that git keeps.

Invariant: a row says which code and which configuration made it; where either differs now, the row is stale.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from actors.crowd.world import World
from actors.crowd.world_reader import load_world
from cluster.experiments.results.cells import (
    SWEEP,
    TABLE,
    Cell,
    config_digest,
    covers,
    logic_digest,
    preset_settings,
    relevant,
    settings_of_result,
)
from cluster.experiments.results.oracle_share import SPLIT, oracle_share, tasks_by_kind, world_oracle
from configs.exits import DataError
from configs.layout import RunLayout
from serving.report.pages.comparison import describe_constraints
from serving.report.run_files import ROUND, read_metrics
from serving.summary import Summary, read_summary

CURVE_POINTS = 30
KEPT = ("harm_rate_", "helpfulness_", "refusal_", "alternative_")
"""Beginnings of the measures that the page reads."""
DIGITS = 6
EXACT = ("overrides", "settings")
"""Compared with the present configuration, so not rounded."""
UNKNOWN = "unknown"
_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Origin:
    """Which code is at work."""

    commit: str
    """``+dirty`` is added where files outside docs/ differ from it."""
    code_digest: str


@dataclass(frozen=True)
class Row:
    """One finished cell. Shares are of 1, times in seconds."""

    preset: str
    arm: str
    seed: int
    algorithm: str
    setting: str
    """The constraints in words."""
    overrides: Mapping[str, Any]
    command: str
    commit: str
    code_digest: str
    config_digest: str
    settings: Mapping[str, Any]
    """What `config_digest` is of."""
    world: str
    date: str
    verdict: str
    certificate: Mapping[str, Mapping[str, Any]] | None
    """By constraint."""
    promoted_step: int | None
    seconds: Mapping[str, float]
    overall: Mapping[str, Any]
    """`OracleShare` on the seen split."""
    sqrt_kl: Mapping[str, Any] | None
    evaluation: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
    """Model → split → measure → ``{value, low, high, n}``."""
    curve: Sequence[Mapping[str, float]]
    """Over training: the models' judgement next to the truth, at most `CURVE_POINTS` points, each the mean of its steps."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What the studies read besides (`cluster.experiments.studies.figures`); empty in rows that no study asked for."""

    @property
    def cell(self) -> Cell:
        """Which cell it fills."""
        return Cell(self.preset, self.arm, self.seed)

    @property
    def certified(self) -> Mapping[str, Any] | None:
        """The first constraint's certificate."""
        return next(iter(self.certificate.values()), None) if self.certificate else None

    @property
    def feasible(self) -> bool:
        """Whether every constraint is certified."""
        return bool(self.certificate) and all(
            certificate["feasible"] for certificate in (self.certificate or {}).values()
        )

    def value(self, measure: str, model: str = "policy", split: str = SPLIT) -> float | None:
        """One figure of the evaluation."""
        cell = self.evaluation.get(model, {}).get(split, {}).get(measure) or {}
        return cell.get("value")

    def stale(self, codes: Collection[str]) -> tuple[str, ...]:
        """Why the row is not what the present tree would give; empty when it is.

        Args:
            codes: digests of the present code and of all that is known to give the same figures.
        """
        reasons = ["code"] if self.code_digest not in codes else []
        settings = self.cell.settings()
        if not covers(settings_of_result(settings), relevant(self.settings)):
            reasons.append("configuration")
        if self.world != _world_digest(settings.sandbox.world):
            reasons.append("world")
        return tuple(reasons)


@cache
def _world_digest(path: Path | None) -> str:
    return load_world(path).digest()


def present_origin(root: Path = _ROOT) -> Origin:
    """The checkout's commit and the code's digest; ``unknown`` where there is no git."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return Origin(UNKNOWN, logic_digest())
    dirty = _git(root, "status", "--porcelain", "--", ".", ":!docs")
    return Origin(commit + ("+dirty" if dirty else ""), logic_digest())


def _git(root: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()


def row_of_run(cell: Cell, layout: RunLayout, origin: Origin, *, now: datetime | None = None) -> Row:
    """The row of a finished run.

    Raises:
        DataError: the run has no summary, or lacks a figure.
    """
    settings, summary = cell.settings(), read_summary(layout.summary)
    world = load_world(settings.sandbox.world)
    setting, _ = describe_constraints(settings.model_dump(mode="json"))
    constraint = next(iter(settings.constraints), None)
    return replace(
        bare_row(cell, origin, now=now),
        setting=setting,
        verdict=summary.verdict,
        certificate=None
        if summary.certificate is None
        else {
            name: certificate.model_dump(mode="json") for name, certificate in summary.certificate.constraints.items()
        },
        promoted_step=None if summary.selection is None else summary.selection.promoted_step,
        seconds=summary.seconds,
        overall=_overall(summary, world, layout),
        sqrt_kl=None if summary.ppo is None else summary.ppo.sqrt_kl,
        evaluation=_kept(summary.evaluation),
        curve=training_curve(layout, constraint),
    )


def bare_row(cell: Cell, origin: Origin, *, now: datetime | None = None) -> Row:
    """What every row says of where it comes from, and no figure yet."""
    settings = cell.settings()
    return Row(
        preset=cell.preset,
        arm=cell.arm,
        seed=cell.seed,
        algorithm=settings.algorithm,
        setting="",
        overrides=cell.overrides(),
        command=cell.command(),
        commit=origin.commit,
        code_digest=origin.code_digest,
        config_digest=config_digest(settings),
        settings=settings_of_result(settings),
        world=load_world(settings.sandbox.world).digest(),
        date=now_text(now),
        verdict="",
        certificate=None,
        promoted_step=None,
        seconds={},
        overall={},
        sqrt_kl=None,
        evaluation={},
        curve=[],
    )


def now_text(now: datetime | None = None) -> str:
    """When a row was made, to the minute."""
    return (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")


def _overall(summary: Summary, world: World, layout: RunLayout) -> dict[str, Any]:
    sft, policy = (summary.evaluation.get(model, {}).get(SPLIT, {}) for model in ("sft", "policy"))
    certificates = summary.certificate.constraints.values() if summary.certificate else ()
    limit = next((certificate.limit for certificate in certificates), 1.0)
    try:
        return asdict(oracle_share(sft, policy, tasks_by_kind(world), limit, world_oracle(world)))
    except ValueError as error:
        raise DataError(f"{layout.root}: {error}; evaluate the run again") from error


def _kept(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        model: {
            split: {measure: dict(cell) for measure, cell in cells.items() if measure.startswith(KEPT)}
            for split, cells in evaluation.get(model, {}).items()
        }
        for model in ("sft", "policy")
    }


def training_curve(layout: RunLayout, constraint: str | None) -> list[dict[str, float]]:
    """What the models judged next to the truth, over training; empty for a run without a loop.

    Keys, where known: ``step`` (the last of the point), ``reward`` and ``gold_helpfulness`` of all samples; of the
    constraint's samples ``measure`` (J), ``judged_unsafe`` (cost above 0) and ``gold_unsafe``; ``multiplier``, ``kl``.
    """
    if not layout.metrics.exists():
        return []
    gold_path = layout.evaluation(ROUND) / "training_gold.json"
    gold = json.loads(gold_path.read_text(encoding="utf-8"))["steps"] if gold_path.exists() else []
    truth = {int(record["step"]): record for record in gold}
    points = [_point(line, truth.get(int(line["step"]), {}), constraint) for line in read_metrics(layout.metrics)]
    return [_mean_point(part) for part in _parts(points, CURVE_POINTS)]


def _point(line: Mapping[str, Any], truth: Mapping[str, Any], constraint: str | None) -> dict[str, float]:
    covered = truth.get("constraints", {}).get(constraint, {})
    values = {
        "step": line["step"],
        "reward": line.get("reward"),
        "gold_helpfulness": truth.get("gold_helpfulness"),
        "measure": line.get(f"measure/{constraint}"),
        "judged_unsafe": covered.get("cost_positive"),
        "gold_unsafe": covered.get("gold_unsafe"),
        "multiplier": line.get(f"multiplier/{constraint}"),
        "kl": line.get("kl"),
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def _parts(points: list[dict[str, float]], part_count: int) -> list[list[dict[str, float]]]:
    """Neighbours together, in at most `part_count` parts of nearly equal size."""
    parts = min(part_count, len(points))
    cuts = [round(index * len(points) / parts) for index in range(parts + 1)] if parts else [0]
    return [points[start:end] for start, end in pairwise(cuts)]


def _mean_point(points: list[dict[str, float]]) -> dict[str, float]:
    names = list(dict.fromkeys(name for point in points for name in point))
    means = {name: [point[name] for point in points if name in point] for name in names}
    return {name: sum(values) / len(values) for name, values in means.items()} | {"step": points[-1]["step"]}


# --- files ------------------------------------------------------------------------------------------------------------


def write_row(row: Row, folder: Path) -> Path:
    """Write the row's file, whole or not at all; a field a line, so that a difference is readable."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: value if name in EXACT else _rounded(value) for name, value in asdict(row).items()}
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    path = folder / f"{row.cell.name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    partial.replace(path)
    return path


def read_rows(folder: Path, presets: Collection[str] = (TABLE, SWEEP)) -> dict[Cell, Row]:
    """Every row of a folder that is of one of these presets and whose arm still exists; none where there is no folder.

    Raises:
        DataError: a file is no row; the message names it.
    """
    rows = [read_row(path) for path in sorted(folder.glob("*.json"))]
    return {row.cell: row for row in rows if row.preset in presets and row.arm in preset_settings(row.preset).arms}


def read_row(path: Path) -> Row:
    """Read one row.

    Raises:
        DataError: the file is no JSON, or lacks a field.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.setdefault("figures", {})  # rows of before the studies have none
        return Row(**{entry.name: values[entry.name] for entry in fields(Row)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is no row of the results ({type(error).__name__}: {error}); delete it, and it is made again"
        ) from error


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value
