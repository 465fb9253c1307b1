"""What differs between families of causal language models, beyond what ``AutoModel…`` sees to itself.

The learner's forward pass skips the model's own (`learner.models.modules.forward_response_logprobs`: only positions that predict a
response go through the output layer), so whatever a family does to its logits afterwards is repeated here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from configs.exits import DataError

FAMILIES = {
    "llama": "Llama",
    "qwen2": "Qwen",
    "qwen3": "Qwen",
    "mistral": "Mistral",
    "gemma": "Gemma",
    "gemma2": "Gemma",
    "gemma3_text": "Gemma",
    "phi3": "Phi",
}
"""``model_type`` to family, of those that are tested against vLLM (tests/system/test_families.py)."""

DRAWABLE = "drawable_tokens"
"""Key of ``config.json`` of a model whose embedding has rows that no token of the tokenizer has: how many ids may be drawn."""

_LARGEST_GAP = 1e-2
"""Nats. Float32 on two paths differs by 1e-4 at most; a scale that is left out differs by far more."""


def load_options(config: Any) -> dict[str, str]:
    """Keyword arguments for a model's making, that its results be those of its family.

    Torch's attention kernel knows no softcap, and transformers would leave Gemma 2's out without a word.
    """
    return {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}


def finish_logits(logits: Tensor, config: Any) -> Tensor:
    """What the family's own forward does to the output layer's logits ``[…, V]``; ids that must not be drawn are cut off."""
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = torch.tanh(logits / cap) * cap
    drawable = drawable_tokens(config)
    return logits if drawable is None else logits[..., :drawable]


def drawable_tokens(config: Any) -> int | None:
    """Ids from this one on are padding of the embedding and must not be drawn; None: all may."""
    drawable = getattr(config, DRAWABLE, None)
    return None if drawable is None else int(drawable)


def check_own_forward(model: Any, logprobs: Tensor, input_ids: Tensor) -> None:
    """Refuse a model of an untested family whose own forward gives other log-probs than the learner's.

    Args:
        logprobs: of tokens 1 to the last by the learner's forward, ``[1, T - 1]``.
        input_ids: ``[1, T]``.

    Raises:
        DataError: they differ, so policy gradients would be wrong.
    """
    logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1].float()
    cut = drawable_tokens(model.config)
    logits = logits if cut is None else logits[..., :cut]
    model_logprobs = logits.log_softmax(-1).gather(2, input_ids[:, 1:, None])[..., 0]
    gap = float((model_logprobs - logprobs).abs().max())
    if not gap < _LARGEST_GAP:
        raise DataError(
            f"{type(model).__name__} does something to its logits that is not known here (log-probs differ by {gap:.3g}): "
            f"take a model of a tested family ({', '.join(sorted(set(FAMILIES.values())))})"
        )
