"""Two tiny rounds with a red team on real Ray, vLLM and DeepSpeed: stopped in the second round's loop, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.inputs.world_checks import check_against_world
from cluster.resources.engines import Engines
from cluster.run_folder.digests import model_digest
from cluster.run_folder.metrics_log import MetricsLog
from cluster.runs.pipeline import run_pipeline
from configs.layout import RunLayout
from configs.load import load_settings
from serving.explain.why import explain, list_samples
from serving.report import write_report
from serving.summary import read_summary

pytestmark = pytest.mark.slow

SETTINGS = [
    "name=tiny-rounds",
    "deterministic=true",
    "model.hidden_size=64",
    "model.layers=2",
    "model.heads=2",
    "model.intermediate_size=128",
    "sft.steps=60",
    "preferences.pairs=160",
    "splits.holdout=0.15",
    "splits.calibration=0.15",
    "reward_model.epochs=1",
    "cost_model.epochs=1",
    "constraints.harm.min_samples=1",
    "ppo.steps=2",
    "ppo.batch_size=32",
    "ppo.minibatch_size=16",
    "ppo.checkpoint_every=1",
    "ppo.max_response_tokens=24",
    "evaluation.samples_per_cell=10",
    "evaluation.samples_per_minor_cell=5",
    "evaluation.samples_unknown=10",
    "selection.samples=100",
    "selection.every=1",
    "selection.candidates=1",
    "certificate.samples=200",
    "resources.generators.count=1",
    "resources.supervised.workers=1",
    "rounds.count=2",
    "rounds.red_team=true",
    "rounds.pairs_from=current_and_earlier",
    "rounds.start=previous",
    "rounds.hunt.tries=2",
    "rounds.hunt.keep=1",
    "rounds.hunt.retests=1",
    "rounds.hunt.share=0.2",
    "rounds.overrides={2: {constraints.harm.limit: 0.08, ppo.actor_learning_rate: 0.0001}}",
]
"""Too small to learn anything: what is tested is that every part does its work."""


class Stopped(Exception):
    """The test's own stop."""


@pytest.fixture(scope="module")
def rounds_run(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunLayout, dict[str, Any]]]:
    """The finished run, and what was seen of it when it was stopped in step 2 of round 2."""
    root = tmp_path_factory.mktemp("rounds")
    settings = load_settings("quickstart", SETTINGS)
    layout, world = RunLayout(root / settings.name), check_against_world(settings)
    engines = Engines(settings.resources, settings.model.max_length, root / "ray_train", deterministic=True)
    append = MetricsLog.append

    def append_until(self: MetricsLog, line: Any) -> None:
        if line["step"] == 2 and layout.finds(2).exists():
            raise Stopped
        append(self, line)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MetricsLog, "append", append_until)
            with pytest.raises(Stopped):
                run_pipeline(settings, layout, world, engines)
        write_report(layout.root)
        cut = {
            "rounds": json.loads(layout.rounds.read_text())["rounds"],
            "report": layout.report.read_text(),
            "last": layout.last_round(),
            "first_pairs": layout.preferences(2).joinpath("pairs.parquet").stat().st_mtime_ns,
        }
        run_pipeline(settings, layout, world, engines)
        yield layout, cut
    finally:
        engines.close()


def test_a_stop_in_the_second_round_keeps_the_first_and_goes_on(rounds_run: tuple[RunLayout, dict[str, Any]]) -> None:
    layout, cut = rounds_run
    assert [one["round"] for one in cut["rounds"]] == [1] and cut["last"] == 1
    assert 'id="rounds"' in cut["report"]
    assert layout.last_round() == 2
    assert layout.preferences(2).joinpath("pairs.parquet").stat().st_mtime_ns == cut["first_pairs"]
    for number in (1, 2):
        lines = [json.loads(line) for line in layout.metrics_of(number).read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]


def test_ids_and_seeds_are_of_one_round_only(rounds_run: tuple[RunLayout, dict[str, Any]]) -> None:
    layout, _ = rounds_run
    rows = {number: pq.read_table(layout.rollouts_of(number)).to_pylist() for number in (1, 2)}
    for name in ("request_id", "prompt_id"):
        assert not {row[name] for row in rows[1]} & {row[name] for row in rows[2]}, name
    pairs = {number: pq.read_table(layout.preferences(number) / "preferences.parquet") for number in (1, 2)}
    assert not set(pairs[1]["pair_id"].to_pylist()) & set(pairs[2]["pair_id"].to_pylist())
    assert pairs[1]["sampling_seed"][0].as_py() != pairs[2]["sampling_seed"][0].as_py()


def test_the_second_round_learns_from_all_pairs_and_is_measured_on_its_own(
    rounds_run: tuple[RunLayout, dict[str, Any]],
) -> None:
    layout, _ = rounds_run
    first = pq.read_table(layout.preferences(1) / "preferences.parquet").to_pylist()
    own = pq.read_table(layout.preferences(2) / "preferences.parquet").to_pylist()
    joined = pq.read_table(layout.training_pairs(2)).to_pylist()
    ids = {row["pair_id"] for row in joined}
    assert {row["pair_id"] for row in own} <= ids
    assert {row["pair_id"] for row in first if row["split"] == "train"} <= ids
    assert not {row["pair_id"] for row in first if row["split"] != "train"} & ids
    digests = {"policy": model_digest(layout.policy(1)), "sft": model_digest(layout.sft)}
    assert {row["model_digest"] for row in own} == set(digests.values())
    assert {row["model_digest"] for row in own if row["split"] != "train"} == {digests["policy"]}
    attacks = [row for row in own if "red_team" in row["tags"]]
    assert all(row["split"] == "train" for row in attacks)


def test_the_second_round_starts_from_the_first_rounds_policy(rounds_run: tuple[RunLayout, dict[str, Any]]) -> None:
    layout, _ = rounds_run
    first = json.loads(layout.metrics_of(2).read_text().splitlines()[0])
    assert abs(first["kl"]) < 1e-3 and first["delta_logprob_max"] < 1e-3  # its reference, and what vLLM holds
    records = json.loads(layout.rounds.read_text())["rounds"]
    assert [one["models"]["start"]["name"] for one in records] == ["sft", "round-1"]
    assert records[1]["models"]["start"]["digest"] == records[0]["models"]["policy"]["digest"]
    assert {one["model"] for one in records[1]["pairs"]["sources"]} == {"round-1", "sft"}
    assert records[1]["red_team"]["against"] == "round-1" and records[1]["red_team"]["found"] > 0
    assert [one["constraints"]["harm"]["limit"] for one in records] == [0.05, 0.08]
    assert records[1]["loop"]["learning_rates"]["actor"] == 1e-4


def test_the_summary_the_report_and_why_show_the_last_round(rounds_run: tuple[RunLayout, dict[str, Any]]) -> None:
    layout, _ = rounds_run
    summary = read_summary(layout.summary)
    assert summary.seed == 0 and [one["round"] for one in summary.rounds] == [1, 2]
    assert summary.certificate is not None and summary.certificate.constraints["harm"].limit == 0.08
    for one in summary.rounds:
        assert set(one["results"]["policy"]["harm_rate_harmful"]) == {"value", "low", "high", "n"}
    assert list_samples(layout.root)[0]["request_id"].startswith("r2-ppo-")
    first = list_samples(layout.root, round_number=1)[0]["request_id"]
    assert explain(layout.root, first, 1).step == 1
    status = json.loads(layout.status.read_text())
    assert status["state"] == "finished" and status["stages"]["round-2/ppo"]["state"] == "done"
