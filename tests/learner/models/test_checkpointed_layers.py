"""Layers that are computed again in the backward pass: the same numbers, less kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.resources.planning.sizes import ModelShape
from configs.exits import DataError
from learner.models.modules import ResponseLogprobs, checkpoint_layers

LAYERS, HIDDEN, HEADS, MLP, VOCABULARY, ROWS, LENGTH = 4, 64, 4, 192, 50, 8, 32


def policy() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        intermediate_size=MLP,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    return ids, torch.full((ROWS,), LENGTH // 2), torch.full((ROWS,), LENGTH // 2)


def kept_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of different storages that a forward pass keeps for its backward pass, its parameters left out."""
    own = {one.untyped_storage().data_ptr() for one in module.parameters()}
    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: (held.append(one), one)[1], lambda one: one):
        result = forward()
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}
    del result
    return sum(size for pointer, size in storages.items() if pointer not in own)


def test_gradients_are_the_same_numbers_and_names_stay() -> None:
    found = {}
    for checkpointed in (False, True):
        module = ResponseLogprobs(policy())
        names = [name for name, _ in module.named_parameters()]
        if checkpointed:
            checkpoint_layers(module)
        module(*inputs()).sum().backward()
        assert [name for name, _ in module.named_parameters()] == names
        found[checkpointed] = [one.grad for one in module.parameters()]
    for plain, again in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(plain, again, rtol=0, atol=0)


def test_the_planned_activations_are_what_pytorch_keeps() -> None:
    shape = ModelShape(LAYERS, HIDDEN, HEADS, 2, HIDDEN // HEADS, MLP, VOCABULARY, tied=True)
    trunk = policy().model
    kept = kept_bytes(trunk, lambda: trunk(input_ids=inputs()[0], use_cache=False).last_hidden_state)
    planned = shape.activation_bytes(ROWS * LENGTH, 4)
    assert planned == pytest.approx(kept, rel=0.2)
    assert planned / shape.activation_bytes(ROWS * LENGTH, 4, checkpointed=True) > 2


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(DataError, match="checkpoint_activations"):
        checkpoint_layers(nn.Linear(2, 2))
