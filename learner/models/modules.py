"""Policies, score models and critics as Hugging Face modules, and the forward passes that everyone shares.

Batches are right-padded and masks come from lengths, never from token ids. No attention mask is passed: under a causal
mask a real token never sees the padding on its right, and without one the attention kernel takes its causal fast path.
Shapes: ``B`` rows, ``T`` tokens, ``R`` response tokens of the longest response, ``H`` value heads. Log-probs in nats.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from configs.exits import DataError
from configs.schema.supervised import ModelSettings
from learner.data.tokenizer import (
    build_tokenizer,
    check_pad_token,
    conversation_token_ids,
    load_tokenizer,
    prompt_token_ids,
)
from learner.model_files.remote_code import check_model_type, is_allowed, read_config_document
from learner.models.families import FAMILIES, check_own_forward, finish_logits, load_options
from learner.models.log_probs import gather_log_probs

__all__ = [
    "EndScores",
    "ResponseLogprobs",
    "SharedCritic",
    "ValueHead",
    "at_response_positions",
    "build_tokenizer",
    "checkpoint_layers",
    "conversation_token_ids",
    "forward_end_scores",
    "forward_response_logprobs",
    "length_sorted_batches",
    "load_policy",
    "load_score_model",
    "load_tokenizer",
    "new_policy",
    "new_score_model_from",
    "pad_right",
    "prompt_token_ids",
    "response_mask",
    "save_model",
    "score_head",
]

Dtype = torch.dtype | str
"""``torch.float32`` or ``"float32"``."""


# --- making, loading, saving ------------------------------------------------------------------------------------------


def new_policy(settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights, float32, tied embeddings; the same for the same seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def load_policy(path: Path | str, dtype: Dtype = torch.float32) -> PreTrainedModel:
    """The causal language model of a Hugging Face folder, in eval mode.

    Raises:
        ConfigError: it needs code of its own that may not run.
        DataError: the folder holds no model, or one whose log-probs the learner would get wrong.
    """
    model = _load(AutoModelForCausalLM, path, dtype)
    if model.config.model_type not in FAMILIES:
        _check_forward(model)
    return model


def load_score_model(path: Path | str, dtype: Dtype = torch.float32) -> PreTrainedModel:
    """The reward or cost model of a Hugging Face folder (one label, no bias), in eval mode.

    Raises:
        ConfigError: it needs code of its own that may not run.
        DataError: the folder holds no model, or one with another head.
    """
    config = _config(path)
    if config.num_labels != 1 or not any("SequenceClassification" in name for name in config.architectures or []):
        raise DataError(f"{path} is no score model: it needs a sequence classification head with one label")
    model = _load(AutoModelForSequenceClassification, path, dtype)
    if score_head(model).bias is not None:
        raise DataError(f"{path} has a head with a bias, and plain transformers would drop it: retrain it without")
    return model


def new_score_model_from(policy_path: Path | str, dtype: Dtype = torch.float32) -> PreTrainedModel:
    """A score model on a copy of the policy's trunk, its head zero and without bias: every score starts at 0.

    Raises:
        ConfigError, DataError: as `load_policy`; or the family has no score models.
    """
    policy = load_policy(policy_path, dtype)
    config = _config(policy_path)
    config.num_labels = 1
    config.pad_token_id = policy.config.pad_token_id
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not is_allowed():
        raise DataError(
            f"{policy_path}: transformers has no score models of type {config.model_type!r}: take a model of another family"
        )
    options = {"trust_remote_code": is_allowed(), **load_options(config)}
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten: leave the caller's generator alone
        model = AutoModelForSequenceClassification.from_config(config, dtype=_dtype(dtype), **options)
    model.base_model.load_state_dict(policy.base_model.state_dict())
    nn.init.zeros_(score_head(model).weight)
    return model.eval()


def score_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that turns a state of a sequence classification model into its scores.

    Raises:
        DataError: the family calls it otherwise, or it is no linear layer.
    """
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise DataError(f"{type(model).__name__} has no linear layer `score`: take a model of another family")
    return head


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path | str,
    documents: Mapping[str, Any] | None = None,
) -> None:
    """Save a Hugging Face folder with safetensors; it appears whole or not at all, and replaces what was there.

    Args:
        documents: further JSON files of the folder, name → content (``{"training.json": {...}}``).

    Raises:
        DataError: the pad token is missing or is the end token.
    """
    check_pad_token(tokenizer)
    if model.config.pad_token_id != tokenizer.pad_token_id:
        raise DataError(
            f"the model's pad token id {model.config.pad_token_id} is not the tokenizer's {tokenizer.pad_token_id}: "
            "scores would be read at the wrong token"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(str(fresh), safe_serialization=True)
    tokenizer.save_pretrained(str(fresh))
    for name, content in (documents or {}).items():
        (fresh / name).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _load(auto_class: Any, path: Path | str, dtype: Dtype) -> PreTrainedModel:
    options = {"trust_remote_code": is_allowed(), "local_files_only": True, **load_options(_config(path))}
    transformers_logging.disable_progress_bar()
    model: PreTrainedModel = auto_class.from_pretrained(str(path), dtype=_dtype(dtype), **options)
    return model.eval()


def _config(path: Path | str) -> Any:
    check_model_type(path, read_config_document(path), allowed=is_allowed())
    return AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=is_allowed())


