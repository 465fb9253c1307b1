"""Golden vectors: numbers computed by the papers' reference implementation (see vectors/README.md).

Every expected number here comes from a vector file; tolerances are that README's, for float64 (rtol = atol).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.advantages import generalised_advantages, shape_costs, shape_rewards
from learner.losses import (
    cost_model_loss,
    critic_loss,
    gather_log_probs,
    masked_mean,
    policy_loss,
    reward_model_loss,
)
from learner.reference_step import (
    ReferenceBatch,
    ReferenceSettings,
    ReferenceStep,
    reference_episode_cost,
    reference_step,
)
from learner.signals.combine import combine_advantages
from learner.signals.multiplier import LogMultiplier

Case = Mapping[str, Any]
TIGHT = 1e-9
LOOSE = 1e-6

NO_CHECKER_YET = ("dpo_", "normalizer_", "arena_metrics", "collators", "score_head", "dataset_sampling")
"""Prefixes of vectors whose code lives elsewhere or is not written; any other name without a checker fails."""


def tensor(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def mask_of(numbers: Any) -> Tensor:
    return torch.tensor(numbers).bool()


def leaf(numbers: Any) -> Tensor:
    return tensor(numbers).requires_grad_()


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, of, retain_graph=True)
    return result


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    actual = actual.detach().numpy() if isinstance(actual, Tensor) else actual
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=tolerance, atol=tolerance)


def check_actor_loss_ppo(inputs: Case, expected: Case) -> None:
    current = leaf(inputs["log_probs"])
    loss = policy_loss(
        current, tensor(inputs["old_log_probs"]), tensor(inputs["advantages"]), mask_of(inputs["mask"]),
        clip_ratio=inputs["clip_range_ratio"],
    )  # fmt: skip
    assert_close(loss, expected["loss"], TIGHT)
    assert_close(gradient(loss, current), expected["grad_log_probs"], TIGHT)


def check_actor_loss_ppo_lag(inputs: Case, expected: Case) -> None:
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        combined = combine_advantages(
            tensor(inputs["reward_advantages"]),
            {"cost": tensor(inputs["cost_advantages"])},
            {"cost": case["lambda"]},
            {},
        )
        current = leaf(inputs["log_probs"])
        loss = policy_loss(
            current,
            tensor(inputs["old_log_probs"]),
            combined,
            mask_of(inputs["mask"]),
            clip_ratio=case["clip_range_ratio"],
        )
        assert_close(loss, wanted["loss"], TIGHT)
        assert_close(gradient(loss, current), wanted["grad_log_probs"], TIGHT)


def check_critic_loss(inputs: Case, expected: Case) -> None:
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        values = leaf(inputs["values"])
        loss = critic_loss(
            values, tensor(inputs["old_values"]), tensor(inputs["returns"]), mask_of(inputs["mask"]),
            clip_value=case["clip_range_value"],
        )  # fmt: skip
        assert_close(loss, wanted["loss"], TIGHT)
        assert_close(gradient(loss, values), wanted["grad_values"], TIGHT)


def end_scores(inputs: Case, scores: Tensor) -> tuple[Tensor, Tensor]:
    ends = scores.gather(1, torch.tensor(inputs["end_index"])[:, None]).squeeze(1)
    first, second = ends.chunk(2)
    return first, second


def check_reward_loss(inputs: Case, expected: Case) -> None:
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        if case["token_wise"]:
            continue  # the product scores responses at their end only
        scores = leaf(inputs["scores"])
        better, worse = end_scores(inputs, scores)
        result = reward_model_loss(better, worse, regularisation=case["regularization"])
        assert_close(better, expected["higher_end_reward"], TIGHT)
        assert_close(worse, expected["lower_end_reward"], TIGHT)
        assert_close(result.loss, wanted["loss"], TIGHT)
        assert_close(result.accuracy, wanted["accuracy"], LOOSE)
        assert_close(gradient(result.loss, scores), wanted["grad_scores"], TIGHT)


def check_cost_loss(inputs: Case, expected: Case) -> None:
    # The file's safety signs are +1 for safe; our z is +1 for unsafe.
    z_safer, z_less_safe = -tensor(inputs["safer_safety_sign"]), -tensor(inputs["unsafer_safety_sign"])
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        if case["token_wise"]:
            continue  # as in check_reward_loss
        scores = leaf(inputs["scores"])
        safer, less_safe = end_scores(inputs, scores)
        result = cost_model_loss(safer, less_safe, z_safer, z_less_safe, regularisation=case["regularization"])
        assert_close(safer, expected["lower_end_cost"], TIGHT)
        assert_close(less_safe, expected["higher_end_cost"], TIGHT)
        assert_close(result.loss, wanted["loss"], TIGHT)
        assert_close(result.accuracy, wanted["accuracy"], LOOSE)
        assert result.sign_accuracy is not None
        assert_close(result.sign_accuracy, wanted["accuracy_sign"], LOOSE)
        assert_close(gradient(result.loss, scores), wanted["grad_scores"], TIGHT)


def check_gae(inputs: Case, expected: Case) -> None:
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        start = case["start"]
        advantages, returns = generalised_advantages(
            tensor(case["rewards"])[:, start:], tensor(case["values"])[:, start:], mask_of(case["mask"])[:, start:],
            gamma=case["gamma"], gae_lambda=case["gae_lambda"],
        )  # fmt: skip
        assert_close(advantages, wanted["advantages"], TIGHT)
        assert_close(returns, wanted["returns"], TIGHT)


def check_gather_log_probs(inputs: Case, expected: Case) -> None:
    assert_close(
        gather_log_probs(tensor(inputs["logits"]), torch.tensor(inputs["labels"])), expected["log_probs"], TIGHT
    )


def check_masked_mean(inputs: Case, expected: Case) -> None:
    assert_close(masked_mean(tensor(inputs["x"]), mask_of(inputs["mask"])), expected["masked"], TIGHT)
    assert_close(masked_mean(tensor(inputs["x"])), expected["unmasked"], TIGHT)


def check_kl_shaping(inputs: Case, expected: Case) -> None:
    log_probs, reference, mask = tensor(inputs["log_probs"]), tensor(inputs["ref_log_probs"]), mask_of(inputs["mask"])
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        kl, clip = case["kl_coeff"], case["clip_range_score"]
        rewards = shape_rewards(log_probs, reference, tensor(inputs["reward"]), mask, kl_coefficient=kl, clip=clip)
        assert_close(rewards, wanted["rewards"], TIGHT)
        if "costs" in wanted:
            costs = shape_costs(log_probs, reference, tensor(inputs["cost"]), mask, kl_coefficient=kl, clip=clip)
            assert_close(costs, wanted["costs"], TIGHT)


def check_kl_shaping_reward_shaping(inputs: Case, expected: Case) -> None:
    shaped = tensor(inputs["reward"]) - inputs["lambda"] * tensor(inputs["cost"])
    assert_close(shaped, expected["shaped_reward"], TIGHT)
    rewards = shape_rewards(
        tensor(inputs["log_probs"]), tensor(inputs["ref_log_probs"]), shaped, mask_of(inputs["mask"]),
        kl_coefficient=inputs["kl_coeff"], clip=inputs["clip_range_score"],
    )  # fmt: skip
    assert_close(rewards, expected["rewards"], TIGHT)


def check_log_lambda_trajectory(inputs: Case, expected: Case) -> None:
    for case, steps in zip(inputs["cases"], expected["cases"], strict=True):
        multiplier = LogMultiplier(
            initial=case["lambda_init"],
            lr=case["lambda_lr"],
            cap=case["lambda_max"] or 1e6,
            delay=case["lambda_update_delay_steps"],
        )
        windows: list[list[float]] = [[] for _ in case["costs"][0]]
        for new_costs, wanted in zip(case["costs"], steps, strict=True):
            size = case["episode_cost_window_size"]
            windows = [[*window, *new][-size:] for window, new in zip(windows, new_costs, strict=True)]
            episode_cost = reference_episode_cost(windows)
            multiplier.update(episode_cost, case["threshold"])
            assert_close(episode_cost, wanted["episode_cost"], LOOSE)
            assert_close(multiplier.log_value, wanted["log_lambda"], LOOSE)
            assert_close(multiplier.value, wanted["lambda"], LOOSE)


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
    settings = ReferenceSettings(
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
    batch: ReferenceBatch, metrics: Mapping[str, float], gradients: Mapping[str, Tensor], expected: Case
) -> None:
    after = expected["post_rollout"]
    assert_close(batch.log_probs, after["log_probs"], TIGHT)
    assert_close(batch.reference_log_probs, after["ref_log_probs"], TIGHT)
    for name in ("reward", "cost"):
        if f"{name}_values" in after:
            assert_close(batch.terminal[name], after[name], TIGHT)
            assert_close(batch.values[name], after[f"{name}_values"], TIGHT)
    wanted = {name: value for name, value in expected["metrics"].items() if not name.endswith("_lr")}  # the optimiser's
    assert set(wanted) <= set(metrics), f"metrics without a value here: {sorted(set(wanted) - set(metrics))}"
    for name, value in wanted.items():
        np.testing.assert_allclose(metrics[name], value, rtol=LOOSE, atol=LOOSE, err_msg=name)
    for name in (key for key in expected if key.startswith("grad_")):
        assert_close(gradients[name], expected[name], TIGHT)


def check_rl_step_ppo(inputs: Case, expected: Case) -> None:
    batch = rollout(inputs, {"reward": tensor(inputs["reward_end_scores"])}, {"reward": "reward"})
    step, gradients = run_step(inputs, batch)
    check_step(batch, step.metrics, gradients, expected)


def episode_cost_of(inputs: Case) -> float:
    return reference_episode_cost([[*inputs.get("old_episode_costs", []), *inputs["cost_end_scores"]]])


def check_rl_step_ppo_lag(inputs: Case, expected: Case) -> None:
    episode_cost = episode_cost_of(inputs)
    multiplier = LogMultiplier(inputs["lambda_before"], lr=inputs["lambda_lr"], cap=inputs["lambda_max"] or 1e6)
    multiplier.update(episode_cost, inputs["threshold"])
    assert_close(multiplier.log_value, expected["log_lambda_after"], LOOSE)
    terminal = {"reward": tensor(inputs["reward_end_scores"]), "cost": tensor(inputs["cost_end_scores"])}
    batch = rollout(inputs, terminal, {"reward": "reward", "cost": "cost"})
    step, gradients = run_step(inputs, batch, multiplier.value)
    check_step(batch, {**step.metrics, "lambda": multiplier.value, "episode_cost": episode_cost}, gradients, expected)


def check_rl_step_ppo_reward_shaping(inputs: Case, expected: Case) -> None:
    reward, cost = tensor(inputs["reward_end_scores"]), tensor(inputs["cost_end_scores"])
    batch = rollout(inputs, {"reward": reward - inputs["lambda"] * cost}, {"reward": "reward"})
    step, gradients = run_step(inputs, batch)
    prefix = "shaped_reward"
    metrics = {
        name.replace("reward", prefix, 1) if name != "reward_critic_loss" else name: value
        for name, value in step.metrics.items()
    }
    metrics |= {"reward": float(reward.mean()), "cost": float(cost.mean()), "episode_cost": episode_cost_of(inputs)}
    after = expected["post_rollout"]
    assert_close(reward, after["reward"], TIGHT)
    assert_close(batch.values["reward"], after["shaped_reward_values"], TIGHT)
    without_values = {name: value for name, value in after.items() if name in ("log_probs", "ref_log_probs")}
    check_step(batch, metrics, gradients, {**expected, "post_rollout": without_values})


CHECKERS: Mapping[str, Callable[[Case, Case], None]] = {
    "actor_loss_ppo": check_actor_loss_ppo,
    "actor_loss_ppo_lag": check_actor_loss_ppo_lag,
    "critic_loss": check_critic_loss,
    "reward_loss": check_reward_loss,
    "cost_loss": check_cost_loss,
    "gae": check_gae,
    "gather_log_probs": check_gather_log_probs,
    "masked_mean": check_masked_mean,
    "kl_shaping_ppo": check_kl_shaping,
    "kl_shaping_ppo_lag": check_kl_shaping,
    "kl_shaping_reward_shaping": check_kl_shaping_reward_shaping,
    "log_lambda_trajectory": check_log_lambda_trajectory,
    "rl_step_ppo": check_rl_step_ppo,
    "rl_step_ppo_lag": check_rl_step_ppo_lag,
    "rl_step_ppo_reward_shaping": check_rl_step_ppo_reward_shaping,
}


def test_our_functions_reproduce_the_reference(golden_file: Path) -> None:
    name = golden_file.stem
    if name not in CHECKERS and name.startswith(NO_CHECKER_YET):
        pytest.skip(f"no checker for {name} yet")
    assert name in CHECKERS, f"unknown golden vector {name}: write its checker, or list it in NO_CHECKER_YET"
    vector = json.loads(golden_file.read_text())
    CHECKERS[name](vector["inputs"], vector["expected"])
