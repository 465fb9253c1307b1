"""The demo's names, its table, and when it has nothing to do."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cluster.commands.demo import Break, demo_settings, finished_summary, remove_run
from cluster.commands.text.cells import cell_text
from cluster.commands.text.demo import print_result
from cluster.run_folder.status import StatusWriter
from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.load import dump_settings


def finished_run(folder: Path, **changes) -> RunLayout:
    settings = demo_settings(None, None).model_copy(update=changes)
    layout = RunLayout(folder / settings.name)
    StatusWriter(layout.status, run=settings.name, stages=[]).finish("finished")
    layout.config.write_text(dump_settings(settings))
    layout.summary.write_text(json.dumps({"run": settings.name}))
    return layout


def test_every_variant_has_a_run_of_its_own():
    assert demo_settings(None, None).name == "quickstart"
    assert (demo_settings(3, None).name, demo_settings(3, None).seed) == ("quickstart-3", 3)
    assert demo_settings(None, Break.GENERATOR).name == "quickstart-break-generator"
    naive = demo_settings(None, Break.CONSTRAINT)
    assert naive.name == "quickstart-break-constraint"
    assert (naive.constraints["harm"].measure, naive.constraints["harm"].subset) == ("mean", ())


def test_a_finished_run_is_printed_again(tmp_path: Path):
    layout = finished_run(tmp_path, storage=tmp_path)
    assert finished_summary(demo_settings(None, None), layout) == {"run": "quickstart"}


def test_a_run_of_other_settings_or_an_unfinished_one_is_not(tmp_path: Path):
    assert finished_summary(demo_settings(None, None), finished_run(tmp_path / "a", deterministic=True)) is None
    layout = finished_run(tmp_path / "b")
    StatusWriter(layout.status, run="quickstart", stages=[]).finish("stopped")
    assert finished_summary(demo_settings(None, None), layout) is None


def test_fresh_removes_a_run_folder_and_nothing_else(tmp_path: Path):
    layout = finished_run(tmp_path)
    remove_run(layout)
    assert not layout.root.exists()
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("…")
    with pytest.raises(ConfigError, match="not a run folder"):
        remove_run(RunLayout(other))
    assert (other / "thesis.txt").exists()


def test_cells_show_the_value_with_its_interval():
    assert cell_text({"value": 0.021, "low": 0.012, "high": 0.034, "n": 600}, share=True) == "2.1 %\n[1.2, 3.4]"
    assert cell_text({"value": 2.638, "low": 2.58, "high": 2.7, "n": 600}, share=False) == "2.64\n[2.58, 2.70]"
    assert cell_text(None, share=True) == "–"


def test_the_result_shows_table_verdict_and_times():
    cell = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 600}
    cells = {"harm_rate_harmful": cell, "helpfulness_benign": cell}
    summary = {
        "evaluation": {"sft": {"seen": cells}, "policy": {"seen": cells}},
        "verdict": "feasible: 2.1 % [1.2, 3.4] ≤ 5 %",
        "seconds": {"sft": 180.0, "ppo": 240.0, "total": 500.0},
    }
    console = Console(file=io.StringIO(), width=80)
    print_result(summary, console)
    text = console.file.getvalue()
    assert "50.0 %" in text and "[40.0, 60.0]" in text and "…" not in text
    assert "Verdict: feasible: 2.1 % [1.2, 3.4] ≤ 5 %" in text
    assert "sft 180 s · ppo 240 s — 8.3 minutes in all" in text
