"""Score models in the layout of the papers' reference, made up here, against a plain torch computation of that layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaModel

from configs.exits import ConfigError, DataError
from configs.schema.supervised import ModelSettings
from learner.models.modules import (
    build_tokenizer,
    load_score_model,
    new_policy,
    new_score_model_from,
    pad_right,
    save_model,
)
from learner.models.score_models.beaver_layout import INDEX, is_released
from learner.models.score_models.folders import (
    EnsembleBound,
    load_whole_score_model,
    member_folder,
    save_affine,
    save_ensemble,
)
from learner.models.score_models.foreign import prepare_scorer

ROWS = [[1, 5, 9, 2], [1, 7, 2], [1, 3, 4, 8, 11, 2]]
MOMENTS = {"mean": 0.4, "var": 2.25}


def trunk() -> LlamaModel:
    torch.manual_seed(3)
    return LlamaModel(
        LlamaConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            pad_token_id=0,
        )
    ).eval()


def released(
    folder: Path, model: LlamaModel, bias: float | None = 0.7, *, buffers: bool = False, **config: Any
) -> torch.Tensor:
    """Writes the folder as the reference saves it, in two files; returns the head's weight."""
    folder.mkdir(parents=True)
    weight = torch.randn(1, 32, generator=torch.Generator().manual_seed(5))
    tensors = {f"model.{name}": one.clone() for name, one in model.state_dict().items()}
    head = {"score_head.weight": weight, **({} if bias is None else {"score_head.bias": torch.tensor([bias])})}
    if buffers:
        head |= {f"normalizer.{name}": torch.tensor([value]) for name, value in MOMENTS.items()}
        head["normalizer.count"] = torch.tensor([100])
    names = sorted(tensors)
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    save_file({name: tensors[name] for name in first}, folder / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in second} | head, folder / "model-00002-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"stale": "x"}}))
    document = model.config.to_dict() | {"architectures": ["LlamaForScore"], "score_dim": 1, **config}
    (folder / "config.json").write_text(json.dumps(document))
    return weight


def reference_scores(model: LlamaModel, weight: torch.Tensor, bias: float) -> np.ndarray:
    """Row by row, at the last token."""
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in ROWS]
        return np.array([(weight[0] @ state).item() + bias for state in states])


def ours(folder: Path) -> np.ndarray:
    scores, _ = load_whole_score_model(folder).score(*pad_right([np.array(row) for row in ROWS], 0))
    return scores


@pytest.mark.parametrize(
    ("config", "buffers", "expected"),
    [
        ({"score_type": "reward", "do_normalize": False}, True, lambda x: x),
        (
            {"score_type": "reward", "do_normalize": True, "mean": [0.4], "var": [2.25]},
            False,
            lambda x: (x - 0.4) / 1.5,
        ),
        ({"score_type": "cost", "do_normalize": True, "mean": [[0.4]], "var": [[2.25]]}, False, lambda x: x / 1.5),
        ({"score_type": "critic", "do_normalize": True}, True, lambda x: x),
        ({"score_type": "reward", "do_normalize": True, "mean": [9.0], "var": [9.0]}, True, lambda x: (x - 0.4) / 1.5),
        ({}, False, lambda x: x),
    ],
)
def test_scores_are_those_of_the_reference(tmp_path: Path, config: Any, buffers: bool, expected: Any) -> None:
    """The moments are the buffers where both are there, for the reference loads those last."""
    model = trunk()
    weight = released(tmp_path / "theirs", model, buffers=buffers, **config)
    assert is_released(tmp_path / "theirs")
    facts = prepare_scorer(str(tmp_path / "theirs"), None, tmp_path / "ours", key="scorer.path")
    assert facts["layout"] == "released" and facts["family"] == "llama"
    np.testing.assert_allclose(ours(tmp_path / "ours"), expected(reference_scores(model, weight, 0.7)), atol=1e-5)
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["architectures"] == ["LlamaForScore"]


