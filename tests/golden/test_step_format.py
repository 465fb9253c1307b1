"""The whole-step checkers on files of the documented format, with numbers that none of our functions had a part in.

``derive_step`` writes the update out row by row and token by token from the formulas (Schulman et al. 2016, 2017; paper B,
section 3.3), in torch only where a gradient is wanted; on the committed PPO step it gives the reference's own numbers. The
committed vectors hold no PPO-Lag and no reward-shaping step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import COMMITTED_VECTORS
from tests.golden.test_golden import check_file

PROMPT_WIDTH, WIDTH, VOCABULARY = 4, 10, 11
LENGTHS, PADS = (6, 4, 1, 5), (0, 1, 2, 3)
"""Of the four responses, and padding left of the four prompts."""

File = dict[str, dict[str, Any]]


def made_up_inputs(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(11)
    mask = np.zeros((4, WIDTH), dtype=int)
    for row, (pad, length) in enumerate(zip(PADS, LENGTHS, strict=True)):
        mask[row, pad : PROMPT_WIDTH + length] = 1
    inputs: dict[str, Any] = {
        "prompt_length": PROMPT_WIDTH,
        "input_ids": (rng.integers(2, VOCABULARY, (4, WIDTH)) * mask).tolist(),
        "attention_mask": mask.tolist(),
        "kl_coeff": 0.02,
        "clip_range_ratio": 0.2,
        "clip_range_score": 50.0,
        "clip_range_value": 5.0,
        "gamma": 1.0,
        "gae_lambda": 0.95,
    }
    for name in ("rollout_logits", "ref_logits", "new_logits"):
        inputs[name] = rng.normal(size=(4, WIDTH, VOCABULARY)).round(6).tolist()
    for name in ("reward_end_scores", "cost_end_scores"):
        inputs[name] = (2.0 * rng.normal(size=4)).round(6).tolist()
    for name in ("reward", "cost"):
        for when in ("rollout", "new"):
            inputs[f"{when}_{name}_critic_scores"] = (3.0 * rng.normal(size=(4, WIDTH))).round(6).tolist()
    return {**inputs, **changes}


def log_probs_of(logits: Tensor, ids: list[list[int]]) -> Tensor:
    """``[4, T - 1]``: log p of token t + 1 given what stands before it."""
    rows = []
    for row in range(4):
        each = [logits[row, t, ids[row][t + 1]] - torch.logsumexp(logits[row, t], dim=0) for t in range(WIDTH - 1)]
        rows.append(torch.stack(each))
    return torch.stack(rows)


def span(row: int) -> range:
    """Where the response tokens of a row are predicted, on the shifted axis."""
    return range(PROMPT_WIDTH - 1, PROMPT_WIDTH - 1 + LENGTHS[row])


def stream(inputs: Mapping[str, Any], log_ratios: Tensor, row: int, sign: float, score: float) -> list[float]:
    """The shaped per-token rewards (sign -1) or costs (sign +1) of one row's response."""
    bound, columns = inputs["clip_range_score"], span(row)
    values = [sign * inputs["kl_coeff"] * float(log_ratios[row, t]) for t in columns]
    values[-1] += score
    return [max(-bound, min(bound, value)) for value in values]


def advantages_of(inputs: Mapping[str, Any], rewards: list[float], values: list[float]) -> list[float]:
    """GAE as the sum it is: A_t = sum over l of (gamma*lambda)^l * delta_{t+l}."""
    gamma, discount, n = inputs["gamma"], inputs["gamma"] * inputs["gae_lambda"], len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [sum(discount ** (later - t) * deltas[later] for later in range(t, n)) for t in range(n)]


