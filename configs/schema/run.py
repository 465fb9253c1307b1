"""The root of a run's configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator

from configs.schema.base import Seed, Settings
from configs.schema.data import DataSettings
from configs.schema.ppo import CertificateSettings, EvaluationSettings, PpoSettings, SelectionSettings
from configs.schema.resources import ResourceSettings
from configs.schema.rounds import RoundsSettings
from configs.schema.signals import ConstraintSettings, ObjectiveSettings
from configs.schema.supervised import (
    BestOfKSettings,
    CostModelSettings,
    DirectSettings,
    HalvesSettings,
    ModelSettings,
    PreferenceSettings,
    ReferenceSettings,
    RewardModelSettings,
    SandboxSettings,
    SftSettings,
    SplitSettings,
)
from configs.schema.tracking import TrackingSettings

Algorithm = Literal["ppo_lag", "grpo_lag", "gdpo", "rvpo", "dpo", "safe_dpo", "best_of_k"]
LOOP_ALGORITHMS = frozenset({"ppo_lag", "grpo_lag", "gdpo", "rvpo"})
"""Those that sample, score and learn step by step."""
GROUP_ALGORITHMS = frozenset({"grpo_lag", "gdpo", "rvpo"})
"""Those that need several responses to each prompt, and no critic."""
DIRECT_ALGORITHMS = frozenset({"dpo", "safe_dpo"})


def _folder_or_url(value: object) -> object:
    return Path(value) if isinstance(value, str) and "://" not in value else value


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class RunSettings(Settings):
    """Maximise the objective subject to the constraints."""

    name: str
    seed: Seed = 0
    storage: Annotated[Path | str | None, BeforeValidator(_folder_or_url)] = None
    """Folder that holds run folders, or the URL of a store (s3://bucket/runs); none means `runs/` where the run was submitted."""
    scratch: Path | None = None
    """Folder in which nodes work on a run whose storage is a URL; every node must see it. None: the temp folder of one node."""
    deterministic: bool = False
    """Bit-for-bit repeatable: fixed waves of prompts, one thread, sorted experience. Slower."""

    algorithm: Algorithm = "ppo_lag"
    """What learns: `ppo_lag`, the critic-free `grpo_lag`, `gdpo` and `rvpo`, or, without a loop, `dpo`, `safe_dpo` and
    `best_of_k`."""
    objective: ObjectiveSettings = ObjectiveSettings()
    constraints: dict[str, ConstraintSettings] = {}

    sandbox: SandboxSettings = SandboxSettings()
    data: DataSettings | None = None
    """Preference data from files or the hub; none: the sandbox."""
    model: ModelSettings = ModelSettings()
    splits: SplitSettings = SplitSettings()
    sft: SftSettings = SftSettings()
    preferences: PreferenceSettings = PreferenceSettings()
    reward_model: RewardModelSettings = RewardModelSettings()
    cost_model: CostModelSettings = CostModelSettings()
    halves: HalvesSettings = HalvesSettings()
    ppo: PpoSettings = PpoSettings()
    direct: DirectSettings = DirectSettings()
    best_of_k: BestOfKSettings = BestOfKSettings()
    reference: ReferenceSettings = ReferenceSettings()
    selection: SelectionSettings = SelectionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    certificate: CertificateSettings = CertificateSettings()
    rounds: RoundsSettings = RoundsSettings()
    resources: ResourceSettings = ResourceSettings()
    tracking: TrackingSettings = TrackingSettings()

    reuse_from: tuple[str, ...] = ()
    """Names of runs in the same storage whose complete stages are taken over where nothing that matters differs."""

    arms: dict[str, dict[str, object]] = {}
    """Variants that share the earlier stages: name → `key: value` overrides (dotted keys)."""
    seeds: tuple[Seed, ...] = ()
    """Seeds every arm runs with; empty means `seed` alone."""

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"'{value}' cannot name a run folder: use a-z, 0-9, - and _, at most 64, no leading dash")
        return value

    @field_validator("constraints")
    @classmethod
    def _constraint_names(cls, value: dict[str, ConstraintSettings]) -> dict[str, ConstraintSettings]:
        for name in value:
            if not _NAME.fullmatch(name) or name == "reward":
                raise ValueError(f"'{name}' cannot name a constraint: use a-z, 0-9, - and _, and not 'reward'")
        return value

    @model_validator(mode="after")
    def _something_to_optimise(self) -> Self:
        if self.objective.signal == "none" and not self.constraints:
            raise ValueError(
                "objective.signal is none and there is no constraint: nothing would be learnt; give one of the two"
            )
        return self
