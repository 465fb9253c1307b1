"""Pretrained models: what is taken, what is changed, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.exits import ConfigError, DataError
from learner.data.tokenise import tokenise
from learner.data.tokenizer import load_tokenizer, prompt_token_ids
from learner.model_files import remote_code
from learner.models import modules as models
from learner.models.families import drawable_tokens
from learner.models.pretrained import prepare_model
from tests.learner.tiny_families import MAX_LENGTH, QUESTION, ROWS, batch, settings, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never changed: tests that break something copy it."""
    return tiny_model("Llama", tmp_path_factory.mktemp("llama") / "source")


@pytest.fixture
def broken(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "broken"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- what is changed --------------------------------------------------------------------------------------------------


def test_weights_are_linked_and_the_source_stays_as_it_was(llama: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in llama.iterdir()}
    facts = prepare_model(settings(llama), tmp_path / "deep" / "initial")
    target = tmp_path / "deep" / "initial"
    assert (target / "model.safetensors").samefile(llama / "model.safetensors")
    assert {path.name: path.read_bytes() for path in llama.iterdir()} == before
    assert [path.name for path in target.parent.iterdir()] == ["initial"]
    assert (facts.architecture, facts.family, facts.source) == ("LlamaForCausalLM", "Llama", str(llama))
    plain = AutoModelForCausalLM.from_pretrained(llama)
    assert facts.parameters == sum(one.numel() for one in plain.parameters())
    assert json.dumps(facts.document())
    again = prepare_model(settings(llama), target)
    assert again == facts
    assert prepare_model(settings(llama, template="hh"), target).digest != facts.digest


def test_of_several_end_tokens_the_tokenizers_stays(llama: Path, tmp_path: Path) -> None:
    prepare_model(settings(llama), tmp_path / "initial")
    tokenizer = load_tokenizer(tmp_path / "initial")
    found = json.loads((tmp_path / "initial" / "generation_config.json").read_text())
    assert found["eos_token_id"] == tokenizer.eos_token_id and "top_p" not in found
    assert models.load_policy(tmp_path / "initial").config.eos_token_id == tokenizer.eos_token_id


def test_the_end_token_is_the_one_that_closes_the_templates_turns(tmp_path: Path) -> None:
    source = tiny_model("Gemma", tmp_path / "source")
    facts = prepare_model(settings(source), tmp_path / "initial")
    tokenizer = load_tokenizer(tmp_path / "initial")
    assert tokenizer.eos_token == facts.end_token == "<end_of_turn>"
    assert any("<end_of_turn>, which closes the template's turns, in place of <eos>" in one for one in facts.changes)
    two = [*QUESTION, {"role": "assistant", "content": "mix the flour"}, *QUESTION]
    ids = prompt_token_ids(tokenizer, two)
    row = tokenise(tokenizer, QUESTION, "mix the flour", max_length=MAX_LENGTH, max_prompt=64, prompt_id="p")
    assert ids[: len(row.ids)] == list(row.ids), "a response reads as a turn of the past does"


@pytest.mark.parametrize("template", ["papers", "hh", "chatml"])
def test_a_named_template_replaces_the_tokenizers(template: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("chatml")
    source = tiny_model("Qwen2", tmp_path / "source", tokenizer=tokenizer)
    facts = prepare_model(settings(source, template=template), tmp_path / "initial")
    again = load_tokenizer(tmp_path / "initial")
    text = again.decode(prompt_token_ids(again, QUESTION))
    assert {"papers": "USER: how", "hh": "Human: how", "chatml": "<|im_start|>user\nhow"}[template] in text
    assert f"the chat template is '{template}'" in facts.changes
    assert again.model_max_length == MAX_LENGTH and again.padding_side == "right"


def test_a_tokenizer_without_template_needs_a_named_one(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    source = tiny_model("Llama", tmp_path / "source", tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="no chat template: name one of"):
        prepare_model(settings(source), tmp_path / "initial")
    assert not (tmp_path / "initial").exists()
    prepare_model(settings(source, template="papers"), tmp_path / "initial")


# --- pad token --------------------------------------------------------------------------------------------------------


def with_tokens(*tokens: str, pad: str | None = None, special: bool = True) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    tokenizer.pad_token = pad
    for name in ("<pad>", "<unk>"):  # what a tokenizer of ours has and others lack
        tokenizer = rename(tokenizer, name, f"word{name[1:4]}")
    return tokenizer


def rename(tokenizer: Any, old: str, new: str) -> Any:
    """The same tokenizer, one of its tokens under another name."""
    from transformers import PreTrainedTokenizerFast

    document = json.loads(tokenizer.backend_tokenizer.to_str().replace(json.dumps(old), json.dumps(new)))
    document["model"]["unk_token"] = None
    kept = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "chat_template")}
    from tokenizers import Tokenizer

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)), model_max_length=10_000, **kept
    )