def derive_step(
    inputs: Mapping[str, Any], scores: Mapping[str, list[float]], critics: Mapping[str, str], multiplier: float
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """``post_rollout``, ``metrics`` and gradients; ``scores`` and ``critics`` (the file's critic name) by signal."""
    ids, mean = inputs["input_ids"], np.mean
    rollout, reference = (
        log_probs_of(torch.tensor(inputs[name], dtype=torch.float64), ids) for name in ("rollout_logits", "ref_logits")
    )
    logits = torch.tensor(inputs["new_logits"], dtype=torch.float64, requires_grad=True)
    current, log_ratios = log_probs_of(logits, ids), rollout - reference
    after: dict[str, Any] = {"log_probs": rollout.tolist(), "ref_log_probs": reference.tolist()}
    metrics: dict[str, Any] = {}
    gradients: dict[str, Any] = {}
    advantages: dict[str, list[list[float]]] = {}
    for signal, critic in critics.items():
        old = np.array(inputs[f"rollout_{critic}_critic_scores"])
        new = torch.tensor(inputs[f"new_{critic}_critic_scores"], dtype=torch.float64, requires_grad=True)
        after[f"{signal}_values"] = old[:, :-1].tolist()
        sign = 1.0 if signal == "cost" else -1.0
        streams = [stream(inputs, log_ratios, row, sign, scores[signal][row]) for row in range(4)]
        values = [[float(old[row, t]) for t in span(row)] for row in range(4)]
        found = [advantages_of(inputs, streams[row], values[row]) for row in range(4)]
        targets = [[a + v for a, v in zip(found[row], values[row], strict=True)] for row in range(4)]
        advantages[signal] = found
        row_losses = []
        for row in range(4):
            errors = []
            for t, before, target in zip(span(row), values[row], targets[row], strict=True):
                bound = inputs["clip_range_value"]
                clipped = torch.clamp(new[row, t], before - bound, before + bound)
                errors.append(torch.maximum((new[row, t] - target) ** 2, (clipped - target) ** 2))
            row_losses.append(torch.stack(errors).mean())
        loss = 0.5 * torch.stack(row_losses).mean()
        (critic_gradient,) = torch.autograd.grad(loss, new)
        gradients[f"grad_{critic}_critic_scores"] = critic_gradient.tolist()
        metrics |= {
            f"{critic}_critic_loss": loss.item(),
            signal: float(mean(scores[signal])),
            f"{signal}_with_kl_penalty": float(mean([sum(each) for each in streams])),
            f"{signal}_advantage": float(mean([mean(each) for each in found])),
            f"{signal}_return": float(mean([mean(each) for each in targets])),
            f"{signal}_value": float(mean([mean([new[row, t].item() for t in span(row)]) for row in range(4)])),
        }
    objective, *limited = critics
    row_losses = []
    for row in range(4):
        gains = []
        for index, t in enumerate(span(row)):
            advantage = advantages[objective][row][index]
            if limited:
                advantage = (advantage - multiplier * advantages["cost"][row][index]) / (1.0 + multiplier)
            ratio = torch.exp(current[row, t] - rollout[row, t])
            eps = inputs["clip_range_ratio"]
            gains.append(torch.minimum(advantage * ratio, advantage * torch.clamp(ratio, 1 - eps, 1 + eps)))
        row_losses.append(torch.stack(gains).mean())
    loss = -torch.stack(row_losses).mean()
    (actor_gradient,) = torch.autograd.grad(loss, logits)
    gradients["grad_actor_logits"] = actor_gradient.tolist()
    metrics |= {
        "actor_loss": loss.item(),
        "kl_divergence": float(mean([sum(float(log_ratios[row, t]) for t in span(row)) for row in range(4)])),
        "mean_generated_length": float(mean(LENGTHS)),
        "max_generated_length": float(max(LENGTHS)),
        "actor_lr": 1e-5,
        "reward_critic_lr": 5e-6,
    }
    return after, metrics, gradients


def lag_file(**changes: Any) -> File:
    dual = {
        "old_episode_costs": [1.25, -0.5, 2.0],
        "lambda_before": 0.8,
        "lambda_lr": 0.1,
        "lambda_max": 5.0,
        "threshold": -0.5,
    }
    inputs = made_up_inputs(**{**dual, **changes})
    window = np.array([*inputs["old_episode_costs"], *inputs["cost_end_scores"]], dtype=np.float32)
    episode_cost = float(window.sum(dtype=np.float32) / np.float32(window.size))
    before = inputs["lambda_before"]
    log_after = math.log(before) + inputs["lambda_lr"] * (episode_cost - inputs["threshold"]) * before
    if inputs["lambda_max"]:
        log_after = min(log_after, math.log(inputs["lambda_max"]))
    scores = {"reward": inputs["reward_end_scores"], "cost": inputs["cost_end_scores"]}
    after, metrics, gradients = derive_step(inputs, scores, {"reward": "reward", "cost": "cost"}, math.exp(log_after))
    metrics |= {"lambda": math.exp(log_after), "episode_cost": episode_cost, "cost_critic_lr": 5e-6}
    post_rollout = {**after, **scores}
    return {
        "inputs": inputs,
        "expected": {"post_rollout": post_rollout, "metrics": metrics, **gradients, "log_lambda_after": log_after},
    }


def shaping_file(**changes: Any) -> File:
    inputs = made_up_inputs(**{"lambda": 1.3, **changes})
    for name in ("rollout", "new"):
        del inputs[f"{name}_cost_critic_scores"]
    reward, cost = inputs["reward_end_scores"], inputs["cost_end_scores"]
    shaped = [r - inputs["lambda"] * c for r, c in zip(reward, cost, strict=True)]
    after, metrics, gradients = derive_step(inputs, {"shaped_reward": shaped}, {"shaped_reward": "reward"}, 0.0)
    metrics |= {"reward": float(np.mean(reward)), "cost": float(np.mean(cost))}
    window = [*inputs.get("old_episode_costs", []), *cost]
    metrics["episode_cost"] = float(np.mean(np.array(window, dtype=np.float32)))
    post_rollout = {**after, "reward": reward, "cost": cost}
    return {"inputs": inputs, "expected": {"post_rollout": post_rollout, "metrics": metrics, **gradients}}


def check(folder: Path, name: str, content: File) -> None:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"description": "derived in the test", **content}))
    check_file(path)


