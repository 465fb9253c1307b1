"""What a stage is, and how a run goes through its stages: skip what is complete, run the rest, record what came out."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.run_folder.code_digest import code_digest
from cluster.run_folder.digests import digest
from cluster.run_folder.manifest import Manifest, StageRecord, output_digest

if TYPE_CHECKING:
    from cluster.runs.context import RunContext


TRAINING = ("learner.supervised.training", "learner.supervised.session:set_up_worker")
"""What the trainers run around every supervised task."""
DRAWING = ("actors.generation.generator", "actors.generation.vllm_engine", "actors.rollout.pool")
"""What the generators run, and who hands out their requests."""
SCORING = ("actors.scoring.start", "actors.scoring.group")
"""What the scorers run."""
LEARNING = ("learner.ranks.group", "learner.ranks.rank", "actors.generation.weight_publisher")
"""What the learner's ranks run, and how its weights reach the generators."""


def entry_of(function: Callable[..., object]) -> str:
    """A function at a module's top as an entry of `Stage.code`."""
    return f"{function.__module__}:{function.__qualname__}"


@dataclass(frozen=True)
class StageOutput:
    """What a stage made: files or folders in the run directory, and the small figures worth keeping."""

    paths: tuple[Path, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One resumable step of a run."""

    name: str
    inputs: tuple[str, ...]
    """Earlier stages whose outputs this one reads."""
    settings: Mapping[str, Any]
    """The part of the configuration that changes what comes out."""
    code: tuple[str, ...]
    """Entries of the code that makes the result (`cluster.run_folder.code_digest`): what `run` calls, and what engines run for it."""
    run: Callable[[RunContext], StageOutput]
    shared: bool = True
    """Whether another run's result may be taken over; what a run is about, its loop and evaluation, it does itself."""

    def key(self, manifest: Manifest) -> str:
        """Digest of settings, code and the content of the inputs."""
        inputs = {name: sorted(manifest[name].outputs.values()) for name in self.inputs}
        return digest({"stage": self.name, "settings": self.settings, "code": code_digest(self.code), "inputs": inputs})


def with_code_of_inputs(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, each keyed also by the code of the stages that it reads: a changed labelling makes a reward model stale even
    where its labels come out the same, for nothing shows that they always would.

    Args:
        stages: in order, so that what a stage reads comes before it.
    """
    code: dict[str, tuple[str, ...]] = {}
    for stage in stages:
        of_inputs = (entry for name in stage.inputs for entry in code[name])
        code[stage.name] = tuple(sorted({*stage.code, *of_inputs}))
    return [replace(stage, code=code[stage.name]) for stage in stages]


def run_stages(stages: Sequence[Stage], context: RunContext) -> None:
    """Bring every stage to completion, in order.

    A stage already complete under its key is skipped; one that another run of `reuse_from` has under the same key is
    taken over by hard links; the rest runs.
    """
    for stage in stages:
        key = stage.key(context.manifest)
        complete = context.manifest.complete(stage.name, key)
        if complete is not None:
            context.status.end_stage(stage.name, state="skipped")
            continue
        context.stage_key = key
        context.status.begin_stage(stage.name)
        adopted = _adopt(stage, key, context) if stage.shared else None
        context.manifest.record(adopted or _run(stage, key, context))
        context.status.end_stage(stage.name, state="skipped" if adopted else "done")


def _run(stage: Stage, key: str, context: RunContext) -> StageRecord:
    started, earlier_warnings = time.monotonic(), len(context.warnings)
    output = stage.run(context)
    warnings = context.warnings[earlier_warnings:]
    return StageRecord(
        name=stage.name,
        key=key,
        inputs={name: digest(context.manifest[name].outputs) for name in stage.inputs},
        outputs={os.path.relpath(path, context.layout.root): output_digest(path) for path in output.paths},
        seconds=round(time.monotonic() - started, 3),
        facts={**output.facts, "warnings": warnings} if warnings else output.facts,
    )


def _adopt(stage: Stage, key: str, context: RunContext) -> StageRecord | None:
    for donor in context.donors:
        record = Manifest(donor.manifest).complete(stage.name, key) if donor.manifest.exists() else None
        if record is None:
            continue
        for output in record.outputs:
            link_tree(donor.root / output, context.layout.root / output)
        return StageRecord(**{**vars(record), "facts": {**record.facts, "taken_from": donor.root.name}})
    return None


def link_tree(source: Path, target: Path) -> None:
    """Copy a file or folder by hard links where the file system has them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        target.unlink(missing_ok=True)
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
