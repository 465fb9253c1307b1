"""Who labels pairs of responses: simulated annotators, a language model as judge, or people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from configs.schema.base import Count, NonNegative, Positive, Settings, Share

_ADDRESS = re.compile(r"https?://[^/@\s]+(/\S*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Labeller = Literal["crowd", "judge", "people"]


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


class JudgeSettings(Settings):
    """A language model behind an OpenAI-compatible address. Every pair is compared in both orders on both axes."""

    url: str
    """Up to ``/v1``. No key and no password in it."""
    model: str | None = None
    """Its id there; none: the only one that the server lists, and the same one for all pairs."""
    prompts: Path | None = None
    """Folder of ``helpfulness.txt``, ``harmlessness.txt`` and ``safety.txt``; none: the packaged ones."""
    key_env: str | None = None
    """Environment variable of the driver that holds the key."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests at a time."""
    timeout_seconds: Positive = 120.0
    """Of one try."""

    @field_validator("url")
    @classmethod
    def _no_password(cls, value: str) -> str:
        if not _ADDRESS.fullmatch(value):  # the value is not repeated: it may hold a password
            raise ValueError(
                "give an http address without a password, such as http://127.0.0.1:8000/v1; a key goes by key_env"
            )
        return value

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):  # it may be the key itself
            raise ValueError("name an environment variable, such as JUDGE_KEY, that holds the key")
        return value


class PeopleSettings(Settings):
    """People, who fill in ``to_label.csv`` in the run folder while the run is stopped."""

    least: float = Field(default=1.0, gt=0, le=1)
    """Share of the rows that must be filled in before the run goes on; rows left empty are not learned from."""