def test_the_derivation_gives_the_references_numbers_of_a_ppo_step() -> None:
    vector = json.loads((COMMITTED_VECTORS / "rl_step_ppo.json").read_text())
    inputs, expected = vector["inputs"], vector["expected"]
    scores = {"reward": inputs["reward_end_scores"]}
    after, metrics, gradients = derive_step(inputs, scores, {"reward": "reward"}, 0.0)
    assert metrics == pytest.approx(expected["metrics"], abs=1e-9)
    found = {**after, **scores, **gradients}
    wanted = {**expected["post_rollout"], **{name: expected[name] for name in expected if name.startswith("grad_")}}
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-9, atol=1e-9, err_msg=name)


LAG, SHAPING = "rl_step_ppo_lag", "rl_step_ppo_reward_shaping"
TIGHT_CLIPS = {"clip_range_score": 1.5, "clip_range_value": 0.5, "gamma": 0.97, "gae_lambda": 0.9, "kl_coeff": 0.3}


DUAL_CASES: dict[str, dict[str, Any]] = {
    "as-the-script": {},
    "no-maximum": {"lambda_max": 0.0},
    "at-the-maximum": {"lambda_max": 0.81},
    "falling": {"threshold": 8.0},
    "high": {"lambda_before": 4.0},
}


@pytest.mark.parametrize("changes", [*DUAL_CASES.values(), TIGHT_CLIPS], ids=[*DUAL_CASES, "clips-and-discounts"])
def test_a_ppo_lag_step_of_other_numbers_is_reproduced(tmp_path: Path, changes: dict[str, Any]) -> None:
    check(tmp_path, LAG, lag_file(**changes))


def test_the_cases_reach_the_maximum_and_both_directions() -> None:
    after = {name: lag_file(**changes)["expected"]["log_lambda_after"] for name, changes in DUAL_CASES.items()}
    assert after["at-the-maximum"] == math.log(0.81) < after["no-maximum"]
    assert after["falling"] < math.log(0.8) < after["no-maximum"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"lambda": 0.0}, {"old_episode_costs": [3.0, -1.0]}, TIGHT_CLIPS],
    ids=["fixed", "zero", "with-a-window", "clips-and-discounts"],
)
def test_a_reward_shaping_step_of_other_numbers_is_reproduced(tmp_path: Path, changes: dict[str, Any]) -> None:
    check(tmp_path, SHAPING, shaping_file(**changes))


def numbers_of(content: File) -> list[tuple[str, ...]]:
    expected = content["expected"]
    nested = [(part, name) for part in ("post_rollout", "metrics") for name in expected[part]]
    return nested + [(name,) for name in expected if name not in ("post_rollout", "metrics")]


@pytest.mark.parametrize(("name", "content"), [(LAG, lag_file()), (SHAPING, shaping_file())], ids=["lag", "shaping"])
def test_every_number_of_the_file_is_compared(tmp_path: Path, name: str, content: File) -> None:
    for path in numbers_of(content):
        if path[-1].endswith("_lr"):
            continue  # a constant of the reference's script; our step reports no rate
        broken = json.loads(json.dumps(content))
        holder = broken["expected"]
        for key in path[:-1]:
            holder = holder[key]
        wrong = np.array(holder[path[-1]])
        wrong[(-1,) * wrong.ndim] += 1e-4  # the last number of a tensor, or the scalar
        holder[path[-1]] = wrong.tolist()
        with pytest.raises(AssertionError, match=path[-1]):
            check(tmp_path, name, broken)


def test_a_metric_that_we_do_not_compute_fails(tmp_path: Path) -> None:
    content = lag_file()
    content["expected"]["metrics"]["perplexity"] = 1.0
    with pytest.raises(AssertionError, match="perplexity"):
        check(tmp_path, LAG, content)


def test_a_name_that_nobody_knows_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unknown golden vector rl_step_ppo_plus"):
        check(tmp_path, "rl_step_ppo_plus", lag_file())
