"""The stages before the loop: the base model, SFT, sampling and labelling of pairs, reward and cost models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema.base import Count, CountOrZero, NonNegative, Positive, Settings, Share

KIND_WEIGHTS = dict[str, NonNegative]


class SandboxSettings(Settings):
    """The embedded world with known truth."""

    world: Path | None = None
    """A world file of the sandbox schema; none means the packaged one."""


class ModelSettings(Settings):
    """The policy's architecture (Llama, trained from scratch on the sandbox); every other model starts from its trunk."""

    hidden_size: Count = 128
    layers: Count = 3
    heads: Count = 4
    intermediate_size: Count = 384
    max_length: Count = 128
    """Positions: prompt and response together, in tokens."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}: change one of them"
            )
        return self


class OptimiserSettings(Settings):
    """AdamW with warm-up and a schedule."""

    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    warmup_steps: CountOrZero = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    gradient_clip: Positive = 1.0


class SftSettings(Settings):
    """Supervised fine-tuning on demonstrations."""

    steps: Count = 850
    batch_size: Count = 64
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=2e-3, warmup_steps=50)


class CrowdSettings(Settings):
    """The simulated annotators."""

    mode: Literal["decoupled", "mixed"] = "decoupled"
    """`mixed` asks for one ranking that blends helpfulness and harm: what decoupling is compared with."""
    annotators: Count = 5
    votes: Count = 3
    temperature: Positive = 1 / 3
    """Bradley-Terry temperature of a ranking vote, in gold units."""
    bias_scale: NonNegative = 0.1
    safety_error_rate: Share = 0.02
    guideline_version: str = "1"


class PreferenceSettings(Settings):
    """Pairs sampled from the current policy and labelled by the crowd."""

    pairs: Count = 4000
    temperatures: tuple[Positive, ...] = (1.0, 1.4)
    """The two responses of a pair are drawn at the temperatures in turn."""
    kind_weights: KIND_WEIGHTS = {"harmful": 25, "benign": 22, "lookalike": 23, "dual_use": 20, "ambiguous": 10}
    """Share of prompts by kind, relative; empty means by number of tasks. A kind the world lacks is passed over."""
    holdout_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the pairs, by task, kept out of training to measure accuracy and fit the calibration."""
    crowd: CrowdSettings = CrowdSettings()

    @model_validator(mode="after")
    def _two_temperatures(self) -> Self:
        if not self.temperatures:
            raise ValueError("temperatures is empty: give one or two, such as [1.0, 1.4]")
        return self


class ScoreModelSettings(Settings):
    """A reward or cost model, from the SFT trunk."""

    epochs: Count = 2
    batch_size: Count = 64
    regularisation: NonNegative = 1e-3
    """rho: weight of the mean squared score."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=5e-4, warmup_steps=5)
