"""Real cells of a study: a whole tiny run, and one that trains a reward model and no more; their rows hold what effects read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.experiments.results.cells import Cell, preset_settings
from cluster.experiments.results.rows import Row, present_origin, read_rows, write_row
from cluster.experiments.studies import sitting
from cluster.experiments.studies.sitting import run_cell
from cluster.resources.engines import Engines
from configs.layout import RunLayout
from tests.system.test_pipeline import TINY

pytestmark = pytest.mark.slow

WHOLE, MODELS = "whole.yaml", "models.yaml"


@pytest.fixture(scope="module")
def rows(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Row, Row, Path]]:
    """The rows of both cells, and the folder of runs."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a cell's preset is a packaged one's name, or a file of here
        patch.setattr(sitting, "MODELS_ONLY", {MODELS})
        tiny: dict[str, object] = {}
        for word in TINY:
            key, value = word.split("=")
            section, _, name = key.rpartition(".")
            place = tiny
            for part in section.split("."):
                place = place.setdefault(part, {})  # type: ignore[assignment]
            place[name] = yaml.safe_load(value)
        changes = {
            WHOLE: ("whole", {"preferences.tampering": {"how": "shuffle"}}),
            MODELS: ("models", {"reward_model.harmlessness_share": 0.5}),
        }
        for file, (name, arm) in changes.items():
            config = {
                "extends": "quickstart",
                "name": name,
                "seeds": [0],
                "deterministic": True,
                **tiny,
                "arms": {"arm": arm},
            }
            (folder / file).write_text(yaml.safe_dump(config))
        settings = preset_settings(WHOLE)
        engines = Engines(settings.resources, settings.model.max_length, folder / "ray_train", deterministic=True)
        try:
            whole, models = (
                run_cell(Cell(file, "arm", 0), folder, engines, present_origin()) for file in (WHOLE, MODELS)
            )
            yield whole, models, folder
        finally:
            engines.close()


def test_the_row_of_a_whole_run_has_the_table_figures_and_what_the_studies_read(rows) -> None:
    row, _, _ = rows
    assert row.value("harm_rate_harmful") is not None and row.value("harm_rate_harmful", "sft") is not None
    for name in ("alternative", "clarify", "nuance"):
        assert 0 <= row.figures[f"{name}/sft"] <= 1 and 0 <= row.figures[f"{name}/policy"] <= 1
    assert 0 <= row.figures["unusual/auroc"] <= 1 and 0 <= row.figures["unusual/auroc_attacks"] <= 1
    assert 0 <= row.figures["reward/pair_accuracy"] <= 1 and "cost/sign_accuracy" in row.figures
    assert any(name.startswith("category/self_harm/") for name in row.figures)


def test_tampering_is_counted_and_warned_of(rows) -> None:
    _, _, folder = rows
    layout = RunLayout(folder / "whole").arm("arm", 0)
    facts = json.loads(layout.manifest.read_text())["stages"]["preferences"]["facts"]
    assert 0 < facts["tampered"] < facts["pairs"]
    assert any("preferences.tampering" in warning for warning in json.loads(layout.summary.read_text())["warnings"])


def test_a_models_only_cell_stops_after_its_reward_model_and_took_over_what_it_could(rows) -> None:
    _, row, folder = rows
    layout = RunLayout(folder / "models").arm("arm", 0)
    stages = json.loads(layout.manifest.read_text())["stages"]
    assert list(stages) == ["sft", "pairs", "preferences", "baseline", "reward_model"]
    assert stages["sft"]["facts"]["taken_from"] == "arm-seed0" and "taken_from" not in stages["reward_model"]["facts"]
    assert stages["reward_model"]["facts"]["comparisons"]["harmlessness"] > 0
    assert not row.evaluation and not layout.summary.exists()
    assert {"reward/helpfulness/accuracy", "reward/harmlessness/accuracy"} <= set(row.figures)


def test_rows_are_read_back_as_they_were_written(rows, monkeypatch, tmp_path) -> None:
    whole, models, folder = rows
    monkeypatch.chdir(folder)
    for row in (whole, models):
        write_row(row, tmp_path)
    read = read_rows(tmp_path, (WHOLE, MODELS))
    assert read[models.cell].figures == pytest.approx(dict(models.figures), abs=1e-6)
    assert set(read) == {whole.cell, models.cell}
