"""Which critics a run has and where their values start; and the policy's parameters as generators name them.

Modules are called whole (`module(inputs…)`), never through a submodule, so that ZeRO 3 can gather their parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from configs.exits import StoppedError
from configs.schema.signals import ConstraintSettings
from learner.experience import REWARD, cost_signal
from learner.models import SharedCritic, ValueHead, load_tokenizer, save_model


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
) -> SharedCritic:
    """A critic whose values start at what its signals' terminal scores would be.

    The trunk comes from the model of the first of `signals` that has one (the reward model of a shared critic). A head
    whose g is linear in that model's score starts as it: the reward's (r - mean)/std, and C/scale of a `mean` measure.
    Every other head is zero with the mean of g as bias.

    Args:
        cost_means: mean g per constraint, already divided by its scale; missing means 0.

    Raises:
        StoppedError: there is no model to start from.
    """
    paths = {cost_signal(name): path for name, path in cost_paths.items()}
    if reward_model_path is not None:
        paths[REWARD] = reward_model_path
    origin = next((signal for signal in (*signals, *paths) if signal in paths), None)
    if origin is None:
        raise StoppedError(
            f"the critic of {', '.join(signals)} has no score model to start from: train a reward or cost model"
        )
    mean, std = reward_normaliser
    heads = []
    for signal in signals:
        name = signal.removeprefix("cost/")
        if signal == REWARD:
            heads.append(ValueHead(bias=-mean / std, score_scale=1 / std) if origin == REWARD else ValueHead())
        elif origin == signal and constraints[name].measure == "mean":
            heads.append(ValueHead(score_scale=1 / constraints[name].effective_scale))
        else:
            heads.append(ValueHead(bias=cost_means.get(name, 0.0)))
    return SharedCritic.from_score_model(paths[origin], heads)


def plain_name(name: str) -> str:
    """A parameter of `models.ResponseLogprobs` by its name in the Hugging Face model, as generators know it."""
    return name.removeprefix("model.")


def named_shapes(policy: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Plain name and whole shape (also under ZeRO 3) of each parameter, in the order they are sent; tied ones once."""
    return [(plain_name(name), tuple(getattr(one, "ds_shape", one.shape))) for name, one in policy.named_parameters()]


def save_policy_folder(state: Mapping[str, Tensor], origin: Path, path: Path) -> None:
    """Write gathered parameters as a Hugging Face folder, with the configuration and tokenizer of `origin`.

    Raises:
        StoppedError: the parameters are not those of the model at `origin`.
    """
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(origin))
    wanted = {name for name, _ in model.named_parameters()}
    if wanted != set(state):
        raise StoppedError(
            f"the policy cannot be saved: parameters {sorted(wanted ^ set(state))} do not fit the model at {origin}"
        )
    model.load_state_dict(dict(state), strict=False)  # tied weights are in it once
    save_model(model, load_tokenizer(origin), path)
