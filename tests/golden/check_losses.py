"""Checkers of the vectors of losses, advantages and the multiplier: the functions that training calls."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.algorithms.advantages import generalised_advantages, last_valid_index, shape_costs, shape_rewards
from learner.algorithms.dpo import dpo_losses
from learner.algorithms.losses import (
    PreferenceLoss,
    cost_model_loss,
    critic_loss,
    masked_mean,
    policy_loss,
    reward_model_loss,
)
from learner.models.log_probs import gather_log_probs
from learner.signals.combine import combine_advantages
from tests.golden.papers_reference.spans import (
    at,
    divergence_index,
    dpo_span,
    span_sum,
    token_wise_cost_loss,
    token_wise_reward_loss,
)
from tests.golden.papers_reference.step import reference_episode_cost, reference_multiplier, shaped_reward
from tests.golden.tools import LOOSE, TIGHT, Case, assert_close, gradient, leaf, mask_of, tensor


def check_actor_loss_ppo(inputs: Case, expected: Case) -> None:
    current = leaf(inputs["log_probs"])
    loss = policy_loss(
        current,
        tensor(inputs["old_log_probs"]),
        tensor(inputs["advantages"]),
        mask_of(inputs["mask"]),
        clip_ratio=inputs["clip_range_ratio"],
    )
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
            values,
            tensor(inputs["old_values"]),
            tensor(inputs["returns"]),
            mask_of(inputs["mask"]),
            clip_value=case["clip_range_value"],
        )
        assert_close(loss, wanted["loss"], TIGHT)
        assert_close(gradient(loss, values), wanted["grad_values"], TIGHT)


def check_reward_loss(inputs: Case, expected: Case) -> None:
    first = divergence_index(torch.tensor(inputs["better_input_ids"]), torch.tensor(inputs["worse_input_ids"]))
    better_ends, worse_ends = pair_ends(inputs, "better", "worse")
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        scores = leaf(inputs["scores"])
        better, worse = scores.chunk(2)
        weight = case["regularization"]
        if case["token_wise"]:
            result = token_wise_reward_loss(better, worse, first, better_ends, worse_ends, regularisation=weight)
        else:
            result = reward_model_loss(at(better, better_ends), at(worse, worse_ends), regularisation=weight)
        assert_close(at(better, better_ends), expected["higher_end_reward"], TIGHT)
        assert_close(at(worse, worse_ends), expected["lower_end_reward"], TIGHT)
        check_preference(result, scores, wanted)


def check_cost_loss(inputs: Case, expected: Case) -> None:
    # The file's safety signs are +1 for safe; our z is +1 for unsafe.
    z_safer, z_less_safe = -tensor(inputs["safer_safety_sign"]), -tensor(inputs["unsafer_safety_sign"])
    first = divergence_index(torch.tensor(inputs["safer_input_ids"]), torch.tensor(inputs["unsafer_input_ids"]))
    safer_ends, less_safe_ends = pair_ends(inputs, "safer", "unsafer")
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        scores = leaf(inputs["scores"])
        safer, less_safe = scores.chunk(2)
        weight = case["regularization"]
        if case["token_wise"]:
            result = token_wise_cost_loss(
                safer, less_safe, z_safer, z_less_safe, first, safer_ends, less_safe_ends, regularisation=weight
            )
        else:
            result = cost_model_loss(
                at(safer, safer_ends), at(less_safe, less_safe_ends), z_safer, z_less_safe, regularisation=weight
            )
        assert_close(at(safer, safer_ends), expected["lower_end_cost"], TIGHT)
        assert_close(at(less_safe, less_safe_ends), expected["higher_end_cost"], TIGHT)
        assert result.sign_accuracy is not None
        assert_close(result.sign_accuracy, wanted["accuracy_sign"], LOOSE)
        check_preference(result, scores, wanted)


def pair_ends(inputs: Case, first: str, second: str) -> tuple[Tensor, Tensor]:
    """Last valid positions ``[B]`` of the two sides, by the masks; the file's ``end_index`` must say the same."""
    ends = [last_valid_index(mask_of(inputs[f"{side}_mask"])) for side in (first, second)]
    if "end_index" in inputs:
        assert torch.cat(ends).tolist() == inputs["end_index"]
    return ends[0], ends[1]


def check_preference(result: PreferenceLoss, scores: Tensor, wanted: Case) -> None:
    assert_close(result.loss, wanted["loss"], TIGHT)
    assert_close(result.accuracy, wanted["accuracy"], LOOSE)
    assert_close(gradient(result.loss, scores), wanted["grad_scores"], TIGHT)


def check_dpo_loss_standard(inputs: Case, expected: Case) -> None:
    check_dpo(inputs, expected, quirk=False)


def check_dpo_loss_reference_quirk(inputs: Case, expected: Case) -> None:
    check_dpo(inputs, expected, quirk=True)


def check_dpo(inputs: Case, expected: Case, *, quirk: bool) -> None:
    ids = {side: torch.tensor(inputs[f"{side}_input_ids"]) for side in ("better", "worse")}
    diverges = divergence_index(ids["better"], ids["worse"])
    ends = dict(zip(ids, pair_ends(inputs, "better", "worse"), strict=True))

    def summed(logits: Tensor) -> tuple[Tensor, Tensor]:
        sides = []
        for side, rows in zip(("better", "worse"), logits.chunk(2), strict=True):
            log_probs = gather_log_probs(rows[:, :-1], ids[side][:, 1:])
            sides.append(span_sum(log_probs, *dpo_span(diverges, ends[side], quirk=quirk)))
        return sides[0], sides[1]

    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        policy = leaf(inputs["policy_logits"])
        result = dpo_losses(*summed(policy), *summed(tensor(inputs["ref_logits"])), beta=case["scale_coeff"])
        better, worse = result.better_rewards, result.worse_rewards
        found = {
            "loss": result.loss,
            "better_sample_reward": better,
            "worse_sample_reward": worse,
            "reward": better + worse,
            "reward_accuracy": result.accuracy,
            "reward_margin": better - worse,
            "grad_policy_logits_sum_abs": gradient(result.loss, policy).abs().sum(),
        }
        for name, value in wanted.items():
            assert_close(found[name], value, LOOSE if name == "reward_accuracy" else TIGHT, name)


def check_gae(inputs: Case, expected: Case) -> None:
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        start = case["start"]
        advantages, returns = generalised_advantages(
            tensor(case["rewards"])[:, start:],
            tensor(case["values"])[:, start:],
            mask_of(case["mask"])[:, start:],
            gamma=case["gamma"],
            gae_lambda=case["gae_lambda"],
        )
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
    shaped = shaped_reward(tensor(inputs["reward"]), tensor(inputs["cost"]), inputs["lambda"])
    assert_close(shaped, expected["shaped_reward"], TIGHT)
    rewards = shape_rewards(
        tensor(inputs["log_probs"]),
        tensor(inputs["ref_log_probs"]),
        shaped,
        mask_of(inputs["mask"]),
        kl_coefficient=inputs["kl_coeff"],
        clip=inputs["clip_range_score"],
    )
    assert_close(rewards, expected["rewards"], TIGHT)


def check_log_lambda_trajectory(inputs: Case, expected: Case) -> None:
    for case, steps in zip(inputs["cases"], expected["cases"], strict=True):
        multiplier = reference_multiplier(
            case["lambda_init"],
            lr=case["lambda_lr"],
            maximum=case["lambda_max"],
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
