"""Which prompts each stage draws from, so that nothing is certified on conversations it was trained on.

| set | tasks | forms | conversations | used for |
|---|---|---|---|---|
| train | seen | seen | all but the reserved | pairs, reward and cost models, PPO |
| certificate | seen | seen | the reserved | the claim that the limit is met |
| cells | seen, held-out, unknown | seen, held-out | all | evaluation, one cell per split and kind |

A conversation is a task asked in a form; a share of them is reserved by hash, the same in every run on a world.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from actors.crowd.prompts import sandbox_prompts
from actors.crowd.world import World
from cluster.requests import stable_seed
from configs.exits import DataError
from configs.schema.ppo import EvaluationSettings
from learner.records import Prompt

KINDS = ("harmful", "dual_use", "benign", "lookalike", "ambiguous")
MAJOR_KINDS = frozenset({"harmful", "benign", "lookalike"})
RESERVED_SHARE = 0.15
"""Share of conversations that only SFT may have met."""
OVERSAMPLING = (2, 20)
"""Prompts drawn per prompt wanted: first try, last try."""
CELLS: Mapping[str, tuple[str, str]] = {
    "seen": ("seen", "seen"),
    "heldout_tasks": ("heldout", "seen"),
    "heldout_forms": ("seen", "heldout"),
    "unknown": ("unknown", "seen"),
}
"""Evaluation split → (split of tasks, split of forms)."""


def training_prompts(
    world: World, *, n: int, seed: int, kind_weights: Mapping[str, float], prefix: str
) -> list[Prompt]:
    """`n` prompts on seen tasks and seen forms, none of a reserved conversation; shuffled by seed."""
    kinds = {kind: weight for kind, weight in kind_weights.items() if _has_kind(world, kind)}
    return _drawn(world, n=n, seed=seed, prefix=prefix, reserved=False, kind_weights=kinds or None)


def certificate_prompts(world: World, *, n: int, seed: int, subset: Sequence[str], constraint: str) -> list[Prompt]:
    """`n` prompts of a constraint's subset, kinds by their numbers of tasks, from the reserved conversations."""
    kinds = [kind for kind in subset if kind in KINDS and _has_kind(world, kind)]
    only_kinds = len(kinds) == len(subset)  # a form or `attack` selects among all kinds
    return _drawn(
        world, n=n, seed=seed, prefix=f"certificate-{constraint}", reserved=True, subset=frozenset(subset),
        kinds=kinds if kinds and only_kinds else None,
    )  # fmt: skip


def is_reserved(prompt: Prompt) -> bool:
    """Whether the prompt's conversation is kept for the certificate."""
    return stable_seed(prompt.attributes["task_id"], prompt.attributes["form"]) < RESERVED_SHARE * 2**31


def _drawn(
    world: World, *, n: int, seed: int, prefix: str, reserved: bool, subset: frozenset[str] = frozenset(), **choice: Any
) -> list[Prompt]:
    """Draw more than enough, keep those on the right side and in the subset, shuffle, and number them anew."""
    share = RESERVED_SHARE if reserved else 1 - RESERVED_SHARE
    for oversampling in OVERSAMPLING:
        number = math.ceil(oversampling * n / share) + 200
        drawn = sandbox_prompts(
            world, n=number, seed=seed, task_splits=["seen"], form_splits=["seen"], prefix=prefix, **choice
        )
        kept = [each for each in drawn if is_reserved(each) is reserved and (not subset or each.tags & subset)]
        if len(kept) >= n:
            random.Random(f"{prefix}/{seed}").shuffle(kept)
            return [replace(prompt, prompt_id=f"{prefix}-{index:06d}") for index, prompt in enumerate(kept[:n])]
    what = f" of {', '.join(sorted(subset))}" if subset else ""
    raise DataError(
        f"the world has too few conversations{what} for {n} prompts '{prefix}': it needs more tasks or forms"
    )


def _has_kind(world: World, kind: str) -> bool:
    return any(task.kind == kind and task.split == "seen" for task in world.tasks)


def evaluation_prompts(world: World, settings: EvaluationSettings, seed: int) -> list[Prompt]:
    """Prompts of every evaluation cell; the split is in each prompt's attributes."""
    prompts: list[Prompt] = []
    for split, (tasks, forms) in CELLS.items():
        present = [kind for kind in KINDS if any(task.kind == kind and task.split == tasks for task in world.tasks)]
        for kind in present:
            n = _cell_size(settings, split, kind, len(present))
            prompts += sandbox_prompts(
                world,
                n=n,
                seed=seed,
                task_splits=[tasks],
                form_splits=[forms],
                kinds=[kind],
                prefix=f"eval-{split}-{kind}",
            )
    return prompts


def _cell_size(settings: EvaluationSettings, split: str, kind: str, kinds: int) -> int:
    if split == "unknown":
        return max(1, settings.samples_unknown // kinds)
    return settings.samples_per_cell if kind in MAJOR_KINDS else settings.samples_per_minor_cell
