"""The page of an evaluation: the verdict, figures per set, categories, the arena, conversations that can be searched.

One file like every report: styles, script and pictures are inside, and nothing a model wrote can act.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from actors.judging.responses import CUT, Judgement, Response
from configs.exits import DataError
from learner.records import Message
from serving.report.blocks.blocks import Note, Page, Section
from serving.report.pages.evaluation_sections import arena_sections, judge_section, set_sections
from serving.report.run.page import ASSETS

SHOWN = 240
"""Conversations on the page, taken in turn from every set."""
KINDS = {
    "unsafe": "harmful",
    "bare": "bare refusal",
    "explained": "refusal with a reason",
    "cut": "cut",
    "plain": "none of these",
}


@dataclass(frozen=True)
class ShownAnswer:
    """One model's answer as the page shows it."""

    model: str
    text: str
    cut: bool
    marks: tuple[tuple[str, str], ...]
    """Word and tone."""
    scores: str


@dataclass(frozen=True)
class ShownConversation:
    """One prompt with every model's answer."""

    set: str
    source_id: str
    category: str | None
    side: str | None
    messages: tuple[Message, ...]
    answers: tuple[ShownAnswer, ...]
    found: str
    """What the filter matches: ``0:unsafe`` is a harmful answer of the first model."""


def write_evaluation_page(
    document: Mapping[str, Any], responses: Sequence[Response], labels: Sequence[Judgement], path: Path
) -> Path:
    """Write ``report.html`` of an evaluation, whole or not at all; returns its path.

    Args:
        document: of `cluster.evaluation.run.Evaluation`.

    Raises:
        DataError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(render_evaluation(document, responses, labels), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: the report cannot be written ({error.strerror})") from error
    return path


def render_evaluation(document: Mapping[str, Any], responses: Sequence[Response], labels: Sequence[Judgement]) -> str:
    """The HTML text."""
    models = [model["label"] for model in document["models"]]
    script = (ASSETS / "filter.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (ASSETS / "style.css").read_text(encoding="utf-8")
    return environment.get_template("evaluation.html.j2").render(
        page=_page(document),
        names={"kind": {}, "split": {}, "outcome": {}, "model": {}},
        missing_samples="",
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        conversations=_conversations(responses, labels, models),
        available=len({response.prompt_id for response in responses}),
        sets=list(document["sets"]),
        models=models,
        kinds=KINDS,
    )


def _page(document: Mapping[str, Any]) -> Page:
    sampling = document["sampling"]
    models = "; ".join(f"{model['label']}: {model['source']}" for model in document["models"])
    notes = Section("notes", "Notes", [Note(note, tone="warning") for note in document["notes"]])
    return Page(
        title="Steelyard: evaluation",
        verdict=document["verdict"].replace(" %", "\u00a0%"),
        tone="open",
        subtitle=f"{models}. Temperature {sampling['temperature']:g}, at most {sampling['max_tokens']} tokens, seed {sampling['seed']}.",
        tiles=(),
        sections=[
            *([notes] if document["notes"] else []),
            *set_sections(document),
            *arena_sections(document),
            judge_section(document),
        ],
    )


def _conversations(
    responses: Sequence[Response], labels: Sequence[Judgement], models: Sequence[str]
) -> list[ShownConversation]:
    judged = {(label.model, label.prompt_id): label for label in labels}
    by_prompt: dict[str, list[Response]] = {}
    for response in responses:
        by_prompt.setdefault(response.prompt_id, []).append(response)
    by_set: dict[str, list[list[Response]]] = {}
    for answers in by_prompt.values():
        by_set.setdefault(answers[0].set, []).append(answers)
    share = max(1, SHOWN // max(1, len(by_set)))
    return [_conversation(answers, judged, models) for of_set in by_set.values() for answers in of_set[:share]]


def _conversation(
    answers: Sequence[Response], judged: Mapping[tuple[str, str], Judgement], models: Sequence[str]
) -> ShownConversation:
    first, shown_answers, filter_keys = answers[0], [], []
    for response in sorted(answers, key=lambda answer: models.index(answer.model)):
        label = judged.get((response.model, response.prompt_id))
        kinds = _kinds(response, label)
        filter_keys += [f"{models.index(response.model)}:{kind}" for kind in kinds]
        shown_answers.append(
            ShownAnswer(
                model=response.model,
                text=response.response,
                cut=response.finish_reason == CUT,
                marks=tuple((KINDS[kind], _TONES[kind]) for kind in kinds if kind in _TONES),
                scores=_scores(response, label),
            )
        )
    return ShownConversation(
        first.set,
        first.source_id,
        first.category,
        first.side,
        first.messages,
        tuple(shown_answers),
        " ".join(filter_keys),
    )


_TONES = {"unsafe": "harmful", "bare": "partial", "explained": "safe_refusal"}


def _kinds(response: Response, label: Judgement | None) -> list[str]:
    kinds = ["unsafe"] if label is not None and label.unsafe else []
    if label is not None and label.refusal in ("bare", "explained"):
        kinds.append(label.refusal)
    if response.finish_reason == CUT:
        kinds.append("cut")
    return kinds or ["plain"]


def _scores(response: Response, label: Judgement | None) -> str:
    parts = []
    if label is not None:
        parts += [] if label.helpfulness is None else [f"helpfulness {label.helpfulness:.2f}"]
        parts += [] if label.harm is None else [f"harm {label.harm:.2f}"]
        parts += [", ".join(label.harm_categories).replace("_", " ")] if label.harm_categories else []
        parts += [f"not judged: {label.fault}"] if label.fault else []
    parts.append(f"{len(response.response.split())} words")
    return " · ".join(parts)
