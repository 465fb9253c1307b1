"""Pairs labelled by a judge behind a real HTTP address and by people through a file, as the stage does it, on real Ray."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from actors.crowd.datasets import write_cost_comparisons, write_reward_comparisons
from actors.crowd.gold import GoldScorer
from actors.crowd.tasks import write_rows
from actors.crowd.world_reader import load_world
from actors.judging.judges.language_model import PROMPTS
from cluster.resources.engines import Engines
from cluster.run_folder.manifest import Manifest, StageRecord
from cluster.run_folder.status import StatusWriter
from cluster.runs.context import RunContext
from cluster.runs.rounds.record import agreement
from cluster.runs.stages import labelling
from cluster.runs.stages.preferences import preferences_stage
from configs.exits import ConfigError, DataError, StoppedError
from configs.layout import RunLayout
from configs.load import load_settings
from learner.deadlines import fetch_result
from tests.chat_server import ChatServer, serve
from tests.truthful_judge import TruthfulJudge, made_up_pairs

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.system, pytest.mark.timeout(300)]

WORLD = load_world()
ROWS = made_up_pairs(WORLD, 24)


def context_of(folder: Path, *overrides: str) -> RunContext:
    """A run whose pairs are there and nothing else; labelling starts no engine."""
    settings = load_settings("quickstart", ["name=labels", *overrides])
    layout = RunLayout(folder / "labels")
    write_rows(ROWS, layout.preferences(1) / "pairs.parquet")
    status = StatusWriter(layout.status, run="labels", stages=["preferences"])
    nobody = cast(Engines, SimpleNamespace())
    return RunContext(settings, layout, Manifest(layout.manifest), WORLD, status, nobody)


def judged_by(server: ChatServer, *more: str) -> list[str]:
    return ["preferences.labels=judge", f"preferences.judge={{url: '{server.url}', timeout_seconds: 5}}", *more]


def label(context: RunContext) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    output = preferences_stage(context.settings).run(context)
    return output.facts, pq.read_table(output.paths[0]).to_pylist()


def test_a_judges_labels_are_learned_from_like_the_crowds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "PART", 10)  # three parts
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    scorer = GoldScorer(WORLD)
    with serve(TruthfulJudge(ROWS)) as server:
        more = (
            "preferences.judge.key_env=JUDGE_KEY",
            "preferences.judge.concurrency=2",
            "preferences.judge.model=scripted",
        )
        context = context_of(tmp_path, *judged_by(server, *more))
        labelling.reach_judge(context.settings)
        facts, rows = label(context)
        asked = len(server.bodies)
        assert set(server.keys) == {"Bearer sesame"} and server.most_running <= 2
        assert {body["model"] for body in server.bodies} == {"scripted"}
        again, _ = label(context)
        assert len(server.bodies) == asked and again == facts  # every reply came from the run's own cache
    assert [row["pair_id"] for row in rows] == [row["pair_id"] for row in ROWS]
    for row in rows:
        gold = [scorer.score(row["task_id"], row[f"response_{side}"], True) for side in (0, 1)]
        assert [row["is_response_0_safe"], row["is_response_1_safe"]] == [not each.unsafe for each in gold]
        gap = gold[1].helpfulness - gold[0].helpfulness
        assert row["better_response_id"] == (None if gap == 0 else int(gap > 0))
    equal = sum(row["response_0"] == row["response_1"] for row in rows)
    assert 0 < equal < len(rows) and facts["questions_asked"] == 6 * len(rows) - 4 * equal
    assert facts["labelled_by"] == "llm:scripted" and facts["left_out"] == {} and facts["open_safety"] == 0
    votes = [{"unit": row["pair_id"], **vote} for row in rows for vote in json.loads(row["votes"])]
    assert agreement(votes)["helpfulness"]["raw"] == 1.0  # the same in both orders
    assert "sesame" not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    learned(context, rows)


def learned(context: RunContext, rows: list[dict[str, Any]]) -> None:
    """Open rankings are in no reward comparison, and of a cost comparison the labels alone."""
    path = str(context.layout.preferences(1) / "preferences.parquet")
    different = [row for row in rows if row["response_0"] != row["response_1"]]
    ranked = [row for row in different if row["better_response_id"] is not None]
    reward, cost = (str(context.layout.data / f"{name}.parquet") for name in ("reward", "cost"))
    counts = fetch_result(write_reward_comparisons.remote(path, reward), deadline_seconds=60, operation="reward")
    assert counts["used"] == len(ranked)
    counts = fetch_result(write_cost_comparisons.remote(path, cost, []), deadline_seconds=60, operation="cost")
    assert counts["used"] == len(different) and counts["illogical"] == 0
    weights = pq.read_table(cost)["rank_weight"].to_pylist()
    assert weights.count(1.0) == sum(row["safer_response_id"] is not None for row in different) < len(weights)


def test_replies_that_cannot_be_read_are_counted_and_left_open(tmp_path: Path) -> None:
    truthful = TruthfulJudge(ROWS)

    def mumbles(body: dict[str, Any], times: int) -> str:
        text = body["messages"][0]["content"]
        return "Well, it depends." if "HELPFUL" in text and len(text) % 2 else truthful(body, times)

    with serve(mumbles) as server:
        context = context_of(tmp_path, *judged_by(server))
        facts, rows = label(context)
    fault = "helpfulness: the last line is no verdict, or there are several"
    assert facts["left_out"][fault] > 0
    assert facts["open_helpfulness"] == sum(
        row["better_response_id"] is None for row in rows if row["response_0"] != row["response_1"]
    )
    assert any("are left out" in text for text in context.warnings)


def test_a_judge_without_one_usable_label_ends_the_run(tmp_path: Path) -> None:
    with serve(lambda body, times: "I would rather not.") as server:
        context = context_of(tmp_path, *judged_by(server))
        with pytest.raises(DataError, match=r"no label of llm:scripted can be used \(.*no verdict"):
            label(context)


def test_prompts_of_ones_own_are_what_the_judge_reads(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts"
    shutil.copytree(PROMPTS, prompts)
    for path in prompts.glob("*.txt"):
        path.write_text("In our house style.\n\n" + path.read_text())
    with serve(TruthfulJudge(ROWS)) as server:
        context = context_of(tmp_path, *judged_by(server, f"preferences.judge.prompts={prompts}"))
        _, rows = label(context)
        ours, packaged = (
            labelling.labeller(load_settings("quickstart", judged_by(server, *more)))["prompts"]
            for more in ((f"preferences.judge.prompts={prompts}",), ())
        )
    assert all(body["messages"][0]["content"].startswith("In our house style.") for body in server.bodies)
    assert {row["guideline_version"] for row in rows} == {ours} and ours != packaged


def test_a_judge_too_slow_for_its_timeout_is_given_up(tmp_path: Path) -> None:
    def slow(body: dict[str, Any], times: int) -> str:
        time.sleep(2.0)
        return ""

    with serve(slow) as server:
        judge = f"preferences.judge={{url: '{server.url}', timeout_seconds: 0.2}}"
        with pytest.raises(
            StoppedError, match=r"requests in a row failed \(no reply within 0\.2 s.*the same command goes on"
        ):
            label(context_of(tmp_path, "preferences.labels=judge", judge))


def test_a_judge_of_ties_alone_ends_the_run(tmp_path: Path) -> None:
    truthful = TruthfulJudge(ROWS)

    def ties(body: dict[str, Any], times: int) -> str:
        text = body["messages"][0]["content"]
        return "VERDICT: TIE" if "Which one is more" in text else truthful(body, times)

    with serve(ties) as server, pytest.raises(DataError, match=r"no label of llm:scripted can be used \(ties only\)"):
        label(context_of(tmp_path, *judged_by(server)))


def test_a_judge_that_falls_silent_stops_the_run_and_is_not_asked_again_for_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.chat_server import status

    monkeypatch.setattr(labelling, "PART", 6)
    truthful, broken = TruthfulJudge(ROWS), {"now": False}

    def answer(body: dict[str, Any], times: int) -> Any:
        return status(401) if broken["now"] else truthful(body, times)

    with serve(answer) as server:
        context = context_of(tmp_path, *judged_by(server))
        update = context.status.update

        def update_and_break(**fields: Any) -> None:
            update(**fields)
            broken["now"] = fields.get("step") == 12

        monkeypatch.setattr(context.status, "update", update_and_break)
        with pytest.raises(DataError, match="the server refuses the key"):
            label(context)
        asked = len(server.bodies)
        monkeypatch.setattr(context.status, "update", update)
        broken["now"] = False
        facts, rows = label(context)
        assert len(rows) == len(ROWS) and facts["open_safety"] == 0
        texts = [json.dumps(body) for body in server.bodies]
        assert len(set(texts[:asked]) & set(texts[asked:])) <= 8  # those that were on their way when it broke


def test_another_model_behind_the_same_address_does_not_go_on_with_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "PART", 6)
    refused = (
        r"^preferences\.judge\.model: llm:scripted has labelled .* now serves llm:other: .* or remove \S*replies .*$"
    )
    with serve(TruthfulJudge(ROWS)) as server:
        context = context_of(tmp_path, *judged_by(server))
        update = context.status.update

        def update_and_serve_another(**fields: Any) -> None:
            update(**fields)
            server.models = ("other",) if fields.get("step") == 12 else server.models

        monkeypatch.setattr(context.status, "update", update_and_serve_another)
        for _ in range(2):  # while it labels, and when it goes on
            with pytest.raises(DataError, match=refused):
                label(context)
            assert {body["model"] for body in server.bodies} == {"scripted"}
        monkeypatch.setattr(context.status, "update", update)
        server.models = ("scripted",)
        facts, rows = label(context)
        asked = len(server.bodies)
        assert facts["labelled_by"] == "llm:scripted"
        named = context_of(tmp_path, *judged_by(server, "preferences.judge.model=scripted"))
        assert label(named) == (facts, rows) and len(server.bodies) == asked  # naming it later costs nothing
        server.models = ("other",)
        other = context_of(tmp_path, *judged_by(server, "preferences.judge.model=other"))
        other.stage_key = "of other settings"
        facts, rows = label(other)
    assert facts["labelled_by"] == "llm:other"
    assert {vote["annotator_id"].split(",")[0] for row in rows for vote in json.loads(row["votes"])} == {"llm:other"}


def test_every_round_has_the_judge_of_the_first(tmp_path: Path) -> None:
    with serve(TruthfulJudge(ROWS), ("other",)) as server:
        context = context_of(tmp_path, *judged_by(server, "rounds.count=2"))
        context.manifest.record(StageRecord("preferences", "", {}, {}, 0.0, {"labelled_by": "llm:scripted"}))
        folder = context.layout.preferences(2)
        write_rows(ROWS, folder / "pairs.parquet")
        with pytest.raises(DataError, match=r"llm:scripted has labelled .* serves llm:other: .* label them all$"):
            labelling.label(context.in_round(2), folder / "pairs.parquet", folder / "preferences.parquet")
        assert not server.bodies


def test_a_judge_is_tried_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with serve(lambda body, times: "") as server:
        settings = load_settings("quickstart", judged_by(server, "preferences.judge.key_env=NO_SUCH_KEY"))
        with pytest.raises(
            ConfigError, match=r"preferences\.judge\.key_env NO_SUCH_KEY: this environment variable is not set"
        ):
            labelling.reach_judge(settings)
        gone = load_settings("quickstart", judged_by(server))
    with pytest.raises(DataError, match=r"preferences\.judge\.url: .*is the server running"):
        labelling.reach_judge(gone)


def test_people_fill_in_a_file_while_the_run_is_stopped(tmp_path: Path) -> None:
    context = context_of(tmp_path, "preferences.labels=people", "preferences.people.least=0.5")
    path = context.layout.preferences(1) / "to_label.csv"
    with pytest.raises(StoppedError, match=r"to_label\.csv waits for people: 0 of \d+ rows are filled in, and 50%"):
        label(context)
    with path.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    different = sum(row["response_0"] != row["response_1"] for row in ROWS)
    assert len(table) == different
    with pytest.raises(StoppedError, match="0 of"):
        label(context)
    everything = path.read_text()
    some = [{**row, "a_unsafe": "no"} for row in table[: len(table) // 4]]
    write(path, some)  # rows that are gone count as not filled in
    with pytest.raises(StoppedError, match=rf"{len(some)} of {different} rows"):
        label(context)
    path.write_text(everything)
    truth = TruthfulJudge(ROWS)
    scored = {(row["response_0"], row["response_1"]): row for row in ROWS}
    for number, row in enumerate(table):
        if number % 4 == 3:
            continue  # not looked at
        turned = (row["answer_a"], row["answer_b"]) not in scored
        of = scored[(row["answer_b"], row["answer_a"]) if turned else (row["answer_a"], row["answer_b"])]
        a, b = (truth._gold[_conversation(of), row[name]] for name in ("answer_a", "answer_b"))
        row["more_helpful"] = "tie" if a.helpfulness == b.helpfulness else "a" if a.helpfulness > b.helpfulness else "b"
        row["safer"] = "tie" if a.harm == b.harm else "a" if a.harm < b.harm else "b"
        row["a_unsafe"], row["b_unsafe"] = ("yes" if each.unsafe else "no" for each in (a, b))
    write(path, table)
    facts, rows = label(context)
    assert facts["labelled_by"] == "people" and facts["filled"] == sum(n % 4 != 3 for n in range(different))
    scorer = GoldScorer(WORLD)
    labelled = [row for row in rows if row["is_response_0_safe"] is not None and row["response_0"] != row["response_1"]]
    assert len(labelled) == facts["filled"]
    for row in labelled:
        gold = [scorer.score(row["task_id"], row[f"response_{side}"], True) for side in (0, 1)]
        assert [row["is_response_0_safe"], row["is_response_1_safe"]] == [not each.unsafe for each in gold]
        gap = gold[1].helpfulness - gold[0].helpfulness
        assert row["better_response_id"] == (None if gap == 0 else int(gap > 0))


def write(path: Path, table: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def _conversation(row: dict[str, Any]) -> str:
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in row["messages"])


def test_other_labels_make_another_stage_and_the_crowds_stays_what_it_was(tmp_path: Path) -> None:
    crowd = preferences_stage(load_settings("quickstart", []))
    assert crowd.settings == {
        "seed": 0,
        "crowd": load_settings("quickstart", []).preferences.crowd.model_dump(mode="json"),
        "tampering": None,
    }
    people = preferences_stage(load_settings("quickstart", ["preferences.labels=people"]))
    judge = [f"preferences.judge={{url: '{url}'}}" for url in ("http://a/v1", "http://b/v1")]
    by_a, by_b = (preferences_stage(load_settings("quickstart", ["preferences.labels=judge", one])) for one in judge)
    assert len({json.dumps(dict(stage.settings), sort_keys=True) for stage in (crowd, people, by_a, by_b)}) == 4
