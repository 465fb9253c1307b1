"""Tokenizer, models and shared forward passes; expected values come from plain transformers calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from configs.exits import ConfigError, DataError
from configs.schema.supervised import ModelSettings
from learner.data.tokenizer import SPECIAL_TOKENS
from learner.models import modules as models

WORDS = [
    "how",
    "do",
    "i",
    "bake",
    "a",
    "cake",
    "?",
    "first",
    "mix",
    "flour",
    ".",
    "then",
    "heat",
    "oven",
    "no",
    "thanks",
]
TINY = ModelSettings(hidden_size=64, layers=2, heads=2, intermediate_size=96, max_length=64)
MULTI_TURN = (
    {"role": "user", "content": "how do i bake a cake ?"},
    {"role": "assistant", "content": "first mix flour . then heat oven ."},
    {"role": "user", "content": "how do i heat a cake ?"},
)


@pytest.fixture(scope="module")
def tokenizer():
    return models.build_tokenizer(WORDS, TINY.max_length)


@pytest.fixture(scope="module")
def policy(tokenizer):
    return models.new_policy(TINY, tokenizer, seed=3).eval()


@pytest.fixture(scope="module")
def policy_path(policy, tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "sft"
    models.save_model(policy, tokenizer, path)
    return path


@pytest.fixture(scope="module")
def score_path(policy_path, tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("score") / "reward"
    model = models.new_score_model_from(policy_path)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight)
    models.save_model(model, tokenizer, path)
    return path


def conversations(tokenizer) -> list[tuple[list[int], int]]:
    """Mixed lengths; the first has an inner end token, the last an empty response."""
    answer = {"role": "assistant", "content": "no thanks ."}
    short = {"role": "user", "content": "heat ?"}
    return [
        models.conversation_token_ids(tokenizer, [*MULTI_TURN, answer]),
        models.conversation_token_ids(
            tokenizer, [short, {"role": "assistant", "content": "mix flour . heat oven . mix"}]
        ),
        models.conversation_token_ids(tokenizer, [short, {"role": "assistant", "content": ""}]),
    ]


def batch(tokenizer):
    rows = conversations(tokenizer)
    ids, lengths = models.pad_right([np.array(row, dtype=np.int32) for row, _ in rows], tokenizer.pad_token_id)
    prompts = torch.tensor([prompt for _, prompt in rows])
    return ids, prompts, lengths - prompts, lengths


def test_the_template_reads_as_documented(tokenizer):
    text = tokenizer.decode(models.prompt_token_ids(tokenizer, MULTI_TURN))
    assert text == (
        "<bos> <user> how do i bake a cake ? <assistant> first mix flour . then heat oven . <eos> "
        "<user> how do i heat a cake ? <assistant>"
    )


def test_a_conversation_is_its_prompt_the_response_and_the_end_token(tokenizer):
    messages = [*MULTI_TURN, {"role": "assistant", "content": "no thanks ."}]
    ids, prompt_length = models.conversation_token_ids(tokenizer, messages)
    assert ids[:prompt_length] == models.prompt_token_ids(tokenizer, MULTI_TURN)
    assert ids[-1] == tokenizer.eos_token_id
    by_template = tokenizer.apply_chat_template(messages, tokenize=False)
    assert ids == tokenizer(by_template, add_special_tokens=False)["input_ids"]


def test_special_tokens_have_the_first_ids_and_unknown_words_become_unk(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(6))
    assert tokenizer("zeppelin", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_decoding_gives_the_words_back(tokenizer):
    ids = tokenizer("first mix flour .", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == "first mix flour ."


@pytest.mark.parametrize("token", ["<eos>", "<pad>", "<assistant>"])
def test_a_special_token_in_a_text_is_refused(tokenizer, token):
    with pytest.raises(DataError, match="special token"):
        models.prompt_token_ids(tokenizer, [{"role": "user", "content": f"mix {token} flour"}])


def test_prompts_that_cannot_be_answered_are_refused(tokenizer):
    with pytest.raises(DataError, match="end with a user"):
        models.prompt_token_ids(tokenizer, MULTI_TURN[:2])
    with pytest.raises(DataError, match="no room"):
        models.prompt_token_ids(tokenizer, [{"role": "user", "content": "mix " * 62}])


@pytest.mark.parametrize("words", [[], ["two words"], ["<pad>"], [""]])
def test_words_that_cannot_be_tokens_are_refused(words):
    with pytest.raises(ConfigError):
        models.build_tokenizer(words, 16)


def test_new_policies_are_the_same_by_seed_and_leave_the_generator_alone(tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (models.new_policy(TINY, tokenizer, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_pad_right_keeps_lengths_even_of_rows_that_hold_the_pad_id():
    ids, lengths = models.pad_right([np.array([3, 0]), np.array([4])], 0)
    assert ids.tolist() == [[3, 0], [4, 0]] and lengths.tolist() == [2, 1]


def test_length_sorted_batches_hold_every_row_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    batches = models.length_sorted_batches(lengths, 128)
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    assert all(len(rows) * lengths[rows].max() <= 128 for rows in batches)
    assert models.length_sorted_batches([500, 2], 128)[1].tolist() == [0]
    assert models.length_sorted_batches([], 128) == []


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_response_logprobs_equal_a_plain_masked_forward(policy, tokenizer, temperature):
    ids, prompts, responses, lengths = batch(tokenizer)
    with torch.no_grad():
        found = models.forward_response_logprobs(policy, ids, prompts, responses, temperature)
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        logprobs = torch.log_softmax(policy(ids, attention_mask=mask.long()).logits / temperature, -1)
    assert found.shape == (3, int(responses.max())) and found.dtype == torch.float32
    for row in range(3):
        for j in range(found.shape[1]):
            position = int(prompts[row]) + j
            inside = j < int(responses[row])
            expected = logprobs[row, position - 1, ids[row, position]].item() if inside else 0.0
            assert found[row, j].item() == pytest.approx(expected, abs=1e-5)


def test_padding_changes_no_gradient(policy, tokenizer):
    ids, prompts, responses, _ = batch(tokenizer)
    wide = torch.nn.functional.pad(ids, (0, 7), value=tokenizer.pad_token_id)
    gradients = []
    for each in (ids, wide):
        policy.zero_grad()
        models.forward_response_logprobs(policy, each, prompts, responses).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_a_fresh_score_model_has_the_policys_trunk_a_zero_head_and_no_bias(policy, policy_path, tokenizer):
    model = models.new_score_model_from(policy_path)
    assert model.score.bias is None and not model.score.weight.any()
    trunk = policy.base_model.state_dict()
    assert all(torch.equal(value, trunk[name]) for name, value in model.base_model.state_dict().items())
    ids, _, _, lengths = batch(tokenizer)
    assert not models.forward_end_scores(model, ids, lengths).any()


def test_plain_transformers_gives_the_same_scores_on_mixed_lengths_and_inner_end_tokens(score_path, tokenizer):
    ours, plain = models.load_score_model(score_path), AutoModelForSequenceClassification.from_pretrained(score_path)
    ids, prompts, _, lengths = batch(tokenizer)
    assert tokenizer.eos_token_id in ids[0, : prompts[0]].tolist(), "the case is meant to hold an inner end token"
    with torch.no_grad():
        found = models.forward_end_scores(ours, ids, lengths)
        together = plain(ids, attention_mask=(ids != tokenizer.pad_token_id).long()).logits[:, 0]
        unmasked = plain(ids).logits[:, 0]
        alone = torch.stack([plain(ids[i : i + 1, : lengths[i]]).logits[0, 0] for i in range(3)])
    for expected in (together, unmasked, alone):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.std() > 0.1


def test_a_saved_policy_loads_with_plain_transformers(policy, policy_path, tokenizer):
    plain = AutoModelForCausalLM.from_pretrained(policy_path)
    ids, _, _, _ = batch(tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, policy(ids).logits, atol=1e-6, rtol=0)
    again = AutoTokenizer.from_pretrained(policy_path)
    assert models.prompt_token_ids(again, MULTI_TURN) == models.prompt_token_ids(tokenizer, MULTI_TURN)
    assert again.model_max_length == TINY.max_length and again.all_special_ids == tokenizer.all_special_ids
    assert (policy_path / "model.safetensors").is_file() and not list(policy_path.parent.glob(".*"))


def test_saving_replaces_the_folder_whole_and_writes_documents(policy, tokenizer, tmp_path):
    path = tmp_path / "deep" / "model"
    models.save_model(policy, tokenizer, path, {"training.json": {"loss": [1.0]}, "stale.json": {}})
    models.save_model(policy, tokenizer, path, {"training.json": {"loss": [0.5]}})
    assert json.loads((path / "training.json").read_text()) == {"loss": [0.5]}
    assert not (path / "stale.json").exists()
    assert [each.name for each in path.parent.iterdir()] == ["model"]


def test_saving_refuses_a_pad_token_that_is_the_end_token(policy, tmp_path):
    tokenizer = models.build_tokenizer(WORDS, TINY.max_length)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(DataError, match="never occurs in text"):
        models.save_model(policy, tokenizer, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_loading_says_what_is_wrong_with_a_folder(policy_path, tmp_path):
    with pytest.raises(DataError, match="holds no model"):
        models.load_policy(tmp_path)
    with pytest.raises(DataError, match="no score model"):
        models.load_score_model(policy_path)
    with pytest.raises(DataError, match="holds no tokenizer"):
        models.load_tokenizer(tmp_path)


def test_critic_heads_start_as_the_scaled_score_and_as_constants(score_path, tokenizer):
    heads = (models.ValueHead(score_scale=0.5, bias=0.25), models.ValueHead(bias=-1.5))
    critic = models.SharedCritic.from_score_model(score_path, heads)
    ids, prompts, responses, lengths = batch(tokenizer)
    with torch.no_grad():
        values = critic(ids)
        scores = models.forward_end_scores(models.load_score_model(score_path), ids, lengths)
        at_responses = critic(ids, prompts, responses)
    ends = values[torch.arange(3), lengths - 1]
    torch.testing.assert_close(ends[:, 0], 0.5 * scores + 0.25, atol=1e-5, rtol=0)
    torch.testing.assert_close(ends[:, 1], torch.full((3,), -1.5))
    assert at_responses.shape == (3, int(responses.max()), 2)
    torch.testing.assert_close(at_responses[0, 2], values[0, prompts[0] + 1])
    assert not at_responses[2, 1:].any()


def test_both_modules_give_what_their_functions_give(policy, score_path, tokenizer):
    ids, prompts, responses, lengths = batch(tokenizer)
    score_model = models.load_score_model(score_path)
    with torch.no_grad():
        assert torch.equal(
            models.ResponseLogprobs(policy)(ids, prompts, responses, 0.7),
            models.forward_response_logprobs(policy, ids, prompts, responses, 0.7),
        )
        assert torch.equal(
            models.EndScores(score_model)(ids, lengths), models.forward_end_scores(score_model, ids, lengths)
        )
