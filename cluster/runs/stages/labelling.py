"""Who labels the pairs of stage `preferences`: the simulated crowd, a language model as judge, or people through a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from actors.crowd.tasks import label_pairs
from actors.judging.judges.language_model import left_out_note
from actors.judging.judges.people import FILE
from actors.judging.pairs.tasks import (
    JudgeTask,
    changed_by_people,
    guideline_of,
    join_labels,
    judge_part,
    label_by_people,
    open_judge,
)
from cluster.evaluation.judging import key_from
from cluster.run_folder.digests import file_digest, stable_seed
from cluster.run_folder.round_names import stage_name
from cluster.runs.context import RunContext
from cluster.runs.stages.complete_labels import STAGE
from configs.exits import ConfigError, DataError, WaitsForPeople
from configs.schema.labels import JudgeSettings
from configs.schema.run import RunSettings
from learner.deadlines import fetch_result

PART = 64
"""Pairs of one task: so often does the progress move, and so much is asked again of a judge that died."""
MOST_TRIES = 2.0
"""Of the time that a part takes when every request takes its whole timeout."""
REQUESTS = 6
"""Of one pair: two safety labels, and two orders on two axes."""


def labeller(settings: RunSettings) -> dict[str, Any]:
    """What of the settings changes the labels; with the crowd, what it always was."""
    preferences = settings.preferences
    if preferences.labels == "crowd":
        return preferences.model_dump(mode="json", include={"crowd", "tampering"})
    if preferences.labels == "people":
        return {"labels": "people"}
    judge = require_judge(settings)
    return {"labels": "judge", "url": judge.url, "model": judge.model, "prompts": guideline_of(judge)}


def label(context: RunContext, pairs: Path, path: Path) -> dict[str, Any]:
    """Write ``preferences.parquet``; returns counts, shares, and what is known of the labellers.

    Raises:
        WaitsForPeople: they have not filled in enough. StoppedError: the judge went silent. The same command goes on.
        DataError: the labels cannot be used.
    """
    match context.settings.preferences.labels:
        case "crowd":
            return _by_crowd(context, pairs, path)
        case "judge":
            return _by_judge(context, pairs, path)
        case "people":
            return _by_people(context, pairs, path)


def require_judge(settings: RunSettings) -> JudgeSettings:
    """The judge of `labels: judge`; `configs.checks` has seen that it is there."""
    judge = settings.preferences.judge
    if judge is None:
        raise ConfigError("preferences.judge: labels: judge needs the judge's url")
    return judge


def _key(judge: JudgeSettings) -> str | None:
    """From the driver's environment, and from nowhere else."""
    return key_from(judge.key_env, "preferences.judge.key_env")


def reach_judge(settings: RunSettings) -> None:
    """Before anything is trained: the judge's key is set, and it answers.

    Raises:
        ConfigError, DataError: one line with the key.
    """
    if settings.preferences.labels != "judge":
        return
    judge = require_judge(settings)
    try:
        open_judge(judge, _key(judge)).close()
    except DataError as error:
        raise DataError(f"preferences.judge.url: {error}") from error


def not_learned_from(settings: RunSettings, labels: Path, facts: Mapping[str, Any]) -> str | None:
    """A warning where people have written something else into their file since it was read; None where they have not.

    Args:
        labels: ``preferences.parquet`` of a stage that is complete.
        facts: that stage's.
    """
    to_label = labels.with_name(FILE)
    if not to_label.exists() or facts.get("to_label") == file_digest(to_label):
        return None
    call, seconds = changed_by_people.remote(str(labels)), settings.resources.deadlines.score_seconds
    try:
        changed = fetch_result(call, deadline_seconds=seconds, operation="changed_by_people")
    except DataError as error:
        return f"{error}; the run goes on with the answers that were read before"
    if not changed:
        return None
    return (
        f"{to_label}: {changed} rows were filled in or changed after they were read and are not learned from; to have them "
        f"read, remove {labels.name} next to it (in every arm of a comparison) and run the same command again, which also does "
        "everything after the labels again"
    )


