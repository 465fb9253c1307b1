"""Labelling of ``pairs.parquet`` by a language model or by people, as Ray tasks: rows go from file to file, counts come back."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray

from actors.crowd.tasks import label_columns, label_facts, write_rows
from actors.judging.judges.cached_endpoint import CachedEndpoint
from actors.judging.judges.chat_endpoint import ChatEndpoint, EndpointOptions
from actors.judging.judges.language_model import PROMPTS, LlmJudge, read_prompts
from actors.judging.judges.people import FILE, PeopleJudge, write_for_people
from actors.judging.judges.response_cache import ResponseCache
from actors.judging.pairs.labels import differs, labels_of, pair_of
from configs.exits import DataError
from configs.schema.labels import JudgeSettings

JUDGE = "judge.txt"
"""Next to the replies: which labelling they are of, and the name of the judge that gives it."""
_LEARNED = ("better_response_id", "safer_response_id", "is_response_0_safe", "is_response_1_safe")


@dataclass(frozen=True)
class JudgeTask:
    """Which pairs a judge labels, and where it keeps what was answered."""

    pairs: Path
    start: int
    stop: int
    """Rows of the file, half open."""
    part: Path
    cache: Path
    labelling: str
    """Names the labelling that this is a part of: one judge gives all of it."""
    before: str | None = None
    """Name of the judge of the rounds before."""


@ray.remote(num_cpus=0)
def judge_part(task: JudgeTask, settings: JudgeSettings, key: str | None) -> dict[str, Any]:
    """Label some rows; ``part`` then holds their pairs and labels. What was answered before is not asked again.

    Returns:
        ``judge`` (its name), ``asked`` and ``left_out``: replies by what was asked, and of those left out also why.

    Raises:
        DataError, StoppedError: the address does not answer, or serves another model than before; what it answered is kept.
    """
    rows = pq.read_table(task.pairs).slice(task.start, task.stop - task.start).to_pylist()
    endpoint = open_judge(settings, key)
    cache = ResponseCache(task.cache)
    try:
        judge = LlmJudge(CachedEndpoint(endpoint, cache), settings.prompts or PROMPTS)
        _refuse_another(task, settings.url, judge.facts.name)
        labels = labels_of(rows, judge, guideline_of(settings))
    finally:
        cache.close()
        endpoint.close()
    write_rows([{**row, **label_columns(label)} for row, label in zip(rows, labels, strict=True)], task.part)
    return {"judge": judge.facts.name, "asked": dict(judge.asked), "left_out": dict(judge.faults)}


@ray.remote(num_cpus=0)
def join_labels(parts: Sequence[str], path: str) -> dict[str, float]:
    """Write ``preferences.parquet`` from its parts and remove them; returns counts and shares."""
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    facts = label_facts(rows) | _open(rows)
    write_rows(rows, Path(path))
    for part in parts:
        Path(part).unlink()
    return facts


@ray.remote(num_cpus=0)
def label_by_people(pairs: str, path: str, least_share: float) -> dict[str, float]:
    """Read what people wrote into ``to_label.csv`` next to the pairs; where it is not there yet, write it.

    Returns:
        ``rows`` and ``filled``; once `least_share` of the rows are filled in, ``preferences.parquet`` is written, and its counts
        and shares come too.

    Raises:
        DataError: the file is not the one that was written, or a cell holds another answer than asked for.
    """
    rows = pq.read_table(pairs).to_pylist()
    to_label = Path(pairs).with_name(FILE)
    different = [pair_of(row) for row in rows if differs(row)]
    if not to_label.exists():
        return {"rows": float(write_for_people(to_label, different, [])), "filled": 0.0}
    judge = PeopleJudge(to_label, different, [])
    counts = {"rows": float(len(different)), "filled": float(judge.filled)}  # a row that was deleted is not filled in
    if judge.filled < least_share * len(different):
        return counts
    labels = labels_of(rows, judge, FILE, orders=1)
    labelled = [{**row, **label_columns(label)} for row, label in zip(rows, labels, strict=True)]
    write_rows(labelled, Path(path))
    return counts | label_facts(labelled) | _open(labelled)


@ray.remote(num_cpus=0)
def changed_by_people(path: str) -> int:
    """How many rows of ``to_label.csv`` say something else than ``preferences.parquet``, which was made of it.

    Raises:
        DataError: as `label_by_people`.
    """
    rows = pq.read_table(path).to_pylist()
    judge = PeopleJudge(Path(path).with_name(FILE), [pair_of(row) for row in rows if differs(row)], [])
    new_labels = [label_columns(label) for label in labels_of(rows, judge, FILE, orders=1)]
    return sum(any(row[name] != new[name] for name in _LEARNED) for row, new in zip(rows, new_labels, strict=True))


def open_judge(settings: JudgeSettings, key: str | None) -> ChatEndpoint:
    """The judge's address; asks it for its models.

    Raises:
        ConfigError: several models to choose from. DataError: no server answers there.
    """
    options = EndpointOptions(timeout_seconds=settings.timeout_seconds, concurrency=settings.concurrency)
    return ChatEndpoint(settings.url, settings.model, key=key, options=options)


def guideline_of(settings: JudgeSettings) -> str:
    """Digest of the judge's prompts: other words are another guideline.

    Raises:
        ConfigError: they are not there, or no prompts.
    """
    texts = read_prompts(settings.prompts or PROMPTS)
    return hashlib.sha256("\x00".join(texts[name].template for name in sorted(texts)).encode()).hexdigest()[:12]


def _refuse_another(task: JudgeTask, url: str, name: str) -> None:
    """Without `model` a server that was started again may have another one, which no stage's key shows.

    Raises:
        DataError: who labelled before, who would now, and what to do.
    """
    path = task.cache / JUDGE
    recorded = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    ours = recorded[1] if len(recorded) == 2 and recorded[0] == task.labelling else None
    for before, otherwise in ((task.before, ""), (ours, f", or remove {task.cache} to have only the second asked")):
        if before not in (None, name):
            raise DataError(
                f"preferences.judge.model: {before} has labelled pairs of this run, and {url} now serves {name}: serve the "
                f"first again, or set it to the one that shall label them all{otherwise}"
            )
    path.write_text(f"{task.labelling}\n{name}\n", encoding="utf-8")


def _open(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Pairs of different responses, how many of them have no ranking, by axis, and how many responses no safety label."""
    counts: Counter[str] = Counter(
        dict.fromkeys(("different", "open_helpfulness", "open_harmlessness", "open_safety"), 0)
    )
    for row in rows:
        if differs(row):
            counts["different"] += 1
            counts["open_helpfulness"] += row["better_response_id"] is None
            counts["open_harmlessness"] += row["safer_response_id"] is None
        counts["open_safety"] += sum(row[f"is_response_{side}_safe"] is None for side in (0, 1))
    return {name: float(count) for name, count in counts.items()}
