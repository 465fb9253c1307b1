"""What every stage of one run works with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from actors.crowd.world import World
from cluster.inputs.file_prompts import PromptBook
from cluster.inputs.sampler import Sampler
from cluster.inputs.sandbox_prompts import Splits
from cluster.inputs.sources import FileInputs, RunInputs
from cluster.observability.telemetry.live import Telemetry, Unwatched
from cluster.resources.engines import Engines
from cluster.run_folder.manifest import Manifest
from cluster.run_folder.round_names import settings_in_round, stage_name
from cluster.run_folder.status import StatusWriter
from configs.layout import RunLayout
from configs.schema.run import RunSettings


@dataclass
class RunContext:
    """One run on its way through the stages."""

    settings: RunSettings
    layout: RunLayout
    manifest: Manifest
    inputs: RunInputs
    """The sandbox's world, or files."""
    status: StatusWriter
    engines: Engines
    donors: tuple[RunLayout, ...] = ()
    """Runs whose complete stages may be taken over where the key is the same."""
    stage_key: str = ""
    """Key of the stage that is running; a checkpoint of another key is never resumed."""
    round_number: int = 1
    """Of the stage that is running; later rounds have contexts of their own (`in_round`)."""
    warnings: list[str] = field(default_factory=list)
    whole: RunSettings | None = None
    """The run's settings, where `settings` are a later round's."""
    telemetry: Telemetry | Unwatched = field(default_factory=Unwatched)
    """Is told what the loop does; takes no part in it."""

    @property
    def run_settings(self) -> RunSettings:
        """What the run was started with; in a later round `settings` have that round's seed and overrides."""
        return self.whole or self.settings

    def in_round(self, number: int) -> RunContext:
        """This run as the stages of round `number` see it; warnings, manifest and engines are shared."""
        if number == self.round_number:
            return self
        round_settings = settings_in_round(self.run_settings, number)
        return replace(self, settings=round_settings, round_number=number, whole=self.run_settings)

    @property
    def world(self) -> World:
        """Of a run on the sandbox; only its stages ask."""
        assert isinstance(self.inputs, World)
        return self.inputs

    @property
    def files(self) -> FileInputs:
        """Of a run on data; only its stages ask."""
        assert isinstance(self.inputs, FileInputs)
        return self.inputs

    @cached_property
    def book(self) -> PromptBook | None:
        """The prompts of a run on data, once its stage `data` is complete; None on the sandbox."""
        return PromptBook(self.layout.data / "prompts.parquet") if isinstance(self.inputs, FileInputs) else None

    @cached_property
    def splits(self) -> Splits:
        """Which conversations may be used for what."""
        return Splits(self.world, self.settings.splits)

    @property
    def world_path(self) -> str | None:
        """The world's file as tasks on workers take it; None is the packaged one."""
        return None if self.settings.sandbox.world is None else str(self.settings.sandbox.world)

    @property
    def tokenizer_path(self) -> Path:
        """The run's tokenizer folder, made by the first stage."""
        return self.layout.data / "tokenizer"

    def sampler(self, stage: str) -> Sampler:
        """Makes the generation requests of one stage; a prompt that is too long is cut to leave room for the response."""
        settings = self.settings
        return Sampler(
            self.tokenizer_path,
            settings.seed,
            stage,
            max_prompt_tokens=settings.model.max_length - settings.ppo.max_response_tokens,
            truncate_right=settings.reference.truncate_prompt_right,
        )

    def warn(self, text: str) -> None:
        """Show a warning to those who follow, and keep it for the summary; each text once."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.status.warn(text)

    def facts(self, stage: str) -> dict[str, Any]:
        """The figures that a complete stage of this round left in the manifest."""
        return self.manifest[stage_name(stage, self.round_number)].facts
