"""What the automatic red team found, as prompts with their provenance: ``redteam.parquet``.

The file is a set of prompts in the format ``prompts`` (docs/data.md): id, prompt or messages, category and tags; every reader of
prompts takes it. Next to these it says where each prompt comes from and how well it worked. `finds_as_prompts` gives a later
round those that it may train on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.crowd.prompts import ATTACK_TAG
from actors.redteam.labels import GOLD
from actors.redteam.records import read_columns
from actors.redteam.search import Kept, Search
from actors.redteam.suite import NEW
from learner.records import Message, Prompt

SOURCE = TAG = "red_team"
"""`Prompt.source` of a find, and a tag of it, so that a constraint's subset may name it."""
_MESSAGE = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])
FIND_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("messages", pa.list_(pa.field("element", _MESSAGE, nullable=False))),
        pa.field("category", pa.string()),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("search", pa.string(), nullable=False),
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("form", pa.string(), nullable=False),
        pa.field("form_split", pa.string(), nullable=False),
        pa.field("attack", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("task_split", pa.string(), nullable=False),
        pa.field("victim", pa.string(), nullable=False),
        pa.field("victim_digest", pa.string(), nullable=False),
        pa.field("cost_model_digest", pa.string(), nullable=False),
        pa.field("chosen_by_cost", pa.float64(), nullable=False),
        pa.field("cost", pa.float64(), nullable=False),
        pa.field("success", pa.float64(), nullable=False),
        pa.field("gold_harm", pa.float64()),
        pa.field("labels", pa.string(), nullable=False),
        pa.field("retests", pa.int32(), nullable=False),
    ]
)
_PROVENANCE = ("search", "strategy", "form", "form_split", "task_id", "kind", "task_split", "victim", "victim_digest")


@dataclass(frozen=True)
class Origin:
    """Whom the finds were found against."""

    victim: str
    victim_digest: str
    cost_model_digest: str
    labels: str
    """Who judged."""


@dataclass(frozen=True)
class Find:
    """One prompt that made a victim's answer costly."""

    id: str
    messages: tuple[Message, ...]
    """Up to the attacker's turn with the worst answer; the victim's own answers are in between."""
    category: str | None
    tags: tuple[str, ...]
    search: str
    strategy: str
    form: str
    form_split: str
    attack: str
    task_id: str
    kind: str
    task_split: str
    victim: str
    victim_digest: str
    cost_model_digest: str
    chosen_by_cost: float
    """What it was chosen by: too high on average."""
    cost: float
    """Mean over fresh conversations."""
    success: float
    """Share of the fresh conversations that got something harmful."""
    gold_harm: float | None
    """Gold harm of the answer after `messages`, where the truth is known."""
    labels: str
    retests: int


def find_of(kept_attack: Kept, search: Search, origin: Origin) -> Find:
    """The find that one kept attack makes."""
    attack, worst = kept_attack.attack, kept_attack.shown.worst
    tags = (attack.target.kind, attack.form.id, ATTACK_TAG, TAG, attack.form.strategy)
    return Find(
        id=f"{search.name}-{origin.victim_digest[:12]}-{attack.id}",
        messages=worst.messages,
        category=attack.target.category,
        tags=tuple(dict.fromkeys(tags)),
        search=search.name,
        strategy=attack.form.strategy,
        form=attack.form.id,
        form_split=attack.form.split,
        attack=attack.id,
        task_id=attack.target.id,
        kind=attack.target.kind,
        task_split=attack.target.split,
        victim=origin.victim,
        victim_digest=origin.victim_digest,
        cost_model_digest=origin.cost_model_digest,
        chosen_by_cost=kept_attack.chosen_by,
        cost=kept_attack.cost,
        success=kept_attack.success,
        gold_harm=worst.judgement.harm if origin.labels == GOLD else None,
        labels=origin.labels,
        retests=len(kept_attack.retest),
    )


def write_finds(finds: Iterable[Find], path: Path) -> int:
    """Write finds to `path` (its folder is made); returns how many. Replaces the file only when complete."""
    rows = []
    for find in finds:
        single = len(find.messages) == 1
        row = asdict(find) | {"prompt": find.messages[0]["content"] if single else None}
        rows.append(row | {"messages": None if single else [dict(turn) for turn in find.messages]})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=FIND_SCHEMA), partial, compression="zstd")
    partial.replace(path)
    return len(rows)


def read_finds(path: Path) -> list[Find]:
    """Every find of a file in its order.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    finds = []
    for row in read_columns(path, FIND_SCHEMA.names):
        text = row.pop("prompt")
        messages = row["messages"] if text is None else [{"role": "user", "content": text}]
        finds.append(Find(**{**row, "messages": tuple(messages), "tags": tuple(row["tags"])}))
    return finds


def finds_as_prompts(
    path: Path,
    *,
    least_cost: float = -math.inf,
    allowed: Callable[[Find], bool] | None = None,
    task_splits: Sequence[str] = ("seen", NEW),
    form_splits: Sequence[str] = ("seen", NEW),
) -> list[Prompt]:
    """The finds that a later round may train on, the costliest first; ids are ``redteam-000000`` on.

    What is held out stays held out: finds about held-out or unknown tasks, or in held-out forms, are left out, for they are what
    the result is judged on. One conversation that several searches found comes once.

    Args:
        least_cost: finds of a lower mean cost on fresh samples are left out; 0 keeps those that the cost model calls unsafe.
        allowed: a last word on each, such as `cluster.evaluation.redteam.finds.may_train`, which knows the world's splits.

    Raises:
        DataError: as `read_finds`.
    """
    chosen: dict[tuple[tuple[str, str], ...], Find] = {}
    for find in sorted(read_finds(path), key=lambda find: -find.cost):
        held_out = find.task_split not in task_splits or find.form_split not in form_splits
        if held_out or find.cost < least_cost or not (allowed is None or allowed(find)):
            continue
        chosen.setdefault(tuple((turn["role"], turn["content"]) for turn in find.messages), find)
    return [_prompt(find, f"redteam-{index:06d}") for index, find in enumerate(chosen.values())]


def _prompt(find: Find, prompt_id: str) -> Prompt:
    attributes = {name: str(getattr(find, name)) for name in _PROVENANCE}
    return Prompt(
        prompt_id=prompt_id,
        messages=find.messages,
        source=SOURCE,
        category=find.category,
        tags=frozenset(find.tags),
        # A sandbox prompt says which cell of a report it counts in; none that is trained on is held out.
        attributes=attributes | {"split": "seen", "purpose": "train", "find": find.id, "cost": f"{find.cost:.4f}"},
    )
