"""Which rounds' labels a run already has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.run_folder.manifest import Manifest
from cluster.run_folder.round_names import split_name

if TYPE_CHECKING:
    from cluster.runs.stages.base import Stage


STAGE = "preferences"
"""Whose output the labels are, in every round; `cluster.runs.stages.preferences`, which runs it, imports Ray."""


def complete_labels(stages: Sequence[Stage], manifest: Manifest, *, of_another: bool = False) -> dict[str, bool]:
    """Every stage `preferences`, and whether it has its labels and what they are of stands, all under the present keys.

    Reads no model: one that was damaged is found when its stage is reached.

    Args:
        stages: of all rounds, in order.
        of_another: the manifest is of a run whose shared stages are taken over; the others are done again.
    """
    stale: set[str] = set()
    for stage in stages:
        is_recorded = (
            not stale.intersection(stage.inputs) and stage.name in manifest and (stage.shared or not of_another)
        )
        if not is_recorded or manifest[stage.name].key != stage.key(manifest):
            stale.add(stage.name)
    names = [stage.name for stage in stages if split_name(stage.name)[0] == STAGE]
    return {name: name not in stale and manifest.complete(name, manifest[name].key) is not None for name in names}
