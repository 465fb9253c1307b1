"""Which prompts each stage draws from: disjoint by task, so nothing is judged on what it was trained on.

| set | tasks | forms | used for |
|---|---|---|---|
| train | seen | seen | pairs, reward and cost models, PPO |
| cells | seen, held-out, unknown | seen, held-out | evaluation, one cell per split and kind |
| certificate | held-out | seen | the claim that the limit is met |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.crowd.prompts import sandbox_prompts
from actors.crowd.world import World
from configs.schema.ppo import EvaluationSettings
from learner.records import Prompt

KINDS = ("harmful", "dual_use", "benign", "lookalike", "ambiguous")
MAJOR_KINDS = frozenset({"harmful", "benign", "lookalike"})
CELLS: Mapping[str, tuple[str, str]] = {
    "seen": ("seen", "seen"),
    "heldout_tasks": ("heldout", "seen"),
    "heldout_forms": ("seen", "heldout"),
    "unknown": ("unknown", "seen"),
}
"""Evaluation split → (split of tasks, split of forms)."""


def training_prompts(world: World, *, n: int, seed: int, kind_weights: Mapping[str, float], prefix: str) -> list[Prompt]:
    """`n` prompts on seen tasks and seen forms."""
    return sandbox_prompts(
        world, n=n, seed=seed, task_splits=["seen"], form_splits=["seen"], kind_weights=kind_weights or None, prefix=prefix
    )


def evaluation_prompts(world: World, settings: EvaluationSettings, seed: int) -> list[Prompt]:
    """Prompts of every evaluation cell; the split is in each prompt's attributes."""
    prompts: list[Prompt] = []
    for split, (tasks, forms) in CELLS.items():
        present = [kind for kind in KINDS if any(task.kind == kind and task.split == tasks for task in world.tasks)]
        for kind in present:
            n = _cell_size(settings, split, kind, len(present))
            prompts += sandbox_prompts(
                world, n=n, seed=seed, task_splits=[tasks], form_splits=[forms], kinds=[kind], prefix=f"eval-{split}-{kind}"
            )
    return prompts


def _cell_size(settings: EvaluationSettings, split: str, kind: str, kinds: int) -> int:
    if split == "unknown":
        return max(1, settings.samples_unknown // kinds)
    return settings.samples_per_cell if kind in MAJOR_KINDS else settings.samples_per_minor_cell


def certificate_prompts(world: World, *, n: int, seed: int, subset: Sequence[str], constraint: str) -> list[Prompt]:
    """`n` prompts of a constraint's subset on tasks that only SFT has met."""
    kinds = [kind for kind in KINDS if not subset or kind in subset]
    return sandbox_prompts(
        world, n=n, seed=seed, task_splits=["heldout"], form_splits=["seen"], kinds=kinds, prefix=f"certificate-{constraint}"
    )
