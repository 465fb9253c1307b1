"""Which prompts the models are asked: files and hub sets that `learner.data` reads, or the sandbox's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from actors.crowd.prompts import sandbox_prompts
from actors.crowd.world import World
from actors.crowd.world_reader import load_world
from cluster.inputs.sandbox_prompts import CELLS
from configs.exits import ConfigError, DataError
from configs.explain import suggestion
from configs.schema.data import SourceSettings
from learner.data.records import PromptOnly, Record
from learner.data.sources import find_source
from learner.records import Prompt

SANDBOX = "sandbox:"
SANDBOX_PROMPTS = 200
"""Of a sandbox set, unless --n says otherwise: the world has no end of prompts."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,39}")
_SUFFIXES = re.compile(r"(\.jsonl|\.ndjson|\.json|\.csv|\.parquet)?(\.gz|\.xz|\.bz2|\.zst)?$")


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one source."""

    name: str
    source: str
    prompts: tuple[Prompt, ...]
    bad_rows: int = 0
    """Rows that could not be read and were left out."""
    available: int | None = None
    """Different prompts in the source; None of the sandbox."""


def read_prompt_sets(sources: Sequence[str], *, n: int | None, seed: int, world: Path | None = None) -> list[PromptSet]:
    """The sets, each prompt's id unique over all of them.

    Args:
        given: ``[name=]SOURCE``; a source as `steelyard data` takes it, or ``sandbox:`` and a split.
        n: prompts of each set at most, drawn by the seed; None: all, and of the sandbox `SANDBOX_PROMPTS`.
        world: the sandbox's file; None: the packaged one.

    Raises:
        ConfigError: no set, two of one name, or an unknown split. DataError: a source cannot be read or holds no prompt.
    """
    if not sources:
        raise ConfigError(f"no prompts to ask: give --prompts FILE, or --prompts {SANDBOX}seen")
    sets: list[PromptSet] = []
    loaded: World | None = None
    for argument in sources:
        name, source = _named(argument)
        if any(name == prompt_set.name for prompt_set in sets):
            raise ConfigError(f"two sets of prompts are called {name}: give names, such as --prompts other={source}")
        if source.startswith(SANDBOX):
            loaded = loaded or load_world(world)
            sets.append(_of_sandbox(name, source, loaded, SANDBOX_PROMPTS if n is None else n, seed))
        else:
            sets.append(_of_source(name, source, n, seed))
    return sets


def _named(argument: str) -> tuple[str, str]:
    name, equals, source = argument.partition("=")
    if equals and source and _NAME.fullmatch(name):
        return name, source
    if argument.startswith(SANDBOX):
        return argument.replace(":", "-"), argument
    stem = _SUFFIXES.sub("", re.split(r"[/:]", argument.rstrip("/").partition("@")[0])[-1]) if argument else ""
    return re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip("-.")[:40] or "prompts", argument


def _of_sandbox(name: str, source: str, world: World, n: int, seed: int) -> PromptSet:
    split = source.removeprefix(SANDBOX)
    if split not in CELLS:
        raise ConfigError(f"--prompts {source}: the sandbox has no such split; {suggestion(split, list(CELLS))}")
    tasks, forms = CELLS[split]
    prompts = sandbox_prompts(world, n=n, seed=seed, task_splits=[tasks], form_splits=[forms], prefix=name)
    return PromptSet(name, source, tuple(prompts))


def _of_source(name: str, source: str, n: int | None, seed: int) -> PromptSet:
    place = find_source(SourceSettings(source=source), Path.cwd(), "--prompts")
    different: dict[tuple[tuple[str, str], ...], tuple[Record, str]] = {}
    bad, problem = 0, "it is empty"
    for parsed in place.rows():
        if parsed.record is None or parsed.error is not None:
            bad += 1
            problem = f"row {parsed.row}: {parsed.error.message}" if parsed.error else problem
            continue
        turns = tuple((turn["role"], turn["content"]) for turn in parsed.record.prompt)
        different.setdefault(turns, (parsed.record, f"{name}:{parsed.row}"))
    if not different:
        raise DataError(f"{source}: no prompt in it ({problem}); look with `steelyard data check`")
    rows = list(different.values())
    if n is not None and n < len(rows):
        rows = [rows[index] for index in sorted(Random(f"{name}/{seed}").sample(range(len(rows)), n))]
    prompts = tuple(_prompt(record, f"{name}-{index:06d}", place_of) for index, (record, place_of) in enumerate(rows))
    return PromptSet(name, source, prompts, bad, len(different))


def _prompt(record: Record, prompt_id: str, place: str) -> Prompt:
    alone = record if isinstance(record, PromptOnly) else None
    return Prompt(
        prompt_id=prompt_id,
        messages=record.prompt,
        source="data",
        category=alone.category if alone else None,
        tags=frozenset(record.tags),
        attributes={"source_id": (alone.prompt_id if alone else None) or place},
    )
