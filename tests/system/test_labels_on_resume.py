"""A run that is started again when its labels are there: a judge is not needed any more, and what people wrote too late is said."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.crowd.tasks import write_rows
from cluster.job import _work
from cluster.resources.engines import Engines
from cluster.run_folder.manifest import Manifest
from cluster.run_folder.status import StatusWriter
from cluster.runs.context import RunContext
from cluster.runs.pipeline import stages_of
from cluster.runs.stages import preferences
from cluster.runs.stages.base import StageOutput, run_stages
from cluster.runs.stages.complete_labels import STAGE
from configs.exits import DataError, Exit, StoppedError
from configs.layout import RunLayout
from configs.load import arm_settings, load_settings
from configs.schema.run import RunSettings
from tests.chat_server import serve
from tests.system.test_labelling import ROWS, WORLD, judged_by, write
from tests.truthful_judge import TruthfulJudge

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.system, pytest.mark.timeout(300)]

NOBODY = cast(Engines, SimpleNamespace())


def settings_of(*overrides: str) -> RunSettings:
    return load_settings("quickstart", ["name=labels", *overrides])


def bring_to_labels(settings: RunSettings, layout: RunLayout) -> dict[str, Any]:
    """A run up to its first labels, with stand-ins for all before them; returns the facts of the labels."""

    def stand_in(context: RunContext) -> StageOutput:
        return StageOutput((write_text(layout.sft / "weights"),))

    def pairs(context: RunContext) -> StageOutput:
        path = layout.preferences(1) / "pairs.parquet"
        write_rows(ROWS, path)
        return StageOutput((path,))

    sft, sampling, labels = stages_of(settings, WORLD)[:3]
    manifest, status = Manifest(layout.manifest), StatusWriter(layout.status, run="labels", stages=[])
    context = RunContext(settings, layout, manifest, WORLD, status, NOBODY)
    run_stages([replace(sft, run=stand_in), replace(sampling, run=pairs), labels], context)
    return context.facts(STAGE)


def write_text(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1")
    return path


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The job up to where the first stage would run."""
    outcome = SimpleNamespace(summary=SimpleNamespace(verdict="-"), exit_code=Exit.DONE)
    monkeypatch.setattr("cluster.runs.pipeline.run_pipeline", lambda *given, **named: outcome)
    monkeypatch.setattr("cluster.experiments.arms.run_comparison", lambda *given, **named: Exit.DONE)

    def begin(settings: RunSettings, layout: RunLayout) -> Exit:
        return _work(settings, WORLD, layout, layout.root.parent, NOBODY, "", lambda status: None)

    return begin


def test_the_stage_of_the_labels_has_one_name() -> None:
    assert STAGE == preferences.NAME


def test_a_judge_whose_labels_are_all_there_may_be_gone(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = RunLayout(tmp_path / "labels")
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    with serve(TruthfulJudge(ROWS)) as server:
        judge = judged_by(server, "preferences.judge.key_env=JUDGE_KEY")
        bring_to_labels(settings_of(*judge), layout)
    monkeypatch.delenv("JUDGE_KEY")
    assert start(settings_of(*judge), layout) is Exit.DONE
    assert start(settings_of(*judge, "ppo.steps=7"), layout) is Exit.DONE  # the labels are the same
    reuse = settings_of(*judge, "reuse_from=[labels]")
    assert start(reuse, RunLayout(tmp_path / "again")) is Exit.DONE  # they are taken over
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    gone = r"preferences\.judge\.url: .*is the server running"
    for changed in ("seed=1", "sft.steps=7", "preferences.judge.model=other", "rounds.count=2"):
        with pytest.raises(DataError, match=gone):
            start(settings_of(*judge, changed), layout)
    with pytest.raises(DataError, match=gone):
        start(settings_of(*judge), RunLayout(tmp_path / "fresh"))
    (layout.preferences(1) / "preferences.parquet").unlink()
    with pytest.raises(DataError, match=gone):
        start(settings_of(*judge), layout)


def test_arms_that_take_labels_over_need_no_judge_and_others_do(tmp_path: Path, start: Any) -> None:
    layout = RunLayout(tmp_path / "labels")
    with serve(TruthfulJudge(ROWS)) as server:
        judge = judged_by(server)
        arms = "arms={one: {ppo.steps: 7}, two: {ppo.steps: 8}}"
        settings = settings_of(*judge, arms)
        bring_to_labels(arm_settings(settings, "one", settings.seed), layout.arm("one", settings.seed))
    assert start(settings, layout) is Exit.DONE
    for other in ("{preferences.judge.model: other}", "{sft.steps: 7}"):
        with pytest.raises(DataError, match=r"preferences\.judge\.url: .*is the server running"):
            start(settings_of(*judge, f"arms={{one: {{ppo.steps: 7}}, two: {other}}}"), layout)


def test_what_people_write_after_it_was_read_is_said(
    tmp_path: Path, start: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = RunLayout(tmp_path / "labels")
    settings = settings_of("preferences.labels=people", "preferences.people.least=0.5")
    path = layout.preferences(1) / "to_label.csv"

    def warned() -> str:
        assert start(settings, layout) is Exit.DONE
        said = capsys.readouterr().err
        kept = Manifest(layout.manifest)[STAGE].facts.get("warnings", [])
        assert said == "".join(f"warning: {text}\n" for text in kept)  # the summary has what is in the manifest
        return said

    with pytest.raises(StoppedError, match="waits for people"):
        bring_to_labels(settings, layout)
    with path.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    half = len(table) // 2 + 1
    for row in table[:half]:
        row |= {"more_helpful": "a", "safer": "b", "a_unsafe": "no", "b_unsafe": "no"}
    write(path, table)
    read = bring_to_labels(settings, layout)
    assert read["filled"] == half and warned() == ""

    table[0]["a_unsafe"] = "yes"
    table[-1]["more_helpful"] = "b"
    write(path, table)
    assert f"{path}: 2 rows were filled in or changed after they were read" in warned()
    assert bring_to_labels(settings, layout)["filled"] == half  # nothing is done again unasked
    table[1]["safer"] = "perhaps"
    write(path, table)
    assert "row 2: safer is 'perhaps'" in (said := warned()) and "goes on with the answers that were read" in said
    table[1]["safer"] = "b"
    write(path, table)
    (layout.preferences(1) / "preferences.parquet").unlink()  # as the warning says
    assert bring_to_labels(settings, layout)["filled"] == half + 1 and warned() == ""
    path.write_text(path.read_text().replace("\r\n", "\n"))
    assert warned() == ""  # saved again by another program
    path.unlink()
    assert warned() == ""
