"""Tiny untrained models of every family, saved as their makers would: own tokenizer, own template, no pad token of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from configs.schema.supervised import ModelSettings
from learner.data.bpe import train_byte_level_bpe

MAX_LENGTH = 128
ROWS = 384
"""Of the embedding; the tokenizer has fewer tokens."""
TEXTS = [
    "how do i bake a cake ?",
    "first mix the flour and the sugar , then heat the oven .",
    "no , i will not help with it",
]

QUESTION = [{"role": "user", "content": "how do i bake a cake ?"}]

_SMALL = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    "Llama": {"num_attention_heads": 2, "num_key_value_heads": 2},
    "Qwen2": {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "Qwen3": _SMALL,
    "Mistral": _SMALL | {"sliding_window": 16},
    "Gemma": _SMALL,
    "Gemma2": _SMALL
    | {
        "sliding_window": 16,
        "query_pre_attn_scalar": 32,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 5.0,
    },
    "Gemma3Text": _SMALL | {"sliding_window": 16, "query_pre_attn_scalar": 32},
    "Phi3": {"num_attention_heads": 2, "num_key_value_heads": 1, "resid_pdrop": 0.1, "attention_dropout": 0.1},
}
"""Name in transformers, without ``Config``, to what is special: shared and separate heads, windows, caps, dropout."""
TEMPLATES = {
    "Llama": "papers",
    "Qwen2": "chatml",
    "Qwen3": "chatml",
    "Mistral": "hh",
    "Gemma": "turns",
    "Gemma2": "turns",
    "Gemma3Text": "turns",
    "Phi3": "turns",
}
"""``turns``: the tokenizer's own template, which closes turns with another token than its end token, as Gemma's and Phi-3's do."""

_TURNS = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] + '\n' + message['content'] }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str = "papers", pad: str | None = None) -> PreTrainedTokenizerFast:
    """About 300 tokens; without a pad token unless `pad` names one."""
    name = "papers" if template == "turns" else template
    tokenizer = train_byte_level_bpe(TEXTS * 3, vocab_size=400, max_length=10_000, template=name)
    if template == "turns":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
        tokenizer.chat_template = _TURNS
    tokenizer.pad_token = pad
    return tokenizer


def tiny_model(
    name: str,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    rows: int = ROWS,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Path:
    """Save a model of 2 layers and hidden size 64, with logits spread out enough to tell apart; returns `folder`."""
    tokenizer = tokenizer or tiny_tokenizer(TEMPLATES[name])
    config = getattr(transformers, f"{name}Config")(
        **{
            "vocab_size": rows,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "max_position_embeddings": 256,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **FAMILY_CONFIGS[name],
            **changes,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4.0)
                elif not parameter.any():  # a bias
                    parameter.normal_()
    model.to(dtype).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    ends = [tokenizer.eos_token_id, *range(100, 200)]  # as chat models do: several end tokens
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "do_sample": True, "top_p": 0.5}))
    return folder


def settings(source: Path | str, **changes: Any) -> ModelSettings:
    """That start from this model."""
    return ModelSettings(**{"path": str(source), "max_length": MAX_LENGTH, **changes})


def batch(high: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids ``[3, 60]`` below `high`, prompt and response lengths."""
    ids = torch.from_numpy(np.random.default_rng(3).integers(4, high, (3, 60)))
    return ids, torch.tensor([5, 20, 9]), torch.tensor([55, 17, 30])