def _by_crowd(context: RunContext, pairs: Path, path: Path) -> dict[str, Any]:
    settings = context.settings
    call = label_pairs.remote(
        context.world_path,
        settings.preferences.crowd.model_dump(mode="json"),
        stable_seed(context.run_settings.seed, "crowd"),  # the same people in every round
        str(pairs),
        str(path),
        None if settings.preferences.tampering is None else settings.preferences.tampering.model_dump(mode="json"),
    )
    facts: dict[str, Any] = _fetch(context, call, "label_pairs")
    if settings.preferences.tampering is not None:
        changed = f"{facts['tampered']:.0f} of {facts['pairs']:.0f}"
        context.warn(f"preferences.tampering: the harmlessness labels of {changed} pairs were changed on purpose")
    return facts


def _by_judge(context: RunContext, pairs: Path, path: Path) -> dict[str, Any]:
    """Part after part, so that the progress is seen and every wait has its deadline."""
    judge = require_judge(context.settings)
    key, total = _key(judge), pq.read_metadata(pairs).num_rows
    deadline = 60 + MOST_TRIES * judge.timeout_seconds * (1 + PART * REQUESTS / judge.concurrency)
    questions: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    parts, name, before = [], "", _judge_before(context)
    for start in range(0, total, PART):
        stop = min(start + PART, total)
        context.status.update(step=start, steps=total)
        part = path.with_name(f"labels-{start}.parquet")
        task = JudgeTask(pairs, start, stop, part, path.with_name("replies"), context.stage_key, before)
        call = judge_part.remote(task, judge, key)
        reply = fetch_result(
            call, deadline_seconds=deadline, operation=f"the judge's labels of pairs {start} to {stop - 1}"
        )
        questions.update(reply["asked"])
        left_out.update(reply["left_out"])
        parts.append(str(task.part))
        name = reply["judge"]
    context.status.update(step=total, steps=total)
    facts: dict[str, Any] = _fetch(context, join_labels.remote(parts, str(path)), "join_labels")
    if facts["open_safety"] == 2 * facts["pairs"] or facts["open_helpfulness"] == facts["different"]:
        top_reasons = ", ".join(f"{count} x {why}" for why, count in left_out.most_common(3))
        raise DataError(
            f"preferences.judge: no label of {name} can be used ({top_reasons or 'ties only'}): try its prompts with steelyard eval "
            "--judge, or take another model"
        )
    if (note := left_out_note(questions, left_out)) is not None:
        context.warn(f"preferences.judge: {note}")
    return {**facts, "labelled_by": name, "asked": dict(questions), "left_out": dict(left_out)}


def _judge_before(context: RunContext) -> str | None:
    """Who labelled the round before this one, if it was labelled: on data the files are the first round's labels."""
    number, first = context.round_number, 1 if context.settings.data is None else 2
    if number == first:
        return None
    name: str | None = context.manifest[stage_name(STAGE, number - 1)].facts.get("labelled_by")
    return name


def _by_people(context: RunContext, pairs: Path, path: Path) -> dict[str, Any]:
    least_share, to_label = context.settings.preferences.people.least, pairs.with_name(FILE)
    # before it is read: a file that is saved meanwhile is looked at again at the next start
    digest_before = file_digest(to_label) if to_label.exists() else None
    call = label_by_people.remote(str(pairs), str(path), least_share)
    facts: dict[str, Any] = _fetch(context, call, "label_by_people")
    if "pairs" not in facts:
        raise WaitsForPeople(
            f"{to_label} waits for people: {facts['filled']:.0f} of {facts['rows']:.0f} rows are filled in, and "
            f"{least_share:.0%} must be; write a, b or tie under more_helpful and safer, yes or no under a_unsafe and b_unsafe, "
            "and run the same command again"
        )
    return {**facts, "labelled_by": "people", "to_label": digest_before}


def _fetch(context: RunContext, call: Any, operation: str) -> Any:
    seconds = context.settings.resources.deadlines.score_seconds
    return fetch_result(call, deadline_seconds=seconds, operation=operation)