@torch.no_grad()
def _check_forward(model: PreTrainedModel) -> None:
    ids = torch.arange(min(8, model.config.vocab_size), dtype=torch.int64)[None]
    prompt_lengths = torch.ones(1, dtype=torch.int64)
    response_lengths = prompt_lengths * (ids.shape[1] - 1)
    check_own_forward(model, forward_response_logprobs(model, ids, prompt_lengths, response_lengths), ids)


def _dtype(dtype: Dtype) -> torch.dtype:
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)


# --- batches ----------------------------------------------------------------------------------------------------------


def pad_right(rows: Sequence[np.ndarray], pad_id: int) -> tuple[Tensor, Tensor]:
    """``input_ids`` int64 ``[B, T]`` and lengths int64 ``[B]`` of rows of token ids."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    padded = np.full((len(rows), int(lengths.max(initial=0))), pad_id, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : lengths[index]] = row
    return torch.from_numpy(padded), torch.from_numpy(lengths)


def length_sorted_batches(lengths: Sequence[int] | np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Indices grouped by like lengths, each group at most `tokens_per_batch` padded tokens (one longer row: a group).

    Groups ascend in length; every index appears once.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    batches: list[np.ndarray] = []
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > tokens_per_batch:
            batches.append(order[start:end])
            start = end
    return batches


def response_mask(response_lengths: Tensor) -> Tensor:
    """Bool ``[B, R]``: true on each row's response tokens."""
    width = int(response_lengths.max()) if response_lengths.numel() else 0
    return torch.arange(width, device=response_lengths.device)[None, :] < response_lengths[:, None]


def at_response_positions(x: Tensor, prompt_lengths: Tensor, response_lengths: Tensor) -> Tensor:
    """Pick ``[B, R, …]`` out of ``[B, T, …]`` where each response token is predicted; zero after a row's end.

    Index j of row i reads position ``prompt_length + j - 1``: the state before response token j.
    """
    mask = response_mask(response_lengths)
    offsets = torch.arange(mask.shape[1], device=x.device)[None, :] + prompt_lengths[:, None] - 1
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    picked = x[rows, offsets.clamp(max=max(x.shape[1] - 1, 0))]
    return picked * mask.reshape(*mask.shape, *(1,) * (x.dim() - 2))


# --- forward passes ---------------------------------------------------------------------------------------------------


