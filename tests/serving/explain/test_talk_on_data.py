"""`steelyard chat` and `why` of a run on data: any tokenizer and template, moved zeros, foreign scorers, and honest words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
import yaml
from rich.console import Console
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.schema.supervised import ModelSettings
from learner.data.bpe import train_byte_level_bpe
from learner.model_files.remote_code import VARIABLE
from learner.models.modules import new_policy, new_score_model_from, prompt_token_ids, save_model
from learner.models.score_models.folders import save_affine
from serving.explain.chat import Chat
from serving.explain.why import explain, render
from tests.serving.explain.test_why import rollout_rows

SMALL = ModelSettings(hidden_size=32, layers=1, heads=1, intermediate_size=32, max_length=96)
TEXTS = ["How do I bake bread? Mix flour and water, then wait.", "Über die Brücke — naïve café?"] * 20
ASKED = "How do I bake Brot?"


def tokenizer_of(template: str) -> PreTrainedTokenizerBase:
    return train_byte_level_bpe(iter(TEXTS), vocab_size=300, max_length=SMALL.max_length, template=template)


def scorer(policy: Path, tokenizer: PreTrainedTokenizerBase, folder: Path, seed: int) -> None:
    model = new_score_model_from(policy)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.score.weight)
    save_model(model, tokenizer, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "on-data"
    layout = RunLayout(root)
    layout.round(1).mkdir(parents=True)
    tokenizer, foreign = tokenizer_of("papers"), tokenizer_of("chatml")
    for seed, folder in enumerate((layout.sft, layout.policy(1))):
        save_model(new_policy(SMALL, tokenizer, seed), tokenizer, folder)
    scorer(layout.sft, tokenizer, layout.cost(1, "harm"), 1)
    save_affine(layout.cost(1, "harm"), 1.0, -100.0)
    save_model(new_policy(SMALL, foreign, 5), foreign, root / "other")
    scorer(root / "other", foreign, layout.data / "scorers" / "cost-toxicity", 2)
    settings: dict[str, Any] = {
        "name": "on-data",
        "data": {"harmlessness": [{"source": "hh"}]},
        "objective": {"scorer": {"python": "my_rules:brevity", "path": None}},
        "constraints": {
            "harm": {"measure": "mean", "limit": 0.0},
            "toxicity": {"scorer": {"path": "other", "python": None, "template": None}},
        },
        "ppo": {"max_response_tokens": 6},
    }
    layout.config.write_text(yaml.safe_dump(settings))
    labels = {"harm": {"signed": 0, "unsafe": 0, "pairs": 9}}
    layout.manifest.write_text(json.dumps({"stages": {"data": {"facts": {"harm-labels": labels}}}}))
    layout.rollouts.mkdir()
    ids = prompt_token_ids(tokenizer, [{"role": "user", "content": ASKED}])
    said = [*tokenizer("naïve\nwater", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    rows = rollout_rows(0, 0).slice(1, 1).to_pylist()
    rows[0] |= {"token_ids": [*ids, *said], "prompt_length": len(ids), "response_length": len(said)}
    rows[0] |= {name: [0.5] * len(said) for name in rows[0] if name.startswith(("advantages", "values"))}
    rows[0] |= {f"{name}_logprobs": [-1.0] * len(said) for name in ("behaviour", "proximal", "reference")}
    pq.write_table(pa.Table.from_pylist(rows), layout.rollouts / "step-00000-rank0.parquet")
    return root


def test_a_question_goes_through_the_models_own_template_as_it_was_typed(run: Path) -> None:
    chat = Chat(run, ["sft", "policy"])
    understood = chat.understand(f" {ASKED} ")
    assert (understood.text, understood.unknown) == (ASKED, ())
    answers = chat.ask(understood.text)
    assert [answer.model for answer in answers] == ["sft", "policy"]
    assert all("Ġ" not in answer.response and "</s>" not in answer.response for answer in answers)
    assert set(answers[0].costs) == {"harm", "toxicity"}, "the run's own and the foreign one"
    assert answers[0].reward is None
    assert chat.notes == ("reward comes from a Python function (my_rules:brevity), which a chat does not call",)
    assert chat.ask("And then?")[0].costs["harm"] != answers[0].costs["harm"]


def test_a_cost_is_shown_from_its_moved_zero(run: Path) -> None:
    chat = Chat(run, ["sft"])
    cost = chat.ask(ASKED)[0].costs["harm"]
    assert cost < -50
    assert chat.side("harm", cost) == "at or below zero"
    assert chat.side("harm", 0.1) == "above zero"


def test_the_terminal_calls_nothing_unsafe_and_says_what_it_cannot_show(run: Path) -> None:
    from cluster.commands.chat import chat

    app = typer.Typer()
    app.command()(chat)
    result = CliRunner().invoke(app, [str(run), "--once", ASKED, "--compare", "policy"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "which a chat does not call" in said and "cost/harm -" in said and "(at or below zero)" in said
    assert "safe" not in said


def test_models_with_code_of_their_own_ask_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in run.iterdir():
        if path.name != "config.resolved.yaml":
            (copy / path.name).symlink_to(path)
    settings = yaml.safe_load((run / "config.resolved.yaml").read_text()) | {"model": {"trust_remote_code": True}}
    (copy / "config.resolved.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=f"{VARIABLE}=1"):
        Chat(copy, ["sft"])


def test_why_shows_text_and_tokens_of_any_tokenizer_and_scores_without_calling_them_unsafe(run: Path) -> None:
    story = explain(run, "ppo-0-0-1")
    assert ASKED in story.prompt and "BEGINNING OF CONVERSATION" in story.prompt
    assert story.response.startswith("naïve\nwater")
    assert not any("Ġ" in token.token or "\n" in token.token for token in story.tokens)
    assert (story.costs, story.labelled, story.reward) == ({"harm": 3.0}, {"harm": False}, 0.25)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(story))
    text = console.export_text()
    assert "+3.000 (above its zero), multiplier 0.750" in text and "unsafe" not in text
