"""Two rounds on files: the first learns from them, the second also from fresh pairs that a judge behind a real address labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.inputs.sources import check_inputs
from cluster.resources.engines import Engines
from cluster.run_folder.digests import model_digest
from cluster.runs.pipeline import run_pipeline
from configs.layout import RunLayout
from configs.load import load_settings
from learner.data.splits import TRAIN
from tests.chat_server import ChatServer, serve
from tests.system.test_data_run import BAD, CONFIG, GOOD, transcript

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = """
rounds: {count: 2, pairs_from: current_and_earlier, earlier_share: 0.25}
preferences: {labels: judge, pairs: 120, judge: {url: "URL", timeout_seconds: 20}}
"""


def answer_of(text: str, name: str) -> str:
    return text.partition(f"<{name} ")[2].partition(">\n")[2].partition(f"\n</{name} ")[0]


def odd_is_unsafe(body: dict[str, Any], times: int) -> str:
    """A judge with a rule that even junk can be judged by."""
    text = body["messages"][0]["content"]
    if "Which one is more" not in text:
        unsafe = len(answer_of(text, "answer")) % 2 == 1
        return json.dumps({"unsafe": unsafe, "categories": [], "refusal": "none"})
    a, b = (answer_of(text, f"answer {name}") for name in "AB")
    gap = len(b) % 2 - len(a) % 2 if "HARMLESS" in text else len(a) - len(b)
    return f"VERDICT: {'TIE' if gap == 0 else 'A' if gap > 0 else 'B'}"


@pytest.fixture(scope="module")
def finished(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunLayout, ChatServer, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("data rounds")
    rows = [
        {"chosen": transcript(number, GOOD), "rejected": transcript(number, BAD.format(number=number))}
        for number in range(300)
    ]
    (root / "harmless-base.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [{"prompt": f"May I ask {n}?", "label": "safe" if n % 2 else "unsafe"} for n in range(20)]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    with serve(odd_is_unsafe) as server:
        path = root / "run.yaml"
        path.write_text(CONFIG.replace("ROOT", str(root)) + ROUNDS.replace("URL", server.url))
        settings = load_settings(path, ["name=tiny-data-rounds"])
        layout = RunLayout(root / "runs" / settings.name)
        engines = Engines(settings.resources, settings.model.max_length, root / "ray_train", deterministic=True)
        try:
            run_pipeline(settings, layout, check_inputs(settings), engines)
            asked = len(server.bodies)
            run_pipeline(settings, layout, check_inputs(settings), engines)  # everything is there: nothing is asked
            assert len(server.bodies) == asked
        finally:
            engines.close()
        yield layout, server, json.loads(layout.rounds.read_text())


def test_the_second_round_labels_answers_of_the_first_rounds_policy(finished: Any) -> None:
    layout, _, document = finished
    pairs = document["rounds"][1]["pairs"]
    assert pairs["labelled_by"] == "llm:scripted" and pairs["questions"] > 0
    assert {one["model"] for one in pairs["sources"]} == {"round-1", "sft"}
    rows = pq.read_table(layout.preferences(2) / "preferences.parquet").to_pylist()
    assert sum(one["pairs"] for one in pairs["sources"]) == len(rows) == 120
    digests = {model_digest(layout.policy(1)), model_digest(layout.sft)}
    assert {row["model_digest"] for row in rows} == digests
    held = [row for row in rows if row["split"] != TRAIN]
    assert held and {row["model_digest"] for row in held} == {model_digest(layout.policy(1))}
    for row in rows:
        shown = row["response_0"] if row["response_0"].strip() else "(the answer is empty)"
        assert row["is_response_0_safe"] == (len(shown) % 2 == 0)


def test_its_models_learn_from_files_and_labels(finished: Any) -> None:
    layout, _, document = finished
    files = pq.read_table(layout.data / "cost-harm.parquet").to_pylist()
    now = pq.read_table(layout.data_of(2) / "cost-harm.parquet").to_pylist()
    kept = [row for row in files if row["split"] == TRAIN]
    assert now[: len(kept)] == kept and len(now) > len(kept)
    fresh = now[len(kept) :]
    assert {row["safer_sign"] for row in kept} == {0}  # HH-RLHF's rows have no safety label
    assert all(row["safer_sign"] in (-1, 1) for row in fresh)
    manifest = json.loads(layout.manifest.read_text())
    stages = manifest["stages"]
    facts = stages["round-2/preferences"]["facts"]
    assert facts["harm-labels"]["harm"]["signed"] > 0 == stages["data"]["facts"]["harm-labels"]["harm"]["signed"]
    assert "zero" not in stages["round-2/cost_model/harm"]["facts"]  # safety labels stand behind it now
    assert document["rounds"][1]["pairs"]["training"] == facts["training_pairs"] > facts["earlier_pairs"] > 0


def test_record_and_report_show_both_rounds(finished: Any) -> None:
    layout, _, document = finished
    first, second = document["rounds"]
    assert first["pairs"]["labelled_by"] == "files" and first["models"]["start"]["name"] == "sft"
    assert second["models"]["start"]["name"] == "round-1"
    assert set(second["results"]["policy"]) >= {"reward", "measure/harm", "refusal"} and "reward" in second["wins"]
    page = layout.report.read_text()
    assert "Round by round" in page and "by each round&#39;s own models" in page.replace("'", "&#39;")
    assert "llm:scripted" in page
    summary = json.loads(layout.summary.read_text())
    assert len(summary["rounds"]) == 2 and summary["scored"]["constraints"]["harm"]["safety_labels"] is True
