"""Preference data from outside the sandbox: which files train what, and how a cost without safety labels gets its zero."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from configs.schema.base import Count, Positive, Settings

_SET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class SourceSettings(Settings):
    """One source of rows, as `steelyard data` takes it."""

    source: str
    """A file, folder or pattern, relative to `data.root`, or `hub:owner/name[/folder][:config][@revision]`."""
    otherwise: str | None = None
    """Taken in its place, with a warning, where `source` does not exist here; `packaged:helpfulness` is a small made-up set."""
    split: str | None = None
    """Of the hub the split; of a folder or pattern the files with that word in their path."""
    format: str | None = None
    """Of `steelyard data formats`; none: told from the rows."""
    ranking: Literal["better", "safer"] | None = None
    """What HH-RLHF's order ranks; none: told from the names."""
    rows: Count | None = None
    """Only the first so many."""
    tags: tuple[str, ...] = ()
    """Given to every prompt of the source, for `constraints.<name>.subset`."""


class ZeroSettings(Settings):
    """The zero of a cost that was learned from rankings alone: a declared borderline, no safety label."""

    rule: Literal["midpoint", "separating", "quantile"] = "midpoint"
    """Between the medians of safer and less safe responses; the best threshold between them; or a share of all responses."""
    quantile: float | None = Field(default=None, gt=0, lt=1)
    """Of the rule of that name."""
    as_safety_label: bool = False
    """Take the borderline for a safety label all the same: allows a `rate` constraint on such a cost."""

    @model_validator(mode="after")
    def _quantile_with_its_rule(self) -> Self:
        if (self.quantile is None) == (self.rule == "quantile"):
            raise ValueError("quantile belongs to rule: quantile, and that rule needs it; give both or neither")
        return self


class DataSettings(Settings):
    """Files in place of the sandbox: who wrote the demonstrations and rankings, and on which prompts the policy is asked."""

    root: Path = Path()
    """Folder that local sources are relative to."""
    demonstrations: tuple[SourceSettings, ...] = ()
    """SFT learns these responses; empty: no SFT, the model of `model.path` is taken as it is."""
    show: Literal["better", "safer", "safe"] = "better"
    """Which response of a pair is a demonstration."""
    helpfulness: tuple[SourceSettings, ...] = ()
    """Pairs for the reward model, by `better`; needed unless `objective.scorer` or nothing is maximised."""
    harmlessness: tuple[SourceSettings, ...] = ()
    """Pairs for the cost models, by `safer` and safety labels; needed unless every constraint has a scorer."""
    prompts: tuple[SourceSettings, ...] = ()
    """What the loop asks; empty: the prompts of helpfulness and harmlessness, tagged so."""
    evaluation: dict[str, SourceSettings] = {}
    """Further sets of prompts that the policy before and after is asked, by name; nothing is trained on them."""
    unit: Literal["opening", "prompt"] = "opening"
    """What stays in one split together: prompts with the same first user turn, as cuts of one conversation have, or equal
    prompts alone."""
    zero: ZeroSettings = ZeroSettings()

    @field_validator("evaluation")
    @classmethod
    def _set_names(cls, value: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        for name in value:
            if not _SET_NAME.fullmatch(name) or name == "kept":
                raise ValueError(f"'{name}' cannot name a set of prompts: use a-z, 0-9, - and _, and not 'kept'")
        return value


class SignalScorerSettings(Settings):
    """A signal's scorer that this run does not train: a model folder, or a Python function."""

    path: str | None = None
    """Hugging Face folder, or hub name, of a model with one label."""
    revision: str | None = None
    """Of a hub name."""
    template: Literal["papers", "hh", "chatml"] | None = None
    """Chat template for a scorer's tokenizer; none: its own."""
    python: str | None = None
    """`package.module:function`: a batch of conversations in, floats out (docs/scorers.md)."""
    arguments: dict[str, JsonValue] = {}
    """Handed to the function by name."""
    batch_size: Count = 32
    """Conversations of one call of the function."""
    deadline_seconds: Positive = 60.0
    """For one call of the function."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.path is None) == (self.python is None):
            raise ValueError("a scorer is a model or a function: give one of path and python")
        if self.path is None and (self.revision is not None or self.template is not None):
            raise ValueError("revision and template belong to path; a function sees text")
        if self.python is None and self.arguments:
            raise ValueError("arguments are a Python function's; a model takes none")
        return self