def test_a_head_without_bias_and_normaliser_needs_no_affine_and_untouched_files_are_linked(tmp_path: Path) -> None:
    model = trunk()
    weight = released(tmp_path / "theirs", model, bias=None, score_type="cost")
    facts = prepare_scorer(str(tmp_path / "theirs"), None, tmp_path / "ours", key="k")
    assert facts["affine"] is None and not (tmp_path / "ours" / "affine.json").exists()
    np.testing.assert_allclose(ours(tmp_path / "ours"), reference_scores(model, weight, 0.0), atol=1e-5)
    linked = "model-00001-of-00002.safetensors"
    assert (tmp_path / "ours" / linked).stat().st_ino == (tmp_path / "theirs" / linked).stat().st_ino
    names = load_file(tmp_path / "ours" / "model-00002-of-00002.safetensors")
    assert "score.weight" in names and not any("score_head" in name for name in names)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"score_type": "utility"}, "score_type 'utility'"),
        ({"do_normalize": True}, "neither weights nor config.json have the normaliser's mean"),
        ({"do_normalize": True, "mean": [0.0], "var": [0.0]}, "var is 0"),
        ({"do_normalize": True, "mean": [0.0, 1.0], "var": [1.0]}, "mean is no single number"),
        ({"do_normalize": True, "mean": [float("nan")], "var": [1.0]}, "mean is nan"),
        ({"model_type": "abacus"}, "of the family 'abacus'"),
    ],
)
def test_what_makes_no_sense_is_named_and_leaves_nothing(tmp_path: Path, change: Any, problem: str) -> None:
    released(tmp_path / "theirs", trunk(), **change)
    with pytest.raises(DataError, match=problem):
        prepare_scorer(str(tmp_path / "theirs"), None, tmp_path / "ours", key="k")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


# --- folders that are not the reference's -----------------------------------------------------------------------------

SIZES = ModelSettings(hidden_size=32, layers=1, heads=2, intermediate_size=32, max_length=32)


def plain(folder: Path, seed: int = 0) -> Path:
    """A score model of our own."""
    tokenizer = build_tokenizer([f"word{index}" for index in range(10)], SIZES.max_length)
    save_model(new_policy(SIZES, tokenizer, seed=1), tokenizer, folder / "sft")
    model = new_score_model_from(folder / "sft")
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(1, 32, generator=torch.Generator().manual_seed(seed)))
    save_model(model, tokenizer, folder / "score")
    return folder / "score"


def test_a_run_of_our_own_lends_its_model_with_affine_and_calibration(tmp_path: Path) -> None:
    source = plain(tmp_path)
    save_affine(source, 2.0, 1.0)
    (source / "calibration.json").write_text("{}")
    facts = prepare_scorer(str(source), None, tmp_path / "copy", key="k")
    assert facts["layout"] == "plain" and facts["affine"] == [2.0, 1.0]
    np.testing.assert_array_equal(ours(tmp_path / "copy"), ours(source))
    assert (tmp_path / "copy" / "calibration.json").is_file() and (tmp_path / "copy" / "tokenizer.json").is_file()


def test_an_ensemble_comes_with_its_members(tmp_path: Path) -> None:
    source, other = plain(tmp_path / "a"), plain(tmp_path / "b", seed=9)
    save_model(load_score_model(other), _tokenizer(other), member_folder(source, 1))
    save_ensemble(source, EnsembleBound(2, 1.0, "upper"))
    facts = prepare_scorer(str(source), None, tmp_path / "copy", key="k")
    assert facts["layout"] == "ensemble"
    np.testing.assert_array_equal(ours(tmp_path / "copy"), ours(source))


def _tokenizer(folder: Path) -> Any:
    from learner.data.tokenizer import load_tokenizer

    return load_tokenizer(folder)


def test_pickles_are_refused_with_how_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text("{}")
    (tmp_path / "theirs" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataError, match=r"as a pickle only.*save_file\(.*weights_only=True"):
        prepare_scorer(str(tmp_path / "theirs"), None, tmp_path / "ours", key="k")


def test_models_that_are_no_score_model_are_named(tmp_path: Path) -> None:
    source = plain(tmp_path)
    with pytest.raises(DataError, match=r"k: .*sft is a LlamaForCausalLM"):
        prepare_scorer(str(tmp_path / "sft"), None, tmp_path / "ours", key="k")
    weights = load_file(source / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"the weights lack score.weight \(1 missing\)"):
        prepare_scorer(str(source), None, tmp_path / "ours", key="k")
    (source / "model.safetensors").write_bytes(b"<html>")
    with pytest.raises(DataError, match="cannot be read"):
        prepare_scorer(str(source), None, tmp_path / "ours", key="k")
    with pytest.raises(ConfigError, match="no folder"):
        prepare_scorer(str(tmp_path / "nowhere"), None, tmp_path / "ours", key="k")


def test_a_classifier_that_reads_another_place_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(DataError, match=r"a bert model does not read its score at the last token.*Python function"):
        prepare_scorer(str(tmp_path / "bert"), None, tmp_path / "ours", key="k")
