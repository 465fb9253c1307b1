"""Which critics a run has and where their values start; and the policy's parameters as generators name them.

Modules are called whole (`module(inputs…)`), never through a submodule, so that ZeRO 3 can gather their parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from configs.exits import StoppedError
from configs.schema.signals import ConstraintSettings
from learner.algorithms.experience import REWARD, cost_signal
from learner.model_files.remote_code import is_allowed
from learner.models.modules import SharedCritic, ValueHead, load_policy, load_tokenizer, save_model
from learner.models.score_models.folders import Affine, affine_of


def critic_signals(arrangement: Literal["shared", "separate"], constraints: Sequence[str]) -> list[tuple[str, ...]]:
    """Which signals each critic predicts: one critic for all, or one each."""
    signals = (REWARD, *map(cost_signal, constraints))
    return [signals] if arrangement == "shared" else [(signal,) for signal in signals]


def new_critic(
    signals: Sequence[str],
    reward_model_path: Path | None,
    cost_paths: Mapping[str, Path],
    reward_normaliser: tuple[float, float],
    constraints: Mapping[str, ConstraintSettings],
    cost_means: Mapping[str, float],
    *,
    policy_path: Path | None = None,
    reward_start: float = 0.0,
) -> SharedCritic:
    """A critic whose values start at what its signals' terminal scores would be.

    The trunk comes from the model of the first of `signals` that has one (the reward model of a shared critic), and from
    the policy where none has: a scorer that is no model of this run lends no trunk. A head whose g is linear in that
    model's score starts as it: the reward's (r - mean)/std, and C/scale of a `mean` measure, ``affine.json`` included.
    Every other head is zero with the mean of g as bias.

    Args:
        reward_model_path, cost_paths: models that this run trained.
        cost_means: mean g per constraint, already divided by its scale; missing means 0.
        policy_path: the policy that PPO starts from.
        reward_start: mean of the normalised reward, for a reward head without a model of its own.

    Raises:
        StoppedError: there is no model to start from.
    """
    paths = {cost_signal(name): path for name, path in cost_paths.items()}
    if reward_model_path is not None:
        paths[REWARD] = reward_model_path
    origin = next((signal for signal in signals if signal in paths), None)
    if origin is None and policy_path is None:
        origin = next(iter(paths), None)
    if origin is None and policy_path is None:
        raise StoppedError(
            f"the critic of {', '.join(signals)} has no score model to start from: train a reward or cost model"
        )
    affine = affine_of(paths[origin]) if origin is not None else None
    heads = []
    for signal in signals:
        name = signal.removeprefix("cost/")
        if signal == REWARD:
            heads.append(_reward_head(reward_normaliser, affine) if origin == REWARD else ValueHead(bias=reward_start))
        elif origin == signal and constraints[name].measure == "mean":
            heads.append(_mean_cost_head(constraints[name].effective_scale, affine))
        else:
            heads.append(ValueHead(bias=cost_means.get(name, 0.0)))
    if origin is not None:
        return SharedCritic.from_score_model(paths[origin], heads)
    assert policy_path is not None
    return _critic_on_policy(policy_path, heads)


def _reward_head(normaliser: tuple[float, float], affine: Affine | None) -> ValueHead:
    """Predicts (r - mean)/std of a model whose raw score is the trunk's."""
    mean, std = normaliser
    if affine is None:
        return ValueHead(bias=-mean / std, score_scale=1 / std)
    return ValueHead(bias=(affine.offset - mean) / std, score_scale=affine.scale / std)


def _mean_cost_head(scale: float, affine: Affine | None) -> ValueHead:
    """Predicts C/scale of a model whose raw score is the trunk's."""
    if affine is None:
        return ValueHead(score_scale=1 / scale)
    return ValueHead(bias=affine.offset / scale, score_scale=affine.scale / scale)


def _critic_on_policy(path: Path, heads: Sequence[ValueHead]) -> SharedCritic:
    """A critic on the policy's trunk; its heads have their biases and nothing else."""
    policy = load_policy(path)
    width = int(policy.get_output_embeddings().in_features)
    return SharedCritic(policy.base_model, width, heads, torch.zeros(1, width))


def plain_name(name: str) -> str:
    """A parameter of `models.ResponseLogprobs` by its name in the Hugging Face model, as generators know it."""
    return name.removeprefix("model.")


def named_shapes(policy: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Plain name and whole shape (also under ZeRO 3) of each parameter, in the order they are sent; tied ones once."""
    return [
        (plain_name(name), tuple(getattr(parameter, "ds_shape", parameter.shape)))
        for name, parameter in policy.named_parameters()
    ]


def save_policy_folder(state: Mapping[str, Tensor], origin: Path, path: Path) -> None:
    """Write gathered parameters as a Hugging Face folder, with the configuration and tokenizer of `origin`.

    Raises:
        StoppedError: the parameters are not those of the model at `origin`.
    """
    config = AutoConfig.from_pretrained(origin, trust_remote_code=is_allowed())
    # A pretrained origin may be in bfloat16: what was learned in float32 is not to be cut to that.
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in state.values()}, config.dtype or torch.float32)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=is_allowed())
    parameter_names = {name for name, _ in model.named_parameters()}
    if parameter_names != set(state):
        raise StoppedError(
            f"the policy cannot be saved: parameters {sorted(parameter_names ^ set(state))} do not fit the model at {origin}"
        )
    model.load_state_dict(dict(state), strict=False)  # tied weights are in it once
    save_model(model, load_tokenizer(origin), path)
