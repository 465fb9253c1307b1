"""The train-half/test-half check (paper A, section 4.2): does the reward rise for a model that the policy does not learn from?

Two reward models learn from disjoint halves of the conversations. The policy maximises the first; where its score goes on
rising and the second's does not, the policy has learned the first model's errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOW_SHARE = 0.1
"""Share of the steps, at the start and at the end, whose mean counts: one batch alone is noise."""


@dataclass(frozen=True)
class HalvesGap:
    """Rises of both models' mean reward over the loop, each in units of its own spread on the preference set."""

    train_rise: float
    test_rise: float
    gap: float
    """``train_rise - test_rise``: what the other half's model does not confirm."""
    train_end: float
    """The last steps' mean above the preference set's."""
    test_end: float
    steps: int


def halves_gap(
    train_rewards: ArrayLike,
    test_rewards: ArrayLike,
    train_baseline: tuple[float, float],
    test_baseline: tuple[float, float],
) -> HalvesGap:
    """Compare the two models' mean rewards ``[steps]`` of the same batches.

    Args:
        train_baseline, test_baseline: mean and standard deviation of that model's scores on the preference set; they make
            two models with other units comparable.

    Raises:
        ValueError: there is no step, the two do not have equally many, one is not finite, or a spread is not above 0.
    """
    train, test = _standardised(train_rewards, train_baseline), _standardised(test_rewards, test_baseline)
    if train.size == 0 or train.size != test.size:
        raise ValueError(f"both models need a reward for every step, got {train.size} and {test.size}")
    window = max(1, int(WINDOW_SHARE * train.size))
    starts, ends = (
        [float(window_rewards.mean()) for window_rewards in (train[part], test[part])] for part in _ends(window)
    )
    train_rise, test_rise = (end - start for start, end in zip(starts, ends, strict=True))
    return HalvesGap(train_rise, test_rise, train_rise - test_rise, ends[0], ends[1], train.size)


def halves_alarm(gap: HalvesGap, limit: float) -> str | None:
    """The warning where the gap is above `limit` (in spreads), else None."""
    if gap.gap <= limit:
        return None
    return (
        f"over-optimisation: over {gap.steps} steps the reward model's score rose by {gap.train_rise:.2f} spreads, that of the "
        f"model trained on the other half of the conversations by {gap.test_rise:.2f} (halves.alarm is {limit:g}): take an "
        "earlier checkpoint, raise ppo.kl_coefficient, or set ppo.kl_budget"
    )


def _standardised(rewards: ArrayLike, baseline: tuple[float, float]) -> NDArray[np.float64]:
    mean, spread = baseline
    values = np.asarray(rewards, dtype=np.float64).reshape(-1)
    if not np.isfinite(values).all() or not np.isfinite(mean) or not 0 < spread < np.inf:
        raise ValueError(f"rewards must be finite and their spread above 0, got a baseline of {mean} and {spread}")
    return (values - mean) / spread


def _ends(window: int) -> tuple[slice, slice]:
    return slice(None, window), slice(-window, None)
