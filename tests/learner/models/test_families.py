"""Each family of pretrained models against plain transformers: log-probs, scores, values, and what is saved."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from configs.exits import DataError
from learner.data.tokenise import tokenise
from learner.data.tokenizer import load_tokenizer
from learner.models import modules as models
from learner.models.families import drawable_tokens
from learner.models.pretrained import prepare_model
from learner.ranks.critics import save_policy_folder
from tests.learner.tiny_families import (
    FAMILY_CONFIGS,
    MAX_LENGTH,
    QUESTION,
    ROWS,
    TEXTS,
    batch,
    settings,
    tiny_model,
    tiny_tokenizer,
)


@pytest.mark.parametrize("name", list(FAMILY_CONFIGS))
def test_log_probs_are_those_of_the_familys_own_forward(name: str, tmp_path: Path) -> None:
    source = tiny_model(name, tmp_path / "source")
    prepare_model(settings(source), tmp_path / "initial")
    policy = models.load_policy(tmp_path / "initial")
    drawable = drawable_tokens(policy.config)
    assert drawable is not None and drawable < ROWS
    (tmp_path / "alone").mkdir()
    for file in (tmp_path / "initial").glob("*token*"):
        shutil.copy(file, tmp_path / "alone")
    both = [load_tokenizer(tmp_path / place)(TEXTS)["input_ids"] for place in ("initial", "alone")]
    assert both[0] == both[1], "the tokenizer reads alike with and without the model's configuration beside it"
    ids, prompts, responses = batch(drawable)
    plain = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    with torch.no_grad():
        found = models.forward_response_logprobs(policy, ids, prompts, responses, 0.7)
        expected = (plain(ids).logits[..., :drawable] / 0.7).log_softmax(-1)
    for row in range(3):
        first, count = int(prompts[row]), int(responses[row])
        picked = expected[row, first - 1 : first + count - 1].gather(1, ids[row, first : first + count, None])[:, 0]
        torch.testing.assert_close(found[row, :count], picked, atol=1e-5, rtol=0)
        assert not found[row, count:].any()


@pytest.mark.parametrize("name", list(FAMILY_CONFIGS))
def test_score_model_critic_and_saved_policy_of_a_family(name: str, tmp_path: Path) -> None:
    source = tiny_model(name, tmp_path / "source")
    prepare_model(settings(source), tmp_path / "initial")
    tokenizer = load_tokenizer(tmp_path / "initial")
    score = models.new_score_model_from(tmp_path / "initial")
    assert not models.score_head(score).weight.any()
    torch.nn.init.normal_(models.score_head(score).weight)
    models.save_model(score, tokenizer, tmp_path / "score")
    again, ids, lengths = models.load_score_model(tmp_path / "score"), batch(250)[0], torch.tensor([60, 37, 39])
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "score", attn_implementation="eager").eval()
    critic = models.SharedCritic.from_score_model(tmp_path / "score", (models.ValueHead(score_scale=2.0),))
    policy = models.load_policy(tmp_path / "initial")
    state = {key: value + 0.01 for key, value in policy.named_parameters()}
    save_policy_folder(state, tmp_path / "initial", tmp_path / "learned")
    with torch.no_grad():
        found = models.forward_end_scores(again, ids, lengths)
        torch.testing.assert_close(found, models.forward_end_scores(score, ids, lengths), atol=1e-5, rtol=0)
        alone = torch.stack([plain(ids[i : i + 1, : lengths[i]]).logits[0, 0] for i in range(3)])
        torch.testing.assert_close(found, alone, atol=2e-5, rtol=0)
        torch.testing.assert_close(critic(ids)[torch.arange(3), lengths - 1, 0], 2 * found, atol=2e-5, rtol=0)
    learned = dict(models.load_policy(tmp_path / "learned").named_parameters())
    assert learned.keys() == state.keys() and all(torch.equal(learned[key], state[key]) for key in state)
    assert drawable_tokens(models.load_policy(tmp_path / "learned").config) == drawable_tokens(policy.config)


def test_gemma_2_keeps_its_attention_softcap_which_the_fast_kernel_would_drop(tmp_path: Path) -> None:
    source = tiny_model("Gemma2", tmp_path / "source", attn_logit_softcapping=0.5)
    ids = batch(250)[0]
    with torch.no_grad():
        exact = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()(ids).logits
        fast = AutoModelForCausalLM.from_pretrained(source, attn_implementation="sdpa").eval()(ids).logits
        prepare_model(settings(source), tmp_path / "initial")
        ours = models.load_policy(tmp_path / "initial")(ids).logits
    assert float((exact - fast).abs().max()) > 0.01
    assert torch.equal(ours, exact)


def test_an_untested_family_is_compared_with_its_own_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CohereConfig

    tokenizer = tiny_tokenizer(pad="<pad>")
    config = CohereConfig(
        vocab_size=ROWS,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        logit_scale=0.25,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    models.save_model(model, tokenizer, tmp_path / "cohere")
    models.load_policy(tmp_path / "cohere")
    monkeypatch.setattr(models, "finish_logits", lambda logits, config: logits)
    with pytest.raises(DataError, match="does something to its logits"):
        models.load_policy(tmp_path / "cohere")


def test_masks_come_from_lengths_for_policy_and_scorer_of_different_tokenizers(tmp_path: Path) -> None:
    """The pad token's id inside a response is a token like any other, and padding changes nothing."""
    for name, template in (("Llama", "papers"), ("Qwen2", "chatml")):
        source = tiny_model(name, tmp_path / name / "source", tokenizer=tiny_tokenizer(template, pad="<pad>"))
        prepare_model(settings(source), tmp_path / name / "initial")
    rows = {}
    for name in ("Llama", "Qwen2"):
        tokenizer = load_tokenizer(tmp_path / name / "initial")
        rows[name] = [
            tokenise(tokenizer, QUESTION, text, max_length=MAX_LENGTH, max_prompt=64, prompt_id="p") for text in TEXTS
        ]
        assert all(row.ids[-1] == tokenizer.eos_token_id for row in rows[name])
    assert rows["Llama"][0].ids != rows["Qwen2"][0].ids
    policy, score = (
        models.load_policy(tmp_path / "Llama" / "initial"),
        models.new_score_model_from(tmp_path / "Qwen2" / "initial"),
    )
    torch.nn.init.normal_(models.score_head(score).weight)
    for name, pad in (("Llama", 0), ("Qwen2", 0)):
        poisoned = [np.array([*row.ids[:-2], pad, row.ids[-1]]) for row in rows[name]]
        ids, lengths = models.pad_right(poisoned, pad)
        wide, _ = models.pad_right([*poisoned, np.zeros(MAX_LENGTH, dtype=np.int64)], 7)
        prompts = torch.tensor([row.prompt_length for row in rows[name]])
        with torch.no_grad():
            if name == "Llama":
                found = models.forward_response_logprobs(policy, ids, prompts, lengths - prompts)
                again = models.forward_response_logprobs(policy, wide[:3], prompts, lengths - prompts)
                assert ((found != 0) == models.response_mask(lengths - prompts)).all()
            else:
                found = models.forward_end_scores(score, ids, lengths)
                again = models.forward_end_scores(score, wide[:3], lengths)
        torch.testing.assert_close(found, again, atol=1e-5, rtol=0)
