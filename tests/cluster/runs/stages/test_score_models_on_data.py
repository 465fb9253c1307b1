"""Score models of a run on data: what they read, what is said of their worth, and the zero of a relative cost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cluster.run_folder.manifest import Manifest, StageRecord
from cluster.runs.stages import score_models
from cluster.runs.stages.on_data import data
from configs.layout import RunLayout
from configs.schema.run import RunSettings
from learner.models.score_models.folders import Affine, affine_of
from learner.supervised.score_models.quality import PairLabels, judge, label_columns

N = 90
IDS = pa.list_(pa.int32())


def settings(measure: str = "mean", **zero: Any) -> RunSettings:
    constraint = {"measure": measure, "limit": 0.1}
    source = [{"source": "pairs.jsonl"}]
    files = {"helpfulness": source, "harmlessness": source, "zero": zero}
    return RunSettings(name="x", data=files, constraints={"harm": constraint})  # type: ignore[arg-type]


class FakeEngines:
    """Leaves the folder of a model whose scores are given."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores

    def train(self, task: Any, _status: Any) -> dict[str, float]:
        task.output.mkdir(parents=True, exist_ok=True)
        table = parquet.read_table(task.data, columns=label_columns(task.kind, task.half))
        metrics, documents = judge(task.kind, PairLabels.of(table, "x", task.kind, task.half), self._scores)
        documents["training.json"]["metrics"] = metrics
        for name, content in documents.items():
            (task.output / name).write_text(json.dumps(content))
        (task.output / "config.json").write_text("{}")
        return metrics | {"seconds": 1.0, "steps": 1.0, "pairs": float(N // 3)}


def context(root: Path, run: RunSettings, scores: np.ndarray, signed: int = 0) -> Any:
    layout = RunLayout(root)
    layout.data.mkdir(parents=True)
    signs = pa.array([1 if signed else 0] * N, pa.int8())
    table = {
        "better_ids": pa.array([[1, 2, *range(index // 3 % 3 + 1)] for index in range(N)], IDS),
        "better_prompt_length": pa.array([2] * N, pa.int32()),
        "worse_ids": pa.array([[1, 2, 3, 4]] * N, IDS),
        "worse_prompt_length": pa.array([2] * N, pa.int32()),
        "turns": pa.array([1] * N, pa.int16()),
        "split": [("train", "holdout", "calibration")[index % 3] for index in range(N)],
        "half": [index // 3 % 2 for index in range(N)],
        "safer_sign": pa.array([-each.as_py() for each in signs], pa.int8()),
        "less_safe_sign": signs,
        "rank_weight": [1.0] * N,
    }
    report = {"written": N, "cut": 0, "purposes": {"train": 30}}
    for name in ("reward", "cost-harm"):
        parquet.write_table(pa.table(table), layout.data / f"{name}.parquet")
    facts = {"sets": {"reward": report, "cost-harm": report}, "harm-labels": {"harm": {"signed": signed}}}
    warnings: list[str] = []
    return SimpleNamespace(
        settings=run,
        layout=layout,
        round_number=1,
        engines=FakeEngines(scores),
        status=None,
        warnings=warnings,
        warn=warnings.append,
        facts=lambda stage: facts if stage == data.NAME else None,
    )


def scores(gap: float, seed: int = 0) -> np.ndarray:
    """Of the better and the worse response; a cost's worse one scores higher by `gap`."""
    return np.random.default_rng(seed).normal(size=(2, N)) + np.array([[5.0], [5.0 + gap]])


def stages(run: RunSettings) -> dict[str, Any]:
    return {stage.name: stage for stage in score_models.stages(run)}


def test_pairs_come_from_the_data_stage_and_from_the_crowd_otherwise() -> None:
    on_data, sandbox = stages(settings()), stages(RunSettings(name="x", constraints={"harm": {"limit": 0.1}}))  # type: ignore[dict-item]
    assert all(stage.inputs == ("sft", "data") for stage in on_data.values())
    assert all(stage.inputs == ("sft", "preferences") for stage in sandbox.values())
    assert "zero" in on_data["cost_model/harm"].settings and "zero" not in sandbox["cost_model/harm"].settings


def test_another_zero_makes_the_cost_model_again_and_nothing_else(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.json")
    for name in ("sft", "data"):
        manifest.record(StageRecord(name, "k", {}, {name: "d"}, 1.0))
    first, second = (
        {name: stage.key(manifest) for name, stage in stages(settings(rule=rule)).items()}
        for rule in ("midpoint", "separating")
    )
    assert {name for name in first if first[name] != second[name]} == {"cost_model/harm"}


def test_a_cost_without_safety_labels_is_moved_to_its_zero_and_called_relative(tmp_path: Path) -> None:
    run = context(tmp_path, settings(), scores(2.0))
    found = stages(run.settings)["cost_model/harm"].run(run)
    folder, zero = run.layout.cost(1, "harm"), found.facts["zero"]
    assert zero["value"] == pytest.approx(6.0, abs=0.6) and affine_of(folder) == Affine(1.0, -zero["value"])
    assert abs(found.facts["score_mean"]) < 0.6 and found.facts["comparisons"] == {"pairs": N, "cut": 0, "train": 30}
    (warning,) = run.warnings
    assert warning.startswith(
        "cost of harm is relative: not a safety label; its zero is the middle between the medians"
    )
    assert not found.facts["worth"]["doubtful"] and "which it beats" in found.facts["worth"]["sentence"]


def test_the_override_is_said_in_the_warning(tmp_path: Path) -> None:
    run = context(tmp_path, settings("rate", as_safety_label=True), scores(2.0))
    stages(run.settings)["cost_model/harm"].run(run)
    assert "data.zero.as_safety_label takes what is above it for unsafe all the same" in run.warnings[0]


def test_a_cost_with_safety_labels_keeps_its_zero_and_its_calibration(tmp_path: Path) -> None:
    run = context(tmp_path, settings("rate"), scores(3.0), signed=60)
    found = stages(run.settings)["cost_model/harm"].run(run)
    assert "zero" not in found.facts and affine_of(run.layout.cost(1, "harm")) is None
    assert found.facts["calibrated"] == 1.0 and not run.warnings


def test_a_model_near_chance_is_a_warning(tmp_path: Path) -> None:
    run = context(tmp_path, settings(), scores(0.0))
    found = stages(run.settings)["reward_model"].run(run)
    assert found.facts["worth"]["near_chance"] and "zero" not in found.facts
    assert run.warnings == [f"reward_model: {found.facts['worth']['sentence']}"]
    assert run.warnings[0].startswith("reward_model: near chance: ") and "; length alone " in run.warnings[0]
