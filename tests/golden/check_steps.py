"""Checkers of whole steps: PPO, PPO-Lag and reward shaping, from the rollout to every metric and gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from learner.models.log_probs import gather_log_probs
from tests.golden.papers_reference.step import (
    ReferenceBatch,
    ReferenceConstants,
    ReferenceStep,
    reference_episode_cost,
    reference_multiplier,
    reference_step,
    shaped_reward,
)
from tests.golden.tools import LOOSE, TIGHT, Case, assert_close, gradient, leaf, tensor


def rollout(inputs: Case, terminal: Mapping[str, Tensor], critics: Mapping[str, str]) -> ReferenceBatch:
    """The batch after the rollout; ``critics`` maps our signal to the file's critic name."""
    ids = torch.tensor(inputs["input_ids"])
    return ReferenceBatch(
        input_ids=ids,
        attention_mask=torch.tensor(inputs["attention_mask"]),
        prompt_length=inputs["prompt_length"],
        log_probs=gather_log_probs(tensor(inputs["rollout_logits"])[:, :-1], ids[:, 1:]),
        reference_log_probs=gather_log_probs(tensor(inputs["ref_logits"])[:, :-1], ids[:, 1:]),
        terminal=terminal,
        values={name: tensor(inputs[f"rollout_{critic}_critic_scores"])[:, :-1] for name, critic in critics.items()},
    )


def run_step(inputs: Case, batch: ReferenceBatch, multiplier: float = 0.0) -> tuple[ReferenceStep, dict[str, Tensor]]:
    """The step and the gradients by the file's names."""
    settings = ReferenceConstants(
        kl_coefficient=inputs["kl_coeff"],
        clip_ratio=inputs["clip_range_ratio"],
        clip_score=inputs["clip_range_score"],
        clip_value=inputs["clip_range_value"],
        gamma=inputs["gamma"],
        gae_lambda=inputs["gae_lambda"],
    )
    logits = leaf(inputs["new_logits"])
    scores = {name: leaf(inputs[f"new_{name}_critic_scores"]) for name in batch.values}
    step = reference_step(batch, logits, scores, settings, multiplier)
    gradients = {"grad_actor_logits": gradient(step.actor_loss, logits)}
    for name, loss in step.critic_losses.items():
        gradients[f"grad_{name}_critic_scores"] = gradient(loss, scores[name])
    return step, gradients


def check_step(
    expected: Case,
    after: Mapping[str, Tensor],
    metrics: Mapping[str, float],
    results: Mapping[str, Tensor | float],
) -> None:
    """Every number that the file holds, by its name; a name that we have nothing for fails.

    Args:
        after: what the rollout leaves, ``post_rollout``.
        results: gradients and whatever else stands beside ``metrics``.
    """
    rates = {name for name in expected["metrics"] if name.endswith("_lr")}  # constants of the reference's script
    for what, found, wanted in (
        ("post_rollout", after, expected["post_rollout"]),
        ("metrics", metrics, {name: value for name, value in expected["metrics"].items() if name not in rates}),
        ("results", results, {name: value for name, value in expected.items() if name not in PARTS}),
    ):
        missing = sorted(set(wanted) - set(found))
        assert not missing, f"{what} that the file holds and we do not compute: {missing}"
        for name, value in wanted.items():
            tight = what == "post_rollout" or name.startswith("grad_")
            assert_close(found[name], value, TIGHT if tight else LOOSE, f"{what} {name}")


PARTS = ("post_rollout", "metrics")


def after_rollout(batch: ReferenceBatch, names: Mapping[str, str]) -> dict[str, Tensor]:
    """``post_rollout`` of the critics' signals, ``names`` being the file's for ours."""
    return {
        "log_probs": batch.log_probs,
        "ref_log_probs": batch.reference_log_probs,
        **{name: batch.terminal[signal] for signal, name in names.items()},
        **{f"{name}_values": batch.values[signal] for signal, name in names.items()},
    }


def check_rl_step_ppo(inputs: Case, expected: Case) -> None:
    batch = rollout(inputs, {"reward": tensor(inputs["reward_end_scores"])}, {"reward": "reward"})
    step, gradients = run_step(inputs, batch)
    check_step(expected, after_rollout(batch, {"reward": "reward"}), step.metrics, gradients)


def episode_cost_of(inputs: Case) -> float:
    """J of one rank: the window holds the old costs, then the new ones."""
    return reference_episode_cost([[*inputs.get("old_episode_costs", []), *inputs["cost_end_scores"]]])


def check_rl_step_ppo_lag(inputs: Case, expected: Case) -> None:
    episode_cost = episode_cost_of(inputs)
    multiplier = reference_multiplier(inputs["lambda_before"], lr=inputs["lambda_lr"], maximum=inputs["lambda_max"])
    multiplier.update(episode_cost, inputs["threshold"])
    terminal = {"reward": tensor(inputs["reward_end_scores"]), "cost": tensor(inputs["cost_end_scores"])}
    batch = rollout(inputs, terminal, {"reward": "reward", "cost": "cost"})
    step, gradients = run_step(inputs, batch, multiplier.value)
    metrics = {**step.metrics, "lambda": multiplier.value, "episode_cost": episode_cost}
    results = {**gradients, "log_lambda_after": multiplier.log_value}
    check_step(expected, after_rollout(batch, {"reward": "reward", "cost": "cost"}), metrics, results)


def check_rl_step_ppo_reward_shaping(inputs: Case, expected: Case) -> None:
    reward, cost = tensor(inputs["reward_end_scores"]), tensor(inputs["cost_end_scores"])
    # The one critic is the reward critic in the file's names, and learns the shaped stream.
    batch = rollout(inputs, {"reward": shaped_reward(reward, cost, inputs["lambda"])}, {"reward": "reward"})
    step, gradients = run_step(inputs, batch)
    shaped = {f"shaped_{name}": value for name, value in step.metrics.items() if name in SHAPED}
    metrics = {name: value for name, value in step.metrics.items() if name not in SHAPED} | shaped
    metrics |= {"reward": float(reward.mean()), "cost": float(cost.mean()), "lambda": inputs["lambda"]}
    metrics["episode_cost"] = episode_cost_of(inputs)
    after = {**after_rollout(batch, {"reward": "shaped_reward"}), "reward": reward, "cost": cost}
    check_step(expected, after, metrics, gradients)


SHAPED = ("reward", "reward_with_kl_penalty", "reward_advantage", "reward_return", "reward_value")
"""Metrics of our reward signal that the reward-shaping files call ``shaped_…``."""
