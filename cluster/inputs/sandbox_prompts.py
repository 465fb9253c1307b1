"""Which prompts each stage draws from, so that nothing is judged on what trained it.

Conversations on seen tasks and seen forms are parted once per world into five disjoint purposes (`Splits`):

| purpose | used for |
|---|---|
| train | training pairs, the loop's prompts |
| holdout | accuracy of the preference models |
| calibration | from cost to probability, limits from rates, drift |
| selection | which snapshot of the loop is promoted |
| certificate | the claim that its limit is met |

Evaluation cells (one per split and kind, held-out tasks and forms among them) report; they decide nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from actors.crowd.prompts import sandbox_prompts
from actors.crowd.world import World
from cluster.run_folder.digests import digest, stable_seed
from configs.exits import DataError
from configs.schema.ppo import EvaluationSettings
from configs.schema.supervised import SplitSettings
from learner.records import Prompt

KINDS = ("harmful", "dual_use", "benign", "lookalike", "ambiguous")
MAJOR_KINDS = frozenset({"harmful", "benign", "lookalike"})
TRAIN, HOLDOUT, CALIBRATION, SELECTION, CERTIFICATE = "train", "holdout", "calibration", "selection", "certificate"
PURPOSES = (TRAIN, HOLDOUT, CALIBRATION, SELECTION, CERTIFICATE)
LABELLED = frozenset({TRAIN, HOLDOUT, CALIBRATION})
"""Purposes whose prompts are sampled in pairs and labelled."""
OVERSAMPLING = (2, 20)
"""Prompts drawn per prompt wanted: first try, last try."""
CELLS: Mapping[str, tuple[str, str]] = {
    "seen": ("seen", "seen"),
    "heldout_tasks": ("heldout", "seen"),
    "heldout_forms": ("seen", "heldout"),
    "unknown": ("unknown", "seen"),
}
"""Evaluation split → (split of tasks, split of forms)."""

Conversation = tuple[str, str]
"""(task id, form id)."""


class Splits:
    """The purpose of every conversation of a world; the same for every run on it with the same shares."""

    def __init__(self, world: World, settings: SplitSettings) -> None:
        self.world, self.settings = world, settings
        self._purposes: dict[Conversation, str] = {}
        for kind in KINDS:
            tasks = [task.id for task in world.tasks if task.kind == kind and task.split == "seen"]
            forms = [form.id for form in world.forms_for(kind, ("seen",))]
            if settings.by == "task":
                for task, purpose in _parted([(task,) for task in tasks], settings).items():
                    self._purposes |= {(task[0], form): purpose for form in forms}
            else:
                parted = _parted([(task, form) for task in tasks for form in forms], settings)
                self._purposes |= {(unit[0], unit[1]): purpose for unit, purpose in parted.items()}

    def purpose(self, prompt: Prompt) -> str:
        """What this prompt may be used for."""
        return self._purposes[prompt.attributes["task_id"], prompt.attributes["form"]]

    def document(self) -> dict[str, Any]:
        """What the manifest says of them.

        Raises:
            DataError: a conversation (or, with ``by: task``, a task) is in two splits.
        """
        members: dict[str, set[Conversation]] = {purpose: set() for purpose in PURPOSES}
        for conversation, purpose in self._purposes.items():
            members[purpose].add(conversation)
        units = {
            purpose: {conversation[0] for conversation in conversations}
            if self.settings.by == "task"
            else conversations
            for purpose, conversations in members.items()
        }
        if sum(map(len, units.values())) != len(set().union(*units.values())):
            raise DataError(
                "splits overlap: what is judged would have been trained on; this is a bug, please report it"
            )
        return {
            "by": self.settings.by,
            "disjoint": True,
            "purposes": {
                purpose: {
                    "conversations": len(conversations),
                    "tasks": len({task for task, _ in conversations}),
                    "digest": digest(sorted(conversations)),
                }
                for purpose, conversations in members.items()
            },
        }

    def conversations(self, purpose: str, subset: Collection[str]) -> int:
        """Different conversations of a purpose that carry any tag of `subset`; empty means all."""
        kinds = {task.id: task.kind for task in self.world.tasks}
        attack = {form.id for form in self.world.forms if form.attack}
        return sum(
            conversation_purpose == purpose
            and (not subset or bool({kinds[task], form, *(["attack"] if form in attack else [])} & set(subset)))
            for (task, form), conversation_purpose in self._purposes.items()
        )


def _parted(units: Sequence[tuple[str, ...]], settings: SplitSettings) -> dict[tuple[str, ...], str]:
    """Units of one kind in an order fixed by their names' hash, cut by the shares."""
    ordered = sorted(units, key=lambda unit: (stable_seed(*unit), unit))
    parted = dict.fromkeys(ordered, TRAIN)
    end, share = 0, 0.0
    for purpose in PURPOSES[1:]:
        share += float(getattr(settings, purpose))
        start, end = end, round(share * len(ordered))
        parted |= dict.fromkeys(ordered[start:end], purpose)
    return parted


