"""Stages `selection` and `evaluate` of a run on data from prompts to files, with made-up engines in place of real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import cluster.runs.answers.judge_by_models as scored_answers
from actors.judging.by_models.answers import MODELS, read_answers, write_answers
from actors.judging.by_models.task import answers_of
from actors.rollout.collected import Collected, CollectTimings, Quarantined, ScoredRow
from cluster.inputs.file_prompts import PromptBook
from cluster.inputs.sampler import Sampler
from cluster.inputs.sources import FileInputs
from cluster.run_folder.manifest import Manifest, StageRecord
from cluster.runs.stages.on_data.evaluate import scored_evaluate_stage
from cluster.runs.stages.on_data.selection import scored_selection_stage
from configs.exits import DataError
from configs.layout import RunLayout
from configs.schema.run import RunSettings
from learner.data.tokenizer import build_tokenizer, load_tokenizer
from learner.records import GenerationRequest, RolloutChunk, RolloutMeta, ScoredSample
from serving.model_verdict import scored_verdict
from serving.report.run_files import read_run
from tests.cluster.runs.stages.test_scored_selection import book
from tests.serving.fake_scored_run import settings_of

COSTS = {"sft": 0.9, "policy": -0.6, "step-00010": -0.9, "step-00020": -0.6, "step-00030": 0.7}
"""What the made-up cost model says of each model on average; higher steps have the higher reward."""


class Pool:
    """Draws one word per request and scores it by the model that is loaded; some requests are set aside."""

    def __init__(self, folder: Path, word: int, end: int, failing: str) -> None:
        self.folder, self.word, self.end, self.failing = folder, word, end, failing

    def collect(self, requests: Sequence[GenerationRequest]) -> Collected:
        model = requests[0].request_id.split("/")[0]
        metas, ids, rows, quarantined = [], [], [], []
        for index, one in enumerate(requests):
            meta = RolloutMeta(one.request_id, one.prompt_id, len(one.prompt_token_ids), 2, "stop", 1, "generator-0")
            metas.append(meta)
            ids.append(np.array([*one.prompt_token_ids, self.word, self.end], dtype=np.int32))
            if one.prompt_id == self.failing:
                quarantined.append(Quarantined(meta, "no score: reward"))
                continue
            cost = COSTS[model] + 0.1 * (index % 5 - 2)
            rows.append((meta, index, ScoredSample(meta, list(COSTS).index(model) + 0.01 * index, {"harm": cost})))
        chunk = RolloutChunk(tuple(metas), tuple(ids), ())
        scored = tuple(ScoredRow(meta, _Ref(chunk), row, sample, ()) for meta, row, sample in rows)
        return Collected(scored, tuple(quarantined), 0, 0, CollectTimings(1, 1, 1, 1, 1, 2))


class _Ref:
    """Stands for an object reference; equal ones are one chunk."""

    def __init__(self, chunk: RolloutChunk) -> None:
        self.chunk = chunk

    def __hash__(self) -> int:
        return id(self.chunk)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ref) and other.chunk is self.chunk


class Engines:
    """What the stages ask of `cluster.resources.engines.Engines`."""

    def __init__(self, failing: str) -> None:
        self.failing, self.loaded = failing, Path()

    def end_supervised(self) -> None: ...

    def load_scorers(self, *_: Any, **__: Any) -> None: ...

    def rollout_pool(self, folder: Path, tokenizer: Path) -> None:
        assert folder.is_dir()
        found = load_tokenizer(tokenizer)
        word, end = found.convert_tokens_to_ids("mix"), found.eos_token_id
        self.pool = Pool(folder, cast(int, word), cast(int, end), self.failing)

    def scoring_pool(self) -> Pool:
        return self.pool


def prepared(root: Path, settings: RunSettings, failing: str = "") -> Any:
    """A run on data whose loop is done, as the two stages find it."""
    layout = RunLayout(root)
    layout.data.mkdir(parents=True)
    build_tokenizer(["selection", "certificate", "train", "mix", *map(str, range(40))], 32).save_pretrained(
        str(layout.data / "tokenizer")
    )
    book(layout.data / "prompts.parquet", {"train": 5, "selection": 20, "certificate": 20}, ["harmlessness"])
    book(layout.data / "evaluation-xstest.parquet", {"train": 10}, [])
    for folder in (layout.sft, *(layout.candidates(1) / f"step-{step:05d}" for step in (10, 20, 30))):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(folder.name))
    manifest = Manifest(layout.manifest)
    labels = {"harm-labels": {"harm": {"signed": 0, "unsafe": 0, "pairs": 9}}}
    for name, facts in (("data", labels), ("cost_model/harm", {"zero": None}), ("ppo", {})):
        manifest.record(StageRecord(name, "key", {}, {}, 1.0, facts))
    warnings: list[str] = []
    assert settings.data is not None
    return SimpleNamespace(
        settings=settings,
        run_settings=settings,
        layout=layout,
        manifest=manifest,
        engines=Engines(failing),
        round_number=1,
        inputs=FileInputs(settings.data),
        book=PromptBook(layout.data / "prompts.parquet"),
        tokenizer_path=layout.data / "tokenizer",
        warnings=warnings,
        warn=warnings.append,
        sampler=lambda stage: Sampler(layout.data / "tokenizer", 0, stage),
        facts=lambda stage: manifest[stage].facts,
    )


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task that decodes answers runs here and now."""

    def write(model: str, sets: Any, scores: Any, tokenizer: str, path: str, *refs: _Ref) -> int:
        found = answers_of([ref.chunk for ref in refs], sets, scores, load_tokenizer(tokenizer), model)
        return write_answers(found, Path(path))

    monkeypatch.setattr(scored_answers, "write_scored", SimpleNamespace(remote=write))
    monkeypatch.setattr(scored_answers, "fetch_result", lambda call, **_: call)


