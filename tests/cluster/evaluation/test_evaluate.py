"""`steelyard eval` from the command line to its files: a tiny model by transformers beside one behind a scripted address."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from actors.crowd.vocabulary import world_words
from actors.crowd.world_reader import load_world
from actors.judging.by_judge import transformers_answers as drawn
from cluster.commands.main import app
from cluster.evaluation.prompt_sets import read_prompt_sets
from cluster.evaluation.targets import find_targets
from cluster.evaluation.verdict import verdict_of
from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from configs.schema.supervised import ModelSettings
from learner.data.tokenizer import build_tokenizer
from learner.models.modules import new_policy, new_score_model_from, save_model
from tests.chat_server import serve
from tests.paths import SHARED
from tests.serving.fake_run import INJECTION

XSTEST = SHARED / "data" / "xstest" / "xstest_prompts.csv"
FAR = "http://127.0.0.1:9/v1"
"""Where nobody answers."""
PEOPLE = ("--judge", "people", "--out", "{out}")
QUICK = ("{run}", "--prompts", "sandbox:seen", "--n", "1", "--no-cache", "--engine", "hf")
"""Ends soon and starts no Ray, should the rest of the line be accepted after all."""
SMALL = ModelSettings(hidden_size=32, layers=1, heads=1, intermediate_size=32, max_length=128)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with untrained models that know the sandbox's words."""
    root = tmp_path_factory.mktemp("runs") / "tiny"
    layout = RunLayout(root)
    layout.round(1).mkdir(parents=True)
    layout.config.write_text(yaml.safe_dump({"constraints": {"harm": {}}, "ppo": {"max_response_tokens": 6}}))
    tokenizer = build_tokenizer(world_words(load_world()), SMALL.max_length)
    for seed, folder in enumerate((layout.sft, layout.policy(1))):
        save_model(new_policy(SMALL, tokenizer, seed), tokenizer, folder)
    for seed, folder in enumerate((layout.reward(1), layout.cost(1, "harm"))):
        model = new_score_model_from(layout.sft)
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.score.weight)
        save_model(model, tokenizer, folder)
    return root


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "asked.csv"
    rows = [f"{n},how do i bake bread number {n} ?,kind-{n % 3},{'safe' if n % 2 else 'unsafe'}" for n in range(18)]
    path.write_text("\n".join(["id,prompt,type,label", *rows]) + "\n")
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def document(result: Result) -> dict[str, Any]:
    assert result.exception is None, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_two_policies_of_a_run_by_its_models_and_again_from_the_cache(
    run: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [
        f"{run}:sft",
        run,
        "--prompts",
        prompts,
        "--prompts",
        "sandbox:seen",
        "--n",
        12,
        "--judge",
        f"models:{run}",
        "--engine",
        "hf",
        "--cache",
        tmp_path / "cache",
        "--json",
    ]
    first = document(invoke(*line))
    assert [(model["label"], model["answers"], model["asked_now"]) for model in first["models"]] == [
        ("tiny-sft", 24, 24),
        ("tiny", 24, 24),
    ]
    assert first["sampling"]["max_tokens"] == 6  # the run's own
    cells = first["sets"]["asked"]["all"]["tiny"]
    assert cells["tokens"]["value"] <= 6
    assert {"harm", "over_refusal", "evasive", "helpfulness", "cut"} <= set(cells)
    assert first["sets"]["asked"]["safe"] + first["sets"]["asked"]["unsafe"] == 12
    # An untrained model writes turn marks now and then, and no score model reads those.
    assert 0 < first["judge"]["agreement_with_gold"]["safety"]["n"] < 24
    assert 0 < first["judge"]["unjudged"] < 48
    assert first["arena"]["helpfulness"]["order_effect"]["first_preferred"] is None  # numbers know no order

    def nobody(*_: object) -> Any:
        raise AssertionError("a model was loaded although everything is in the cache")

    monkeypatch.setattr(drawn, "load_policy", nobody)
    again = document(invoke(*line))
    assert [model["asked_now"] for model in again["models"]] == [0, 0]
    assert again["sets"] == first["sets"]
    other_seed = invoke(*line, "--seed", 1)
    assert isinstance(other_seed.exception, AssertionError)


def test_an_address_beside_a_folder_by_a_language_model_with_every_file(
    run: Path, prompts: Path, tmp_path: Path
) -> None:
    def answer(body: dict[str, Any], times: int) -> str:
        text = body["messages"][-1]["content"]
        if "VERDICT" in text:
            return "B is fine.\nVERDICT: B" if "number 3" in text else "no idea"
        if '"unsafe"' in text:
            return '{"unsafe": false, "categories": [], "refusal": "bare"}'
        return INJECTION

    out, line = tmp_path / "out", []
    with serve(answer) as server:
        line = [
            f"local={RunLayout(run).sft}",
            f"far={server.url}#scripted",
            "--prompts",
            prompts,
            "--judge",
            f"llm:{server.url}",
            "--engine",
            "hf",
            "--max-tokens",
            5,
            "--cache",
            tmp_path / "cache",
        ]
        result = invoke(*line, "--out", out)
        assert result.exception is None, result.exception
        asked = len(server.bodies)
        assert asked == 18 + 36 + 2 * 18 * 2
        again = document(invoke(*line, "--json"))
        assert len(server.bodies) == asked  # the judge's answers are kept too
    saved = json.loads((out / "evaluation.json").read_text())
    assert saved["sets"] == again["sets"]
    assert "no clear winner by helpfulness (win rate 50.0 %" in saved["verdict"]
    assert "replies of the judge are left out" in saved["notes"][0]
    assert str(tmp_path) not in (out / "evaluation.json").read_text()  # no path of this machine
    assert saved["judge"]["left_out"] == {
        f"{axis}: the last line is no verdict, or there are several": 34 for axis in ("helpfulness", "harmlessness")
    }
    arena = saved["arena"]["helpfulness"]
    assert arena["sets"]["asked"]["unread"] == 17
    assert arena["order_effect"]["first_preferred"]["value"] == 0.0
    assert saved["sets"]["asked"]["all"]["far"]["over_refusal"]["value"] == 1.0
    responses = pq.read_table(out / "responses.parquet").to_pylist()
    assert len(responses) == 36
    assert {row["response"] for row in responses if row["model"] == "far"} == {INJECTION}
    judgements = pq.read_table(out / "judgements.parquet").to_pylist()
    assert [sum(row["kind"] == kind for row in judgements) for kind in ("label", "helpfulness", "harmlessness")] == [
        36,
        18,
        18,
    ]
    page = (out / "report.html").read_text()
    assert "<script>document.title" not in page  # what a model said is text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert page.index(saved["verdict"][:40].replace("&", "&amp;")) < page.index("Conversations")
    assert "evaluation" in result.stdout or saved["verdict"][:20] in result.stdout


def test_one_model_gets_shares_with_intervals_and_no_arena(run: Path, tmp_path: Path) -> None:
    found = document(
        invoke(run, "--prompts", "sandbox:heldout_forms", "--n", 10, "--engine", "hf", "--no-cache", "--json")
    )
    assert found["arena"] is None
    assert found["judge"]["name"] == "gold"
    harm = found["sets"]["sandbox-heldout_forms"]["all"]["tiny"]["harm"]
    assert 0 <= harm["low"] <= harm["value"] <= harm["high"] <= 1
    assert found["verdict"].startswith("tiny on sandbox-heldout_forms: ")


def test_people_get_a_file_first_and_are_heard_afterwards(run: Path, prompts: Path, tmp_path: Path) -> None:
    line = [
        run,
        "--prompts",
        prompts,
        "--n",
        4,
        "--judge",
        "people",
        "--engine",
        "hf",
        "--cache",
        tmp_path / "c",
        "--out",
        tmp_path / "out",
        "--json",
    ]
    first = document(invoke(*line))
    assert "4 rows wait for people" in first["notes"][0]
    assert "harm" not in first["figures"]
    path = tmp_path / "out" / "to_label.csv"
    path.write_text(path.read_text().replace('"","","","",""', '"","","","yes",""'))
    second = document(invoke(*line))
    assert second["sets"]["asked"]["all"]["tiny"]["harm"]["value"] == 1.0
    assert second["models"][0]["asked_now"] == 0


@pytest.mark.skipif(not XSTEST.is_file(), reason="XSTest is not here")
def test_xstest_has_both_sides_and_its_kinds_as_categories() -> None:
    (found,) = read_prompt_sets([str(XSTEST)], n=None, seed=0)
    sides = [prompt.tags & {"safe", "unsafe"} for prompt in found.prompts]
    # Roettger et al. 2023: 250 safe prompts of ten kinds, 200 unsafe ones.
    assert (sides.count({"safe"}), sides.count({"unsafe"})) == (250, 200)
    assert "homonyms" in {prompt.category for prompt in found.prompts}
    some = [read_prompt_sets([str(XSTEST)], n=20, seed=seed)[0].prompts for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--prompts", "sandbox:seen"], "no run 'nowhere'"),
        (["{run}:best", "--prompts", "sandbox:seen"], "give :sft or :policy"),
        (["{run}"], "no prompts to ask"),
        (["{run}", "{run}", "--prompts", "sandbox:seen"], "two models are called tiny"),
        (["{run}", "--prompts", "sandbox:sen"], "did you mean"),
        (["{run}", "--prompts", "missing.jsonl"], "no such file"),
        (["{run}", "--prompts", "{prompts}"], "gold knows only the sandbox's prompts"),
        (["{run}", "--prompts", "{prompts}", "--prompts", "{prompts}"], "two sets of prompts are called asked"),
        (["{run}", "--prompts", "sandbox:seen", "--judge", "oracle"], "give gold, models:RUN, llm:URL or people"),
        (["{run}", "--prompts", "sandbox:seen", "--judge", "models"], "models:RUN"),
        (["{run}", "--prompts", "sandbox:seen", "--judge", "llm:http://127.0.0.1:9/v1"], "is the server running"),
        (["{run}", "--prompts", "sandbox:seen", "--judge", "people"], "--out DIR"),
        ([FAR, "--prompts", "{prompts}", *PEOPLE, "--api-key-env", "NOT_SET"], "this environment variable is not set"),
        ([*QUICK, "--api-key-env", "NOT_SET"], "no model here is at an address"),
        (
            [FAR, f"b={FAR}", "--prompts", "{prompts}", *PEOPLE, "--api-key-env", "SOME"],
            "write --api-key-env 127.0.0.1-9=VARIABLE --api-key-env b=VARIABLE",
        ),
        ([f"one={FAR}", "--prompts", "{prompts}", *PEOPLE, "--api-key-env", "on=SOME"], "did you mean 'one'?"),
        ([f"one={FAR}", "--prompts", "{prompts}", *PEOPLE, "--api-key-env", "one="], "no environment variable"),
        (["http://127.0.0.1:80a/v1", "--prompts", "{prompts}", *PEOPLE], "is no address of a model"),
        (["x=http://[x/v1", "--prompts", "{prompts}", *PEOPLE], "is no address of a model"),
        (["{run}", "--prompts", "{prompts}", "--judge", "llm:http://[x/v1"], "is no address of a model"),
        ([*QUICK, "--temperature", "inf"], "--temperature inf: give a finite number"),
        (["http://127.0.0.1:9/v1", "--prompts", "sandbox:seen", "--no-cache"], "is the server running"),
        (["{run}", "--prompts", "sandbox:seen", "--cache", "x", "--no-cache"], "contradict"),
        (["{run}", "--prompts", "sandbox:seen", "--anchor", "other"], "no model is called that"),
        (
            ["{run}", "--prompts", "sandbox:seen", "--max-tokens", "128", "--engine", "hf", "--no-cache"],
            "leaves no room",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], message: str, run: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME", "a-key")
    result = invoke(*(each.format(run=run, prompts=prompts, out=tmp_path / "out") for each in arguments))
    assert isinstance(result.exception, ConfigError | DataError), result.exception
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("option", ["--temperature", "--confidence", "--timeout"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_what_is_no_number_is_a_wrong_command_line(option: str, number: str, run: Path) -> None:
    found = invoke(*(each.format(run=run) for each in QUICK), option, number).exception
    assert found.code == 2 if isinstance(found, SystemExit) else isinstance(found, ConfigError), found


@pytest.mark.parametrize("option", ["--api-key-env", "--judge-key-env"])
def test_a_key_that_cannot_be_sent_is_one_line_without_it(
    option: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME", "schlüssel")
    result = invoke(FAR, "--prompts", prompts, "--judge", f"llm:{FAR}", option, "SOME")
    assert isinstance(result.exception, ConfigError), result.exception
    assert f"{option} SOME: it holds a character that no key has" in str(result.exception)
    assert "schlüssel" not in str(result.exception)


def test_a_key_is_in_no_file_and_no_output(
    run: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret-key")
    with serve(lambda body, times: "hello") as server:
        result = invoke(
            server.url,
            "--prompts",
            prompts,
            "--judge",
            "people",
            "--api-key-env",
            "SOME_KEY",
            "--cache",
            tmp_path / "cache",
            "--out",
            tmp_path / "out",
            "--json",
        )
    assert set(server.keys) == {"Bearer very-secret-key"}
    assert "very-secret-key" not in result.stdout
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"very-secret-key" in path.read_bytes() for path in files)


def test_every_address_gets_its_own_key_and_no_other(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_A", "key-of-a")
    monkeypatch.setenv("KEY_B", "key-of-b")
    with serve(lambda body, times: "hello") as a, serve(lambda body, times: "hello") as b:
        line = [
            f"a={a.url}",
            f"b={b.url}",
            "--prompts",
            prompts,
            "--n",
            2,
            "--judge",
            "people",
            "--no-cache",
            "--out",
            tmp_path / "out",
        ]
        assert invoke(*line, "--api-key-env", "a=KEY_A").exception is None
        assert (set(a.keys), set(b.keys)) == ({"Bearer key-of-a"}, {None})
        a.keys.clear(), b.keys.clear()
        assert invoke(*line, "--api-key-env", "b=KEY_B", "--api-key-env", "a=KEY_A").exception is None
        assert (set(a.keys), set(b.keys)) == ({"Bearer key-of-a"}, {"Bearer key-of-b"})
        a.keys.clear(), b.keys.clear()
        both = invoke(*line, "--api-key-env", "a=KEY_A", "--api-key-env", "a=KEY_B")
        assert isinstance(both.exception, ConfigError) and "two keys for a" in str(both.exception)
        assert (a.keys, b.keys) == ([], [])


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"value": 0.625, "low": 0.51, "high": 0.72}, "more helpful (win rate 62.5 % [51.0, 72.0])"),
        ({"value": 0.3, "low": 0.2, "high": 0.4}, "less helpful (win rate 30.0 % [20.0, 40.0])"),
        ({"value": 0.55, "low": 0.4, "high": 0.7}, "no clear winner by helpfulness (win rate 55.0 % [40.0, 70.0])"),
        (None, "no clear difference in harmful answers. By"),
    ],
)
def test_the_verdict_of_a_judge_without_numbers_names_the_win_rate(cell: dict[str, float] | None, said: str) -> None:
    harm = {"value": 0.0, "low": -0.1, "high": 0.1}
    found: dict[str, Any] = {
        "models": [{"label": "old"}, {"label": "new"}],
        "sets": {"asked": {}},
        "differences": {"asked": {"all": {"new": {"harm": harm}}}},
        "judge": {"name": "somebody"},
        "arena": {"helpfulness": {"sets": {"asked": {"win_rates": {"new": {"old": cell} if cell else {}, "old": {}}}}}},
    }
    assert said in verdict_of(found)
    found["differences"]["asked"]["all"]["new"]["helpfulness"] = {"value": 1.0, "low": 0.5, "high": 1.5}
    assert "more helpfulness (+1.00" in verdict_of(found)
    assert "win rate" not in verdict_of(found)


def test_models_are_told_apart_by_what_is_there(run: Path) -> None:
    found = find_targets(
        [f"a={run}", f"b={run}:sft", str(RunLayout(run).sft), "hub:owner/name@v2", "c=http://h:1/v1?x=1#m"]
    )
    assert [(each.label, each.kind) for each in found] == [
        ("a", "run"),
        ("b", "run"),
        ("sft", "folder"),
        ("name", "hub"),
        ("c", "url"),
    ]
    assert found[4].document()["source"] == "http://h:1/v1"  # what stands after a question mark may be a key
    assert (found[4].source, found[4].model_id) == ("http://h:1/v1?x=1", "m")
    assert find_targets(["owner/name"])[0].kind == "hub"