def labelled_prompts(splits: Splits, *, n: int, seed: int, kind_weights: Mapping[str, float]) -> list[Prompt]:
    """`n` prompts whose answers are compared: to train on, to measure accuracy, and to calibrate; ``purpose`` says which."""
    return _drawn(splits, LABELLED, n=n, seed=seed, prefix="pair", kind_weights=_present(splits.world, kind_weights))


def loop_prompts(splits: Splits, *, n: int, seed: int, kind_weights: Mapping[str, float]) -> list[Prompt]:
    """`n` prompts for the loop, from the train split alone; shuffled by seed."""
    return _drawn(splits, {TRAIN}, n=n, seed=seed, prefix="ppo", kind_weights=_present(splits.world, kind_weights))


def judged_prompts(
    splits: Splits,
    purpose: str,
    *,
    n: int,
    seed: int,
    prefix: str,
    subset: Sequence[str] = (),
    kind_weights: Mapping[str, float] | None = None,
) -> list[Prompt]:
    """`n` prompts of one purpose; of a constraint's subset with kinds by their numbers of tasks, unless weights are given."""
    world = splits.world
    if kind_weights is not None:
        return _drawn(splits, {purpose}, n=n, seed=seed, prefix=prefix, kind_weights=_present(world, kind_weights))
    kinds = [kind for kind in subset if kind in KINDS and _has_kind(world, kind)]
    only_kinds = len(kinds) == len(subset)  # a form or `attack` selects among all kinds
    return _drawn(
        splits,
        {purpose},
        n=n,
        seed=seed,
        prefix=prefix,
        subset=frozenset(subset),
        kinds=kinds if kinds and only_kinds else None,
    )


def _drawn(
    splits: Splits,
    purposes: Collection[str],
    *,
    n: int,
    seed: int,
    prefix: str,
    subset: frozenset[str] = frozenset(),
    **choice: Any,
) -> list[Prompt]:
    """Draw more than enough, keep those of the purposes and the subset, shuffle, and number them again."""
    shares = {purpose: getattr(splits.settings, purpose) for purpose in PURPOSES[1:]}
    shares[TRAIN] = 1 - sum(shares.values())
    share = sum(shares[purpose] for purpose in purposes)
    for oversampling in OVERSAMPLING:
        number = math.ceil(oversampling * n / share) + 200
        drawn = sandbox_prompts(
            splits.world, n=number, seed=seed, task_splits=["seen"], form_splits=["seen"], prefix=prefix, **choice
        )
        eligible = [
            (prompt, purpose)
            for prompt in drawn
            if (purpose := splits.purpose(prompt)) in purposes and (not subset or prompt.tags & subset)
        ]
        if len(eligible) >= n:
            random.Random(f"{prefix}/{seed}").shuffle(eligible)
            return [
                replace(
                    prompt,
                    prompt_id=f"{prefix}-{index:06d}",
                    attributes={**prompt.attributes, "purpose": purpose},
                )
                for index, (prompt, purpose) in enumerate(eligible[:n])
            ]
    of_tags = f" of {', '.join(sorted(subset))}" if subset else ""
    raise DataError(
        f"the world has too few conversations{of_tags} for {n} prompts '{prefix}' ({', '.join(sorted(purposes))}): it needs "
        "more tasks or forms, or a larger share in splits"
    )


def _present(world: World, kind_weights: Mapping[str, float]) -> dict[str, float] | None:
    return {kind: weight for kind, weight in kind_weights.items() if _has_kind(world, kind)} or None


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
