"""One objective and K constraints: what is maximised, what is limited, and how the multiplier moves."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema.base import Count, CountOrZero, NonNegative, Positive, Settings
from configs.schema.data import SignalScorerSettings


class DualSettings(Settings):
    """How a constraint's multiplier moves, once per optimiser step."""

    form: Literal["projected", "log", "pid", "fixed"] = "projected"
    initial: NonNegative = 1.0
    """lambda before the first update (of `fixed`: for ever)."""
    learning_rate: Positive = 0.5
    """Of `projected` and `log`; of `pid`, the integral's gain."""
    proportional: NonNegative = 1.0
    """`pid` only: gain on the smoothed violation."""
    derivative: NonNegative = 0.0
    """`pid` only: gain on the rise of the smoothed violation."""
    smoothing: float = Field(default=0.5, ge=0, lt=1)
    """`pid` only: weight of the past in the moving averages."""
    derivative_delay: Count = 4
    """`pid` only: steps between the two averages whose difference is the derivative."""
    violation: Literal["absolute", "relative"] = "absolute"
    """What the dual is driven by: (J - limit)/scale, or (J - limit)/limit held within ±1, so that one set of gains fits every
    limit above 0."""
    cap: Positive = 6.0
    delay: CountOrZero = 0
    """Updates that only observe, before the multiplier moves."""

    @model_validator(mode="after")
    def _log_needs_a_start(self) -> Self:
        if self.form == "log" and self.initial <= 0:
            raise ValueError(
                "the log dual multiplies, so it never leaves 0: set dual.initial above 0 (the papers use 1)"
            )
        if self.initial > self.cap:
            raise ValueError(f"dual.initial {self.initial} is above dual.cap {self.cap}: lower one or raise the other")
        return self


class ConstraintSettings(Settings):
    """`measure` of a cost over a subset of prompts must stay at or under `limit`."""

    measure: Literal["mean", "rate", "rectified", "cvar"] = "rate"
    limit: float
    """The bound on the measure: of `rate` a share (0.05 is 5 %), else in the cost model's units."""
    chosen_for: str | None = None
    """Digest of the cost model that `steelyard threshold` chose the limit for; a run with another one is refused."""
    any_cost_model: bool = False
    """Keep the limit whatever cost model `chosen_for` names."""
    subset: tuple[str, ...] = ()
    """Prompt tags the constraint applies to (any of them); empty means every prompt."""
    categories: tuple[str, ...] = ()
    """Harm categories that count as unsafe for this constraint's cost model; empty means all."""
    alpha: float = Field(default=0.1, gt=0, lt=1)
    """`cvar` only: the worst share of samples that is averaged."""
    upper_confidence: float | None = Field(default=None, gt=0.5, lt=1)
    """ucb: J is the measure plus its one-sided half-width at this confidence; none leaves the measure as it is."""
    scale: Positive | None = None
    """Divides g and the limit together: below 1, the constraint weighs more against the reward at the same multiplier.

    None: 0.5 for `rate`, so that a sure violation weighs as much as two spreads of the reward; 1 for the others.
    """
    window_batches: Count = 4
    """How many batches of the subset's samples the measure is taken over."""
    min_samples: Count = 8
    """Fewer samples in the window than this, and the multiplier holds."""
    dual: DualSettings = DualSettings()
    scorer: SignalScorerSettings | None = None
    """Who gives the cost; none: a cost model that this run trains."""

    @property
    def effective_scale(self) -> float:
        """The scale that is used."""
        return self.scale if self.scale is not None else (0.5 if self.measure == "rate" else 1.0)

    @model_validator(mode="after")
    def _limit_fits_measure(self) -> Self:
        if self.measure == "rate" and not 0 < self.limit < 1:
            raise ValueError(
                f"limit {self.limit} is no rate: with measure rate give a share between 0 and 1, such as 0.05"
            )
        if self.dual.violation == "relative" and self.limit <= 0:
            raise ValueError(
                f"dual.violation: relative divides by the limit, and {self.limit} is not above 0; take absolute"
            )
        if self.measure == "rectified" and self.limit < 0:
            raise ValueError(f"limit {self.limit} cannot be met: max(cost, 0) is never negative; give 0 or more")
        return self


class ObjectiveSettings(Settings):
    """The one signal that is maximised."""

    signal: Literal["helpfulness", "none"] = "helpfulness"
    """`none` maximises nothing but the constraints (the cost-only ablation)."""
    normalise: Literal["preference_set", "none"] = "preference_set"
    """Shift and divide rewards by their mean and spread on the preference set, so that a multiplier means the same in every run."""
    scorer: SignalScorerSettings | None = None
    """Who gives the reward; none: a reward model that this run trains."""