@pytest.mark.parametrize(
    ("tokens", "pad", "expected"),
    [
        (("<|reserved_special_token_0|>", "<|finetune_right_pad_id|>"), None, "<|finetune_right_pad_id|>"),
        (("<|reserved_special_token_5|>", "<|reserved_special_token_0|>"), "<eos>", "<|reserved_special_token_5|>"),
        (("[control_8]",), None, "[control_8]"),
        (("<|placeholder1|>",), "<eos>", "<|placeholder1|>"),
        (("<mine>",), "<mine>", "<mine>"),
    ],
)
def test_a_free_special_token_becomes_the_pad_token(
    tokens: tuple[str, ...], pad: str | None, expected: str, tmp_path: Path
) -> None:
    source = tiny_model("Llama", tmp_path / "source", tokenizer=with_tokens(*tokens, pad=pad))
    facts = prepare_model(settings(source), tmp_path / "initial")
    tokenizer = load_tokenizer(tmp_path / "initial")
    assert tokenizer.pad_token == facts.pad_token == expected
    assert models.load_policy(tmp_path / "initial").config.pad_token_id == tokenizer.pad_token_id
    assert any(expected in one for one in facts.changes) == (pad != expected)
    with pytest.raises(DataError, match="special token"):
        tokenise(tokenizer, QUESTION, f"mix {expected} flour", max_length=MAX_LENGTH, max_prompt=64, prompt_id="p")


def test_a_new_pad_token_takes_a_row_that_no_token_has_and_is_never_drawn(tmp_path: Path) -> None:
    tokenizer = with_tokens()
    source = tiny_model("Llama", tmp_path / "source", tokenizer=tokenizer)
    facts = prepare_model(settings(source), tmp_path / "initial")
    again = load_tokenizer(tmp_path / "initial")
    assert again.pad_token == "<|pad|>" and again.pad_token_id == len(tokenizer) < ROWS == facts.vocabulary
    assert drawable_tokens(models.load_policy(tmp_path / "initial").config) == len(tokenizer)
    assert (tmp_path / "initial" / "model.safetensors").samefile(source / "model.safetensors")


