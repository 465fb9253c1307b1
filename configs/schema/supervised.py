"""The stages before the loop: the base model, SFT, sampling and labelling of pairs, reward and cost models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema.base import Count, CountOrZero, NonNegative, Positive, Settings, Share
from configs.schema.labels import CrowdSettings, JudgeSettings, Labeller, PeopleSettings

KIND_WEIGHTS = dict[str, NonNegative]


class SandboxSettings(Settings):
    """The embedded world with known truth."""

    world: Path | None = None
    """A world file of the sandbox schema; none means the packaged one."""


class ModelSettings(Settings):
    """The policy: a pretrained model, or a Llama of these sizes from scratch; every other model starts from its trunk."""

    path: str | None = None
    """Hugging Face folder or hub name of a causal language model (needs `data`); none: from scratch."""
    revision: str | None = None
    """Of a hub name."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only for models whose code you have read."""
    template: Literal["papers", "hh", "chatml"] | None = None
    """Chat template; none: the tokenizer's own, and of a model from scratch on `data` the papers'."""
    vocab_size: Count = 4096
    """Of a byte-level BPE tokenizer, where a model is trained from scratch on `data`."""
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


class TamperingSettings(Settings):
    """Harmlessness labels that are wrong on purpose, for studies of poisoning and as a negative control."""

    how: Literal["flip", "shuffle"]
    """`flip` turns safety labels and ranking of some pairs; `shuffle` deals all pairs' labels out at random."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of all pairs, how many are flipped; `shuffle` takes no other than 1."""
    categories: tuple[str, ...] = ()
    """`flip` only: those that are flipped are requests of these harm categories; empty means any pair."""

    @model_validator(mode="after")
    def _shuffle_takes_all(self) -> Self:
        if self.how == "shuffle" and (self.share != 1 or self.categories):
            raise ValueError("share and categories belong to how: flip; shuffle deals out the labels of all pairs")
        return self


class PreferenceSettings(Settings):
    """Pairs sampled from the current policy, and who labels them."""

    pairs: Count = 4000
    temperatures: tuple[Positive, ...] = (1.0, 1.4)
    """The two responses of a pair are drawn at the temperatures in turn."""
    kind_weights: KIND_WEIGHTS = {"harmful": 25, "benign": 22, "lookalike": 23, "dual_use": 20, "ambiguous": 10}
    """Share of prompts by kind, relative; empty means by number of tasks. A kind the world lacks is passed over."""
    labels: Labeller = "crowd"
    crowd: CrowdSettings = CrowdSettings()
    judge: JudgeSettings | None = None
    """Of `labels: judge`."""
    people: PeopleSettings = PeopleSettings()
    """Of `labels: people`."""
    tampering: TamperingSettings | None = None
    """Spoil the crowd's harmlessness labels before anything learns from them."""

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
    ensemble: Count = 1
    """Models of different seeds (head and order of the pairs); more than one gives a bound in place of a score."""
    ensemble_spread: NonNegative = 1.0
    """The score is the members' mean, less (reward) or plus (cost) this many of their standard deviations."""


class RewardModelSettings(ScoreModelSettings):
    """A reward model, and what its comparisons rank by."""

    epochs: Count = 3
    harmlessness_share: Share = 0.0
    """Share of the pairs that are ranked by harmlessness in place of helpfulness: one preference model for both, as
    Bai et al. 2022 train it."""


class CostModelSettings(ScoreModelSettings):
    """A cost model and how its scores become probabilities."""

    epochs: Count = 4
    calibration: Literal["platt", "isotonic"] = "platt"
    """What reports and `steelyard threshold` take as the probability of unsafe; both are fitted. A `rate` constraint
    needs platt: isotonic steps are flat."""


class HalvesSettings(Settings):
    """Paper A's robustness check: a second reward model on pairs that the first one never saw watches the first."""

    enabled: bool = False
    """Train the reward model on one half of the training conversations, a test model on the other."""
    alarm: Positive = 0.5
    """Warn when the train model's rise over the loop exceeds the test model's by this, in units of their spread."""


class DirectSettings(Settings):
    """`dpo` and `safe_dpo`: the policy learns from the pairs themselves."""

    beta: Positive = 0.1
    """Strength of the implicit KL penalty."""
    epochs: Count = 3
    batch_size: Count = 64
    margin: NonNegative = 1.0
    """`safe_dpo` only: Delta, by how much a safe response must beat an unsafe one, in nats."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=2e-4, warmup_steps=10)


class BestOfKSettings(Settings):
    """`best_of_k`: the SFT policy answers k times; the best reward among the answers judged safe is given."""

    k: Count = 8


class SplitSettings(Settings):
    """Disjoint shares of the conversations; the rest trains. None is used for two purposes."""

    by: Literal["conversation", "task"] = "conversation"
    """`conversation` is a task in one form. `task` parts whole tasks: the certificate then speaks of unseen tasks."""
    holdout: float = Field(default=0.06, gt=0, lt=0.5)
    """Preference accuracy."""
    calibration: float = Field(default=0.06, gt=0, lt=0.5)
    """From cost to probability, and limits from rates."""
    selection: float = Field(default=0.05, gt=0, lt=0.5)
    """Which checkpoint is promoted."""
    certificate: float = Field(default=0.08, gt=0, lt=0.5)
    """The claim about it."""

    @model_validator(mode="after")
    def _most_trains(self) -> Self:
        withheld = self.holdout + self.calibration + self.selection + self.certificate
        if withheld > 0.5:
            raise ValueError(
                f"the four held-out shares add up to {withheld:g}: more than half is left out of training; lower them"
            )
        return self


class ReferenceSettings(Settings):
    """Where the papers' reference differs from this product on purpose; each key brings one difference back."""

    multiplier_per_minibatch: bool = False
    """Move the multiplier before every minibatch of an optimiser step, not once per step."""
    masks_by_token_id: bool = False
    """Leave pad and unknown tokens out of every loss by their id, even inside a response."""
    truncate_prompt_right: bool = False
    """Cut a prompt that is too long at its end, not by whole turns at its start."""