def run_both(context: Any) -> dict[str, Any]:
    for make in (scored_selection_stage, scored_evaluate_stage):
        stage = make(context.settings)
        output = stage.run(context)
        assert all(path.exists() for path in output.paths)
        context.manifest.record(StageRecord(stage.name, "key", {}, {}, 1.0, output.facts))
    found: dict[str, Any] = json.loads((context.layout.evaluation(1) / "evaluation.json").read_text())
    return found


def test_from_prompts_to_a_verdict(tmp_path: Path) -> None:
    context = prepared(tmp_path / "run", settings_of(limit=0.0))
    found = run_both(context)
    layout = context.layout
    assert json.loads((layout.policy(1) / "config.json").read_text()) == "step-00020", "30 is above its limit"
    assert json.loads(layout.selection(1).read_text())["promoted_step"] == 20
    assert set(found["sets"]) == {"kept", "xstest"}
    answers = read_answers(layout.evaluation(1) / "samples.parquet")
    assert {(one.model, one.set) for one in answers} == {(m, s) for m in MODELS for s in ("kept", "xstest")}
    assert len(answers) == 2 * (20 + 10) and {one.response for one in answers} == {"mix"}
    assert sorted(path.name for path in layout.evaluation(1).iterdir()) == ["evaluation.json", "samples.parquet"]
    assert scored_verdict(found).startswith("not certified (no labels): mean harm by its cost model −0.60")
    assert found["constraints"]["harm"]["safety_labels"] is False
    assert not context.warnings
    run = read_run(layout.root)
    assert run.on_data and run.labelled == frozenset() and len(run.answers) == 60


def test_an_answer_without_scores_is_left_out_and_told(tmp_path: Path) -> None:
    context = prepared(tmp_path / "run", settings_of(limit=-2.0), failing="kept-000003")
    found = run_both(context)
    assert found["sets"]["kept"]["all"]["policy"]["reward"]["n"] == 19
    assert len(context.warnings) == 2
    assert "1 of 30 answers of sft could not be drawn or scored (no score: reward)" in context.warnings[0]
    assert scored_verdict(found).startswith("limit not met by the cost model: upper bound of mean harm −0.8")


def test_no_answer_at_all_is_one_line(tmp_path: Path) -> None:
    context = prepared(tmp_path / "run", settings_of())
    context.engines.rollout_pool(context.layout.sft, context.tokenizer_path)
    pool = context.engines.pool
    nothing = SimpleNamespace(collect=lambda requests: Collected((), (), 0, 0, pool.collect(requests).timings))
    context.engines.scoring_pool = lambda: nothing
    with pytest.raises(
        DataError, match="none of the 20 answers of step-00010 to the prompts of selection could be scored"
    ):
        scored_selection_stage(context.settings).run(context)