@pytest.mark.parametrize("name", ["Llama", "Qwen2"])
def test_a_full_embedding_grows_by_a_row_and_says_the_same_as_before(name: str, tmp_path: Path) -> None:
    tokenizer = with_tokens()
    source = tiny_model(name, tmp_path / "source", tokenizer=tokenizer, rows=len(tokenizer), dtype=torch.bfloat16)
    facts = prepare_model(settings(source), tmp_path / "initial")
    policy = models.load_policy(tmp_path / "initial")
    assert facts.vocabulary == policy.config.vocab_size == -(-(len(tokenizer) + 1) // 8) * 8
    assert len(tokenizer) <= load_tokenizer(tmp_path / "initial").pad_token_id < facts.vocabulary
    assert load_file(tmp_path / "initial" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    ids, prompts, responses = batch(len(tokenizer))
    with torch.no_grad():
        found = models.forward_response_logprobs(policy, ids, prompts, responses)
        plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        expected = models.forward_response_logprobs(plain, ids, prompts, responses)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_unknown_token_pads_where_no_text_gives_it(tmp_path: Path) -> None:
    source = tiny_model("Llama", tmp_path / "source")  # byte level: it has <unk> and reads every text without it
    tokenizer = rename(AutoTokenizer.from_pretrained(source), "<pad>", "wordpad")
    tokenizer.unk_token = "<unk>"
    tokenizer.save_pretrained(source)
    facts = prepare_model(settings(source), tmp_path / "initial")
    assert facts.pad_token == "<unk>"


def test_a_token_without_a_row_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    source = tiny_model("Llama", tmp_path / "source", tokenizer=tokenizer, rows=280)
    with pytest.raises(DataError, match="has no row in an embedding of 280 rows"):
        prepare_model(settings(source), tmp_path / "initial")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_pickle_is_refused_with_the_way_out(broken: Path, tmp_path: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pickles only \(pytorch_model\.bin\).*save_pretrained"):
        prepare_model(settings(broken), tmp_path / "initial")
    assert not list(tmp_path.glob("initial*")) and not list(tmp_path.glob(".initial*"))


def test_lengths_beyond_the_positions_are_refused(llama: Path, broken: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.max_length 300 is beyond the 256 positions"):
        prepare_model(settings(llama, max_length=300), tmp_path / "initial")
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    edit_json(broken / "config.json", rope_parameters=scaling)
    with pytest.raises(ConfigError, match="beyond the first 64 positions"):
        prepare_model(settings(broken), tmp_path / "initial")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "no causal language model"),
        ({"vision_config": {}}, "more than text"),
        ({"model_type": "nonesuch"}, "knows no model of type 'nonesuch'"),
        ({"intermediate_size": 95}, "of another shape.*mlp"),
        ({"num_hidden_layers": 3}, "9 missing: model.layers.2"),
        ({"num_hidden_layers": 1}, "9 unknown: model.layers.1"),
    ],
)
def test_models_that_cannot_be_trained_are_refused(
    changes: dict[str, Any], words: str, broken: Path, tmp_path: Path
) -> None:
    edit_json(broken / "config.json", **changes)
    with pytest.raises(DataError, match=words):
        prepare_model(settings(broken), tmp_path / "initial")


def test_damaged_and_missing_files_are_refused_by_name(broken: Path, tmp_path: Path) -> None:
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    for content, words in (
        (whole[:-8], "its header speaks of"),
        (b"<html>", "no safetensors file"),
        (b"\x05", "no safeten"),
    ):
        weights.write_bytes(content)
        with pytest.raises(DataError, match=words):
            prepare_model(settings(broken), tmp_path / "initial")
    save_file({"model.norm.weight": torch.zeros(4, dtype=torch.int8)}, weights)
    with pytest.raises(DataError, match=r"model\.norm\.weight is stored as I8"):
        prepare_model(settings(broken), tmp_path / "initial")
    weights.unlink()
    with pytest.raises(DataError, match="no safetensors file"):
        prepare_model(settings(broken), tmp_path / "initial")
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(DataError, match=r"model-1\.safetensors is missing"):
        prepare_model(settings(broken), tmp_path / "initial")
    (broken / "config.json").write_text("<html>")
    with pytest.raises(DataError, match="is no JSON"):
        prepare_model(settings(broken), tmp_path / "initial")
    (broken / "config.json").unlink()
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="adapter"):
        prepare_model(settings(broken), tmp_path / "initial")


def test_shards_are_taken_by_their_index_and_other_weight_files_left(broken: Path, tmp_path: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").rename(broken / "consolidated.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, broken / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in shards.items() for name in part}
    (broken / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    prepare_model(settings(broken), tmp_path / "initial")
    found = sorted(path.name for path in (tmp_path / "initial").glob("*.safetensors*"))
    assert found == ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]
    assert models.load_policy(tmp_path / "initial").config.hidden_size == 64


