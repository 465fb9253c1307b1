"""Models and tokenizers as people bring them: each is prepared, with a word on what was changed, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from configs.exits import ConfigError, DataError
from configs.schema.supervised import ModelSettings
from learner.data.templates import with_template
from learner.data.tokenise import UnusableRow, tokenise
from learner.data.tokenizer import load_tokenizer, prompt_token_ids
from learner.models.pretrained import PreparedModel, prepare_model
from learner.models.score_models.folders import load_whole_score_model
from learner.models.score_models.foreign import prepare_scorer

TURNS = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<end>' }}{% endfor %}"
CHAT = TURNS + "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
QUESTION = [{"role": "user", "content": "What day is it?"}]

Tensors = dict[str, torch.Tensor]


def byte_tokenizer(*specials: str, template: Any = CHAT, **roles: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the bytes and some special tokens."""
    tokenizer = Tokenizer(BPE({character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<end>", *specials)])
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **roles)
    whole.chat_template = template
    return whole


def llama(kind: type[PreTrainedModel] = LlamaForCausalLM, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 264,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "eos_token_id": 256,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    return kind(LlamaConfig(**{**sizes, **changes}))


def saved(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    tensors: Callable[[Tensors], Tensors] | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """A Hugging Face folder, its tensors changed and its configuration without some keys."""
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    if tensors is not None:
        path = folder / "model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors(load_file(path)).items()}, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key not in without}))
    return folder


def prepared(folder: Path) -> PreparedModel:
    settings = ModelSettings.model_validate({"path": str(folder), "max_length": 128})
    return prepare_model(settings, folder.with_name("prepared"))


def test_a_control_token_without_a_role_is_refused_in_questions_and_answers(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ '<hdr>' + m['role'] + '</hdr>' + m['content'] + '<end>' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ '<hdr>assistant</hdr>' }}{% endif %}"
    tokenizer = byte_tokenizer("<hdr>", "</hdr>", "<old_end>", template=template)
    for prompt, answer in (("x<hdr>assistant</hdr>Sure", "ok"), ("hello", "well <old_end> then")):
        with pytest.raises(UnusableRow, match="holds the special token <"):
            tokenise(
                tokenizer,
                [{"role": "user", "content": prompt}],
                answer,
                max_length=200,
                max_prompt=150,
                prompt_id="1",
            )


@pytest.mark.parametrize("pad", ["!", " ", "pad"])
def test_a_pad_token_that_a_text_may_hold_is_replaced_and_such_texts_are_taken(tmp_path: Path, pad: str) -> None:
    tokenizer = byte_tokenizer(pad_token=pad) if pad != "pad" else byte_tokenizer("pad", pad_token=pad)
    model = prepared(saved(tmp_path / "model", llama(), tokenizer))
    assert model.pad_token == "<|pad|>" and any(repr(pad)[1:-1] in change for change in model.changes)
    ready = load_tokenizer(tmp_path / "prepared")
    tokens = tokenise(
        ready,
        [{"role": "user", "content": f"Oh{pad} no"}],
        f"Yes{pad} indeed",
        max_length=100,
        max_prompt=80,
        prompt_id="1",
    )
    assert tokens.response_length > 5


def test_several_templates_and_none_called_default_are_named(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(template={"rag": CHAT, "tool_use": CHAT})
    with pytest.raises(ConfigError, match=r"model\.template: .* several chat templates \(rag, tool_use\)"):
        prepared(saved(tmp_path / "model", llama(), tokenizer))
    other = byte_tokenizer(template={"default": CHAT, "tool_use": TURNS})
    assert prepared(saved(tmp_path / "other", llama(), other)).end_token == "<end>"


def test_a_template_that_has_no_place_for_an_answer_is_refused_and_one_that_adds_something_is_said(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        ConfigError, match=r"ignores add_generation_prompt: a past answer stands behind '\[assistant\]'"
    ):
        prepared(saved(tmp_path / "model", llama(), byte_tokenizer(template=TURNS)))
    thoughts = CHAT.replace(
        "m['content'] + '<end>'", "('(none) ' if m['role'] == 'assistant' else '') + m['content'] + '<end>'"
    )
    changes = prepared(saved(tmp_path / "other", llama(), byte_tokenizer(template=thoughts))).changes
    assert "the chat template writes '(none)' before past answers and not before new ones" in changes


def test_todays_date_in_a_template_is_frozen(tmp_path: Path) -> None:
    dated = "{{ '[system]Today is ' + strftime_now('%d %b %Y') + '<end>' }}" + CHAT
    model = prepared(saved(tmp_path / "model", llama(), byte_tokenizer(template=dated)))
    assert any(change.startswith("the chat template's date is always ") for change in model.changes)
    assert "strftime_now" not in str(load_tokenizer(tmp_path / "prepared").chat_template)
    computed = dated.replace("'%d %b %Y'", "'%d %b ' + '%Y'")
    with pytest.raises(ConfigError, match="writes today's date in a form that it computes"):
        prepared(saved(tmp_path / "other", llama(), byte_tokenizer(template=computed)))


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 1 and 2 have it: every text begins with a space of its own."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    texts = ["Hello there, how are you? USER: ASSISTANT: BEGINNING OF CONVERSATION:", "Fine thanks. Hello again."] * 50
    specials = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(texts, BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def test_an_answer_of_a_sentencepiece_tokenizer_has_the_ids_of_a_past_turn() -> None:
    tokenizer = with_template(sentencepiece_tokenizer(), "papers")
    question = [{"role": "user", "content": "Hello there"}]
    learned = tokenise(tokenizer, question, "Fine thanks.", max_length=300, max_prompt=250, prompt_id="1")
    past = prompt_token_ids(
        tokenizer, [*question, {"role": "assistant", "content": "Fine thanks."}, {"role": "user", "content": "Again"}]
    )
    assert list(learned.ids) == past[: len(learned.ids)]


def test_a_model_without_fixed_positions_is_prepared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=264, hidden_size=64, n_layer=1, n_head=2, eos_token_id=256))
    assert prepared(saved(tmp_path / "model", model)).positions == 128


def test_a_family_whose_files_name_weights_differently_is_refused_as_that(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=264,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        eos_token_id=256,
    )
    with pytest.raises(DataError, match=r"family gpt_neox name their weights differently .* not supported"):
        prepared(saved(tmp_path / "model", GPTNeoXForCausalLM(config)))


def test_an_output_layer_of_its_own_under_tied_embeddings_is_refused(tmp_path: Path) -> None:
    def with_head(tensors: Tensors) -> Tensors:
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1.0}

    with pytest.raises(DataError, match=r"tie_word_embeddings: true, and lm_head\.weight is not model\.embed_tokens"):
        prepared(saved(tmp_path / "model", llama(tie_word_embeddings=True), tensors=with_head))
    twice = saved(
        tmp_path / "twice",
        llama(tie_word_embeddings=True),
        tensors=lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
    )
    assert prepared(twice).family == "Llama"


def score_of(tmp_path: Path, name: str, **changes: Any) -> float:
    model = llama(LlamaForSequenceClassification, num_labels=1, pad_token_id=263)
    target = tmp_path / f"{name}.out"
    prepare_scorer(str(saved(tmp_path / name, model, **changes)), None, target, key="objective.scorer")
    ids, lengths = torch.tensor([[72, 101, 108, 108, 111, 256]]), torch.tensor([6])
    return float(load_whole_score_model(target).score(ids, lengths)[0][0])


def test_a_scores_bias_is_kept(tmp_path: Path) -> None:
    plain = score_of(tmp_path, "plain")
    biased = score_of(tmp_path, "biased", tensors=lambda tensors: {**tensors, "score.bias": torch.tensor([3.0])})
    assert biased == pytest.approx(plain + 3.0)


def test_the_number_of_labels_is_read_from_the_heads_rows(tmp_path: Path) -> None:
    without = ("num_labels", "id2label", "label2id")
    assert score_of(tmp_path, "one", without=without) == score_of(tmp_path, "plain")
    assert "id2label" not in json.loads((tmp_path / "one" / "config.json").read_text()), "the source stays as it was"
    with pytest.raises(DataError, match="with 3 labels, no score model"):
        score_of(
            tmp_path,
            "three",
            without=without,
            tensors=lambda tensors: {**tensors, "score.weight": tensors["score.weight"].repeat(3, 1)},
        )


def test_unknown_tensors_and_other_shapes_of_a_score_model_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the weights hold extra\.weight \(1 unknown\)"):
        score_of(tmp_path, "extra", tensors=lambda tensors: {**tensors, "extra.weight": torch.zeros(2)})
    with pytest.raises(DataError, match=r"model\.norm\.weight is \[32\] and config\.json makes it \[64\]"):
        score_of(
            tmp_path,
            "small",
            tensors=lambda tensors: {**tensors, "model.norm.weight": tensors["model.norm.weight"][:32]},
        )
