"""Golden vectors: numbers computed by the papers' reference implementation (see vectors/README.md).

Every expected number here comes from a vector file; ``--golden-dir`` names the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.golden import check_losses, check_reference, check_steps
from tests.golden.tools import Case

CHECKERS: Mapping[str, Callable[[Case, Case], None]] = {
    "actor_loss_ppo": check_losses.check_actor_loss_ppo,
    "actor_loss_ppo_lag": check_losses.check_actor_loss_ppo_lag,
    "arena_metrics": check_reference.check_arena_metrics,
    "collators": check_reference.check_collators,
    "cost_loss": check_losses.check_cost_loss,
    "critic_loss": check_losses.check_critic_loss,
    "dpo_loss_reference_quirk": check_losses.check_dpo_loss_reference_quirk,
    "dpo_loss_standard": check_losses.check_dpo_loss_standard,
    "gae": check_losses.check_gae,
    "gather_log_probs": check_losses.check_gather_log_probs,
    "kl_shaping_ppo": check_losses.check_kl_shaping,
    "kl_shaping_ppo_lag": check_losses.check_kl_shaping,
    "kl_shaping_reward_shaping": check_losses.check_kl_shaping_reward_shaping,
    "log_lambda_trajectory": check_losses.check_log_lambda_trajectory,
    "masked_mean": check_losses.check_masked_mean,
    "normalizer_ema": check_reference.check_normalizer_ema,
    "normalizer_running_mean_std": check_reference.check_normalizer_running_mean_std,
    "reward_loss": check_losses.check_reward_loss,
    "rl_step_ppo": check_steps.check_rl_step_ppo,
    "rl_step_ppo_lag": check_steps.check_rl_step_ppo_lag,
    "rl_step_ppo_reward_shaping": check_steps.check_rl_step_ppo_reward_shaping,
    "score_head": check_reference.check_score_head,
}

NOT_OURS = {
    "dataset_sampling": "how the reference draws rows from raw data sets; here the order of rows is by (seed, step, id)"
}
"""Vectors without a checker on purpose, each with its reason."""


def check_file(path: Path) -> None:
    """Compare everything one vector file expects."""
    assert path.stem in CHECKERS, (
        f"unknown golden vector {path.name}: no checker has this name; rename the file, or write its checker"
    )
    vector = json.loads(path.read_text())
    CHECKERS[path.stem](vector["inputs"], vector["expected"])


def test_our_functions_reproduce_the_reference(golden_file: Path) -> None:
    if golden_file.stem in NOT_OURS:
        pytest.skip(NOT_OURS[golden_file.stem])
    check_file(golden_file)