def test_a_tied_layer_that_is_stored_twice_and_old_frequencies_are_passed_over(tmp_path: Path) -> None:
    source = tiny_model("Qwen2", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    prepare_model(settings(source), tmp_path / "initial")
    assert models.load_policy(tmp_path / "initial").config.tie_word_embeddings


# --- names and the hub ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/model", "a/b/c", "-x"])
def test_names_that_are_neither_folder_nor_hub_name(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        prepare_model(settings(path), tmp_path / "initial")


def test_a_revision_belongs_to_a_hub_name(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only the hub has revisions"):
        prepare_model(settings(llama, revision="main"), tmp_path / "initial")


def failures() -> list[tuple[Exception, type[Exception], str]]:
    import httpx
    from huggingface_hub import errors

    answer = httpx.Response(403, request=httpx.Request("GET", "https://hub.invalid"))
    return [
        (errors.GatedRepoError("no", response=answer), DataError, "accept its terms"),
        (errors.RepositoryNotFoundError("no", response=answer), DataError, "nor a model on the hub"),
        (errors.RevisionNotFoundError("no", response=answer), DataError, "no such revision"),
        (errors.LocalEntryNotFoundError("no"), DataError, "cannot be reached"),
        (errors.OfflineModeIsEnabled("no"), DataError, "cannot be reached"),
        (httpx.ConnectTimeout("slow"), DataError, "cannot be reached"),
        (errors.HfHubHTTPError("odd", response=answer), DataError, "HfHubHTTPError: odd"),
        (OSError(28, "No space left on device"), DataError, "No space left"),
        (errors.HFValidationError("no"), ConfigError, "owner/name"),
    ]


@pytest.mark.parametrize("case", range(9))
def test_what_the_hub_says_comes_as_one_clear_line(case: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, kind, words = failures()[case]

    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(kind, match=words) as caught:
        prepare_model(settings("owner/model", revision="v1"), tmp_path / "initial")
    assert str(caught.value).startswith("model.path: owner/model@v1: ") and "\n" not in str(caught.value)


def test_a_hub_model_is_a_snapshot_without_pickles_or_code(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, asked = tmp_path / "cache" / "snapshots" / "abc123", {}
    snapshot.mkdir(parents=True)
    for file in llama.iterdir():  # the hub's cache holds links
        (snapshot / file.name).symlink_to(file)

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    facts = prepare_model(settings("owner/model", revision="v1"), tmp_path / "initial")
    assert facts.source == "owner/model" and facts.revision == "abc123"
    assert asked["name"] == "owner/model" and asked["revision"] == "v1"
    assert not {"*.bin", "*.py", "*"} & set(asked["allow_patterns"]) and "*/*" in asked["ignore_patterns"]
    assert not any(path.is_symlink() for path in (tmp_path / "initial").iterdir())
    shutil.rmtree(tmp_path / "cache")
    models.load_policy(tmp_path / "initial")


# --- code of a model's own --------------------------------------------------------------------------------------------

CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
pathlib.Path(__file__).parent.joinpath("ran").touch()
class OwnConfig(LlamaConfig):
    model_type = "own_llama"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(broken: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (broken / "own.py").write_text(CODE)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    edit_json(broken / "config.json", model_type="own_llama", architectures=["OwnForCausalLM"], auto_map=auto_map)
    return broken


def test_code_of_a_model_runs_only_where_the_settings_say_so(
    own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(remote_code.VARIABLE, "1")  # a shell's variable is not the run's settings
    with pytest.raises(ConfigError, match=r"runs code of its own.*model\.trust_remote_code: true"):
        prepare_model(settings(own_code), tmp_path / "initial")
    assert not list(tmp_path.rglob("ran"))
    prepare_model(settings(own_code, trust_remote_code=True), tmp_path / "initial")
    assert (tmp_path / "initial" / "own.py").is_file() and list(tmp_path.rglob("ran"))
    assert type(models.load_policy(tmp_path / "initial")).__name__ == "OwnForCausalLM"
    monkeypatch.setenv(*next(iter(remote_code.environment(False).items())))
    for load in (models.load_policy, models.new_score_model_from):
        with pytest.raises(ConfigError, match="runs code of its own"):
            load(tmp_path / "initial")
