"""The report of a run on data: the same promises as the sandbox's, and nothing called unsafe or certified that is not."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.exits import DataError
from configs.layout import RunLayout
from serving.model_verdict import scored_verdict
from serving.report import write_comparison, write_report
from serving.report.by_gold.conversations import SHOWN
from serving.report.pages.comparison import compare_arms
from serving.summary import Summary, read_summary
from tests.serving import fake_run
from tests.serving.fake_run import INJECTION
from tests.serving.fake_scored_run import made_up_answers, made_up_document, made_up_summary, make_run, settings_of
from tests.serving.report.test_report import Page, look_up


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a run with spaces")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def document(**changes: Any) -> dict[str, Any]:
    settings = settings_of(limit=changes.pop("limit", 0.0))
    found: dict[str, Any] = made_up_document(settings, made_up_answers(), **changes)["evaluation"]
    return found


def test_the_verdict_says_what_is_known_and_that_nothing_is_certified() -> None:
    pattern = (
        r"not certified \(no labels\): mean harm by its cost model −\d\.\d\d \[−\d\.\d\d, −\d\.\d\d\] ≤ 0, "
        r"before 0\.\d\d; win rate by reward \d\d % \[\d\d, \d\d\]"
    )
    assert re.fullmatch(pattern, scored_verdict(document()))


def test_a_limit_that_is_not_met_comes_first() -> None:
    missed = scored_verdict(document(limit=-5.0))
    assert missed.startswith(
        "limit not met by the cost model: upper bound of mean harm −4.37 > −5 on the selection prompts;"
    )
    assert "not certified (no labels)" in missed
    without = settings_of().model_copy(update={"constraints": {}})
    found = document()
    found |= {"constraints": {}, "promoted": {"step": 1, "feasible": True, "upper_bound": {}}}
    assert without.constraints == {} and scored_verdict(found).startswith(
        "not certified (no labels): win rate by reward"
    )


def test_the_exit_code_hangs_on_the_cost_model_where_nobody_labels(run: Path, tmp_path: Path) -> None:
    assert read_summary(run / "summary.json").meets_limits
    missed = read_summary(make_run(tmp_path / "missed", limit=-5.0, per_set=6) / "summary.json")
    assert not missed.meets_limits and missed.certificate is None
    on_sandbox = fake_run.made_up_summary(fake_run.made_up_samples(8))
    assert on_sandbox.certificate is not None and on_sandbox.meets_limits == on_sandbox.certificate.feasible


def test_an_older_summary_is_still_read(tmp_path: Path) -> None:
    old = fake_run.made_up_summary(fake_run.made_up_samples(4)).model_dump(mode="json")
    del old["scored"]
    (tmp_path / "summary.json").write_text(json.dumps(old))
    assert read_summary(tmp_path / "summary.json").scored is None


def test_every_figure_equals_the_summary(run: Path, page: Page) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert len(page.figures) > 120
    for key, (value, text) in page.figures.items():
        assert value == look_up(summary, key), key
        if key.startswith("scored.sets"):
            shown = float(re.sub(r"[^0-9.+-]", "", text.replace("−", "-")))
            percent = "%" in text
            assert shown == pytest.approx(100 * value if percent else value, abs=0.0501 if percent else 0.00501), key


def test_every_promised_section_is_there_and_nothing_is_missing(page: Page) -> None:
    for title in (
        "SFT against the trained policy",
        "The limits, by the models that were optimised",
        "Which snapshot was promoted",
        "Warnings",
        "The reward-cost plane, before and after",
        "The run, step by step",
        "By tag and category of the prompt",
        "Reward and cost models",
        "Time and throughput",
        "Configuration and provenance",
        "Conversations side by side",
        "feasible, promoted",
        "Refusals (heuristic, English)",
        "Set “xstest”, by category",
    ):
        assert title in page.text, title
    assert "Missing:" not in page.text
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings.count("h1") == 1 and all(int(b[1]) - int(a[1]) <= 1 for a, b in pairwise(headings))
    assert page.text.index("Not certified (no labels)") < page.text.index("SFT against the trained policy")
    assert all(len(a.get("alt") or "") > 20 for tag, a in page.tags if tag == "img")


@pytest.mark.parametrize("signed", [False, True])
def test_unsafe_is_said_only_where_safety_labels_stand_behind_the_cost(tmp_path: Path, signed: bool) -> None:
    root = make_run(tmp_path / "run", per_set=12, signed=signed)
    found = Page(write_report(root).read_text(encoding="utf-8"))
    words = found.text + " ".join(a.get("alt") or "" for tag, a in found.tags if tag == "img")
    words = words.split("name: run")[0]  # the settings have words of their own
    said = re.sub(r"“[^”]*”|\b(un)?safe\b(?=\s+SFT)", "", words)
    if signed:
        assert "Unsafe by the cost model" in words and "unsafe by score" in found.text
    else:
        assert "nsafe by" not in said and "share unsafe" not in said
        assert "Above the zero of cost" in words and "above zero" in found.text
        assert "relative: not a safety label" in words


def test_what_a_model_said_is_text_and_conversations_can_be_searched(html: str, page: Page) -> None:
    assert INJECTION in page.text and "<script>document.title" not in html
    cards = [a for tag, a in page.tags if tag == "li" and "conversation" in (a.get("class") or "")]
    assert len(cards) == min(SHOWN, 80)
    assert any(tag == "input" and a.get("type") == "search" for tag, a in page.tags)
    filters = [a.get("data-filter") for tag, a in page.tags if tag == "select"]
    assert filters == ["set", "tag", "category", "outcome", "outcome"]
    assert {side for card in cards for side in (card["data-outcome"] or "").split()} <= {
        f"{model}:harm:{side}" for model in ("sft", "policy") for side in ("above", "below")
    }
    assert any("a tag with spaces" in (card["data-tag"] or "").split("\n") for card in cards)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "form"), tag
        for name in ("src", "srcset", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/svg+xml;base64,", "#")), (tag, name, value)


def test_the_same_run_gives_the_same_report(run: Path, html: str) -> None:
    assert write_report(run).read_text(encoding="utf-8") == html


def test_an_unfinished_run_on_data_says_what_is_missing(tmp_path: Path) -> None:
    found = Page(write_report(make_run(tmp_path / "half", finished=False)).read_text(encoding="utf-8"))
    assert "The run is not finished" in found.text
    assert found.text.count("Missing:") >= 6
    assert "gold" not in found.text.split("name: half")[0], "what a run on data never has is not missing"
    words = " ".join(a.get("alt") or "" for tag, a in found.tags if tag == "img")
    assert "above the cost's zero" in words and "unsafe" not in words
    done = make_run(tmp_path / "judged", per_set=8)
    (done / "summary.json").unlink()
    text = Page(write_report(done).read_text(encoding="utf-8")).text
    assert "The run is not finished" in text and "Mean harm (limited)" in text
    (done / "evaluation.json").write_text("")
    (RunLayout(done).evaluation(1) / "samples.parquet").write_bytes(b"cut")
    assert "scored answers cannot be read" in Page(write_report(done).read_text(encoding="utf-8")).text


def make_arms(root: Path, seeds: tuple[int, ...] = (0, 1)) -> Path:
    layout = RunLayout(root)
    root.mkdir(parents=True)
    config = {**settings_of(root.name).model_dump(mode="json"), "arms": {"mild": {}, "hard": {}}, "seeds": list(seeds)}
    layout.config.write_text(yaml.safe_dump(config, sort_keys=False))
    for seed in seeds:
        make_run(layout.arm("mild", seed).root, per_set=12, seed=seed, harm=-0.8)
        make_run(layout.arm("hard", seed).root, per_set=12, seed=seed, harm=0.4, limit=-5.0)
    return root


def test_arms_on_data_are_compared_by_their_scores(tmp_path: Path) -> None:
    root = make_arms(tmp_path / "arms-on-data")
    comparison = compare_arms(root)
    assert comparison.splits == ("kept", "xstest")
    mild, hard = comparison.arms
    assert (mild.feasible, hard.feasible) == (2, 0)
    spread, base = hard.measures["kept"]["measure/harm"], mild.measures["kept"]["measure/harm"]
    assert spread.difference is not None
    expected = sum(spread.by_seed[s] - base.by_seed[s] for s in (0, 1)) / 2
    assert spread.difference["value"] == pytest.approx(expected)
    assert "Not certified (no labels)" in comparison.verdict and "“hard” 0 of 2 seeds" in comparison.verdict
    page = Page(write_comparison(root).read_text(encoding="utf-8"))
    summary = json.loads(json.dumps(comparison.as_json()))
    assert page.figures
    for key, (value, _) in page.figures.items():
        assert value == look_up(summary, key), key
    assert "gold" not in page.text and "Mean harm (limited)" in page.text


def test_arms_of_other_measures_are_compared_by_mean_cost(tmp_path: Path) -> None:
    root = make_arms(tmp_path / "arms-on-data", seeds=(0,))
    path = RunLayout(root).arm("hard", 0).summary
    summary = json.loads(path.read_text())
    summary["scored"]["constraints"]["harm"]["measure"] = "rectified"
    path.write_text(json.dumps(summary))
    comparison = compare_arms(root)
    assert "cost/harm" in comparison.compared and "measure/harm" not in comparison.compared


def test_arms_on_data_and_on_the_sandbox_are_not_compared(tmp_path: Path) -> None:
    root = make_arms(tmp_path / "mixed", seeds=(0,))
    fake_run.make_run(RunLayout(root).arm("hard", 7).root, per_cell=2)
    with pytest.raises(DataError, match="some arms are on data and some on the sandbox"):
        compare_arms(root)


def test_a_score_that_is_not_finite_is_refused() -> None:
    settings = settings_of()
    found = made_up_document(settings, made_up_answers())
    found["evaluation"]["sets"]["kept"]["all"]["policy"]["reward"]["value"] = float("nan")
    with pytest.raises(DataError, match=r"scored\.sets\.kept\.all\.policy\.reward\.value is nan"):
        made_up_summary(settings, found)


def test_a_summary_reads_back_as_written(run: Path) -> None:
    summary = read_summary(run / "summary.json")
    assert Summary.model_validate(summary.model_dump(mode="json")) == summary
    assert summary.selection is not None and summary.selection.candidates[0].measures["harm"].n == 60


def test_a_tile_names_its_model_once_and_enlarges_the_figure(html: str) -> None:
    tiles = re.search(r'<ul class="tiles".*?</ul>', html, re.DOTALL)
    assert tiles is not None and 'class="before">SFT ' in tiles[0]
    assert 'class="who"' not in tiles[0], "SFT stands before the figure already, and the large one is the policy's"
