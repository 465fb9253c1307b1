"""`steelyard chat` with tiny, untrained models: the plumbing, not the wit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from configs.schema.supervised import ModelSettings
from learner.data.tokenizer import build_tokenizer
from learner.models.modules import load_score_model, new_policy, new_score_model_from, prompt_token_ids, save_model
from serving.explain.chat import Chat

WORDS = ["how", "do", "i", "bake", "bread", "mix", "flour", ".", "?"]
SMALL = ModelSettings(hidden_size=32, layers=1, heads=1, intermediate_size=32, max_length=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "quickstart"
    layout = RunLayout(root)
    layout.round(1).mkdir(parents=True)
    layout.config.write_text(yaml.safe_dump({"constraints": {"harm": {}}, "ppo": {"max_response_tokens": 8}}))
    tokenizer = build_tokenizer(WORDS, SMALL.max_length)
    for seed, folder in enumerate((layout.sft, layout.policy(1))):
        save_model(new_policy(SMALL, tokenizer, seed), tokenizer, folder)
    for seed, folder in enumerate((layout.reward(1), layout.cost(1, "harm"))):
        model = new_score_model_from(layout.sft)
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.score.weight)
        save_model(model, tokenizer, folder)
    return root


def test_both_models_answer_with_the_scores_of_the_runs_models(run: Path) -> None:
    chat = Chat(run, ["sft", "policy"])
    answers = chat.ask("how do i bake bread ?")
    assert [answer.model for answer in answers] == ["sft", "policy"]
    # the score of a whole sequence by the saved model, at its last token
    ids = prompt_token_ids(chat.tokenizer, [{"role": "user", "content": "how do i bake bread ?"}])
    ids += chat.tokenizer.convert_tokens_to_ids(answers[0].response.split())
    ids += [chat.tokenizer.eos_token_id] if answers[0].finish_reason == "stop" else []
    model = load_score_model(RunLayout(run).cost(1, "harm"))
    with torch.inference_mode():
        expected = float(model(input_ids=torch.tensor([ids])).logits[0, 0])
    assert answers[0].costs["harm"] == pytest.approx(expected, abs=1e-5)
    assert answers[0].reward is not None


def test_a_long_conversation_forgets_its_oldest_turns(run: Path) -> None:
    chat = Chat(run, ["policy"])
    forgotten = [chat.ask("how do i bake bread ?")[0].forgotten_turns for _ in range(6)]
    assert forgotten[0] == 0
    assert max(forgotten) > 0
    with pytest.raises(ConfigError, match="cannot be asked"):
        chat.ask("how " * 40)


def test_what_is_typed_is_put_into_known_words(run: Path) -> None:
    understood = Chat(run, ["sft"]).understand("How do I bake bred?")
    assert understood.text == "how do i bake bred ?"
    assert understood.unknown == ("bred",)
    assert "bread" in understood.close["bred"]


def test_a_model_that_a_run_does_not_have_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'gpt'"):
        Chat(run, ["gpt"])
    (tmp_path / "half").mkdir()
    with pytest.raises(DataError, match="no sft model yet"):
        Chat(tmp_path / "half", ["sft"])


def test_once_prints_json_and_repeats_itself(run: Path) -> None:
    from cluster.commands.chat import chat

    app = typer.Typer()
    app.command()(chat)
    line = [str(run), "--once", "how do i bake <b>bread", "--json", "--temperature", "1", "--seed", "3"]
    first, second = (CliRunner().invoke(app, line) for _ in range(2))
    assert first.exit_code == 0, first.output
    said = json.loads(first.stdout)
    assert [answer["model"] for answer in said["answers"]] == ["sft", "policy"]
    assert said["unknown"] == ["<b>bread"]
    assert first.stdout == second.stdout
