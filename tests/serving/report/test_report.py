"""The report, read as a browser reads it: nothing from outside, nothing a model said may act, every figure true."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from configs.exits import DataError
from serving.report import write_comparison, write_report
from serving.report.by_gold.elo_ladder import ladder_section, rate
from serving.report.by_gold.hacking_gap import gap_table
from serving.report.pages.comparison import compare_arms
from serving.report.run_files import read_run
from serving.summary import read_summary, write_summary
from tests.serving.fake_run import INJECTION, made_up_gold, make_comparison, make_run, settings


class Page(HTMLParser):
    """Tags with their attributes, the figures, the text and the headings of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: dict[str, tuple[float, str]] = {}
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._figure: tuple[str, float] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._open.append(tag)
        if tag == "data":
            self._figure = (attributes["data-key"] or "", float(attributes["value"] or "nan"))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.text += data
        if inside == "data" and self._figure is not None:
            key, value = self._figure
            self.figures[key] = (value, data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a run with spaces", per_cell=12, snapshots=True)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def look_up(summary: Any, key: str) -> Any:
    for part in key.split("."):
        summary = summary[int(part)] if isinstance(summary, list) else summary[part]
    return summary["value"] if isinstance(summary, dict) else summary


def test_every_figure_equals_the_summary(run: Path, page: Page) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert len(page.figures) > 300
    for key, (value, _) in page.figures.items():
        assert value == look_up(summary, key), key


def test_the_text_of_a_figure_is_its_rounded_value(page: Page) -> None:
    for key, (value, text) in page.figures.items():
        if not key.startswith("evaluation."):
            continue
        shown = float(re.sub(r"[^0-9.+-]", "", text.replace("−", "-")))
        percent = "%" in text or "pts" in text
        assert shown == pytest.approx(100 * value if percent else value, abs=0.0501 if percent else 0.00501), key


def test_the_page_asks_nothing_of_the_outside(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "srcset", "href", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/svg+xml;base64,", "#")), (tag, name, value)
    assert "@import" not in html
    assert "url(" not in html


def test_pictures_hold_no_outside_address_either(page: Page) -> None:
    sources = [a.get("src") or a.get("srcset") or "" for tag, a in page.tags if tag in ("img", "source")]
    assert len(sources) >= 20
    for source in sources:
        svg = base64.b64decode(source.split(",", 1)[1]).decode()
        addresses = set(re.findall(r"https?://[^\"' <]+", svg))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, addresses


def test_what_a_model_said_is_text_and_only_our_script_may_run(html: str, page: Page) -> None:
    assert INJECTION in page.text
    assert "<script>document.title" not in html
    assert len(page.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_verdict_comes_first_and_headings_do_not_skip(page: Page) -> None:
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert all(int(b[1]) - int(a[1]) <= 1 for a, b in pairwise(headings))
    assert page.text.index("≤ 10") < page.text.index("SFT against the trained policy")


def test_pictures_are_described_and_headers_have_a_scope(page: Page) -> None:
    assert all(len(a.get("alt") or "") > 20 for tag, a in page.tags if tag == "img")
    assert all(a.get("scope") in ("col", "row") for tag, a in page.tags if tag == "th")


def test_every_promised_section_is_there(page: Page) -> None:
    for title in (
        "SFT against the trained policy",
        "Certificate",
        "Warnings",
        "The reward-cost plane, before and after",
        "The run, step by step",
        "Harm by category",
        "By form of the request",
        "Outcome labels",
        "Look-alikes, dual use, questions and alternatives",
        "Reward and cost models",
        "The hacking gap",
        "Elo ladder",
        "What these figures cannot show",
        "Time and throughput",
        "Configuration and provenance",
        "Conversations side by side",
    ):
        assert title in page.text
    assert "Missing:" not in page.text


def test_tables_come_before_plots_and_conversations_last(html: str) -> None:
    order = re.findall(r'<section id="([a-z]+)"', html)
    assert order.index("results") < order.index("certificate") < order.index("finer") < order.index("plane")
    assert (
        order.index("plane")
        < order.index("gap")
        < order.index("categories")
        < order.index("ladder")
        < order.index("models")
    )
    assert order[-1] == "conversations"


def test_the_hacking_gap_is_a_table_and_a_picture_per_signal(page: Page) -> None:
    rows = dict(gap_rows(made_up_gold()))
    assert rows["harm: gap, gold less cost model"] == pytest.approx((0.00375, 0.09375))
    described = [a["alt"] or "" for tag, a in page.tags if tag == "img"]
    assert sum("Reward next to gold helpfulness" in text for text in described) == 1
    assert sum("called unsafe next to truly unsafe" in text for text in described) == 1


def gap_rows(steps: list[dict[str, Any]]) -> list[tuple[str, tuple[float | None, ...]]]:
    return [(row.header, tuple(cell[0].value for cell in row.cells)) for row in gap_table(steps).rows]


def test_a_run_without_a_loop_has_no_hacking_gap(tmp_path: Path) -> None:
    root = make_run(tmp_path / "direct", per_cell=2)
    summary = read_summary(root / "summary.json")
    write_summary(summary.model_copy(update={"ppo": None}), root / "summary.json")
    assert "This run has no loop" in write_report(root).read_text(encoding="utf-8")


def test_the_ladder_has_sft_snapshots_and_the_policy(run: Path, page: Page) -> None:
    section = ladder_section(read_run(run))
    table = section.blocks[0]
    assert [row.header for row in table.rows] == ["SFT", "step 30", "policy (step 40)"]
    assert table.columns == ("Helpfulness", "comparisons", "Harmlessness", "comparisons")
    sft, snapshot, policy = table.rows
    assert sft.cells[0][0].text == "1000"
    assert float(policy.cells[0][0].text) > 1000
    assert policy.cells[1][0].text == "72", "36 prompts against SFT and 36 against the snapshot"
    assert float(snapshot.cells[0][0].text) == float(policy.cells[0][0].text), "they gave the same answers"


def test_a_ladder_of_one_model_that_never_lost_is_held_by_a_ridge() -> None:
    won = {f"p{index}": {"SFT": 0.0, "policy": 1.0} for index in range(20)}
    ladder = rate(won, ["SFT", "policy"])
    assert ladder is not None
    assert ladder.ridge > 0
    assert (
        rate({"p": {"SFT": 0.0, "policy": 1.0}, "q": {"SFT": 0.0, "policy": 1.0}}, ["SFT", "policy", "alone"]) is None
    )


def test_conversations_can_be_searched_and_show_where_costs_and_gold_disagree(page: Page) -> None:
    assert any(tag == "input" and a.get("type") == "search" for tag, a in page.tags)
    filters = [a.get("data-filter") for tag, a in page.tags if tag == "select"]
    assert filters == ["split", "kind", "outcome", "outcome", "agreement"]
    cards = [a for tag, a in page.tags if tag == "li" and a.get("class") == "conversation"]
    disagreeing = [card for card in cards if "called-safe" in (card["data-agreement"] or "").split()]
    assert disagreeing
    assert "models: reward" in page.text and "cost harm −3.00" in page.text.replace("-", "−")


def test_a_run_that_was_trained_on_gold_says_so_beside_its_figures(tmp_path: Path) -> None:
    config = settings("direct", objective={"scorer": {"python": "actors.scoring.gold:helpfulness"}})
    text = write_report(make_run(tmp_path / "direct", per_cell=2, config=config)).read_text(encoding="utf-8")
    assert "Gold itself was given as the signal of the objective" in text


def test_the_same_run_gives_the_same_report(run: Path, html: str) -> None:
    assert write_report(run).read_text(encoding="utf-8") == html


def test_an_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    root = make_run(tmp_path / "half", per_cell=2)
    (root / "summary.json").unlink()
    with (root / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "rew')
    text = Page(write_report(root).read_text(encoding="utf-8")).text
    assert "The run is not finished" in text
    assert "summary.json is not there" in text
    assert "Harm rate, harmful" in text  # evaluation.json is still there
    (tmp_path / "nothing").mkdir()
    assert Page(write_report(tmp_path / "nothing").read_text(encoding="utf-8")).text.count("Missing:") > 8


def test_no_run_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "absent")


def test_arms_are_compared_with_differences_paired_by_seed(tmp_path: Path) -> None:
    root = make_comparison(tmp_path / "tension", per_cell=8)
    comparison = compare_arms(root)
    assert [arm.name for arm in comparison.arms] == ["rate-subset", "papers", "reward-only"]
    assert comparison.baseline == "rate-subset"
    papers = comparison.arms[1]
    spread, base = (arm.measures["seen"]["harm_rate_harmful"] for arm in (papers, comparison.arms[0]))
    expected = sum(spread.by_seed[s] - base.by_seed[s] for s in (0, 1, 2)) / 3
    assert spread.difference is not None
    assert spread.difference["value"] == pytest.approx(expected)
    assert spread.difference["n"] == 3
    assert papers.papers
    assert "papers' setting fails here" in comparison.verdict
    page = Page(write_comparison(root).read_text(encoding="utf-8"))
    summary = json.loads(json.dumps(comparison.as_json()))
    assert page.figures
    for key, (value, _) in page.figures.items():
        assert value == look_up(summary, key), key


def test_when_the_papers_setting_does_not_fail_the_verdict_says_so(tmp_path: Path) -> None:
    root = make_comparison(tmp_path / "tension", seeds=(0,), papers_fail=False, per_cell=8)
    comparison = compare_arms(root)
    assert "does not fail here" in comparison.verdict
    assert "One seed only" in Page(write_comparison(root).read_text(encoding="utf-8")).text


def test_an_arm_that_is_not_finished_is_named(tmp_path: Path) -> None:
    root = make_comparison(tmp_path / "tension", seeds=(0, 1), per_cell=4)
    (root / "arms" / "papers-seed1" / "summary.json").unlink()
    comparison = compare_arms(root)
    assert comparison.arms[1].seeds == (0,)
    assert comparison.missing[0].startswith("papers-seed1: ")
    with pytest.raises(DataError, match="baseline arm 'other'"):
        compare_arms(root, "other")