def forward_response_logprobs(
    model: PreTrainedModel,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    response_lengths: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Log-probs float32 ``[B, R]`` of the response tokens, logits divided by the temperature; zero after a row's end.

    Only positions that predict a response token go through the output layer.
    """
    hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    mask = response_mask(response_lengths)
    row, index = mask.nonzero(as_tuple=True)
    position = prompt_lengths[row] + index - 1
    logits = finish_logits(_exact_logits(model.get_output_embeddings(), hidden[row, position]), model.config)
    logprobs = gather_log_probs(logits[None], input_ids[row, position + 1][None], temperature)[0]
    return torch.zeros(mask.shape, dtype=logprobs.dtype, device=logprobs.device).index_put((row, index), logprobs)


def _exact_logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    """The output layer, in float32 at least: bfloat16 logits near 16 are 0.1 apart, and that would be the log-probs' error."""
    if hidden.dtype in (torch.float32, torch.float64):
        return head(hidden)
    bias = None if head.bias is None else head.bias.float()
    return nn.functional.linear(hidden.float(), head.weight.float(), bias)


def forward_end_scores(score_model: PreTrainedModel, input_ids: Tensor, lengths: Tensor) -> Tensor:
    """Scores float32 ``[B]`` at each row's last token, ``lengths`` being those of prompt and response together."""
    hidden = score_model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    rows = torch.arange(input_ids.shape[0], device=input_ids.device)
    scores: Tensor = score_head(score_model)(hidden[rows, lengths - 1])
    return scores[:, 0].float()


def checkpoint_layers(module: nn.Module) -> None:
    """From now on keep only what enters each layer of `module`, and compute the rest again in the backward pass.

    In place, by each layer's own `forward`: parameters keep their names, and no layer is told that it trains, which would
    switch dropout on. Gradients are the same numbers.

    Raises:
        DataError: the model has no layers that can be computed again.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise DataError("checkpoint_activations: this model's layers cannot be computed again; switch it off")
    for layer in layers:
        # ZeRO 3 has partitioned the weights that a layer saved by the time it is computed again: no look at their shapes.
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
        )


class ResponseLogprobs(nn.Module):
    """`forward_response_logprobs` as a module, for engines that gather parameters in module hooks."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, prompt_lengths: Tensor, response_lengths: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """Float32 ``[B, R]``."""
        return forward_response_logprobs(self.model, input_ids, prompt_lengths, response_lengths, temperature)


class EndScores(nn.Module):
    """`forward_end_scores` as a module."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Float32 ``[B]``."""
        return forward_end_scores(self.model, input_ids, lengths)


@dataclass(frozen=True)
class ValueHead:
    """How one value head starts: value = ``score_scale`` * score + ``bias``.

    ``ValueHead(score_scale=1)`` predicts what the trunk's score model says; ``ValueHead(bias=mean of g)`` starts fresh.
    """

    bias: float = 0.0
    score_scale: float = 0.0


class SharedCritic(nn.Module):
    """One trunk with a value per head and token; with one head it is a separate critic."""

    def __init__(self, trunk: nn.Module, hidden_size: int, heads: Sequence[ValueHead], score_weight: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.Linear(hidden_size, len(heads), dtype=score_weight.dtype)
        with torch.no_grad():
            for index, head in enumerate(heads):
                self.heads.weight[index] = head.score_scale * score_weight[0]
                self.heads.bias[index] = head.bias

    @classmethod
    def from_score_model(
        cls, path: Path | str, heads: Sequence[ValueHead], dtype: Dtype = torch.float32
    ) -> SharedCritic:
        """On the trunk of the score model at `path`; a ``score_scale`` refers to that model's score."""
        model = load_score_model(path, dtype)
        return cls(model.base_model, model.config.hidden_size, heads, score_head(model).weight)

    def forward(
        self, input_ids: Tensor, prompt_lengths: Tensor | None = None, response_lengths: Tensor | None = None
    ) -> Tensor:
        """Values float32 ``[B, T, H]``; with lengths ``[B, R, H]``, each before its response token is read."""
        hidden = self.trunk(input_ids=input_ids, use_cache=False).last_hidden_state
        values: Tensor = self.heads(hidden).float()
        if prompt_lengths is None or response_lengths is None:
            return values
        return at_response_positions(values, prompt_lengths, response_lengths)
