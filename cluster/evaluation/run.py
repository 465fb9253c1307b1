"""An evaluation from its words to its document: models, prompts, answers, judge, figures, files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.judging.by_judge.figures import evaluate_responses
from actors.judging.by_judge.tournament import pairs_of, tournament
from actors.judging.judges.response_cache import ResponseCache
from actors.judging.responses import Response, write_judgements, write_responses
from cluster.evaluation.answers import Answered, AskOptions, Progress, answer_all
from cluster.evaluation.judging import LLM, PEOPLE, Advance, JudgeChoice, Judged, judge_all, out_folder
from cluster.evaluation.prompt_sets import PromptSet
from cluster.evaluation.targets import Target
from cluster.evaluation.verdict import verdict_of
from configs.exits import DataError

VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """Everything that was asked, said and computed."""

    document: dict[str, Any]
    """What ``--json`` prints and ``evaluation.json`` holds."""
    responses: Sequence[Response]
    judged: Judged


def evaluate(
    targets: Sequence[Target],
    sets: Sequence[PromptSet],
    choice: JudgeChoice,
    options: AskOptions,
    cache: ResponseCache,
    *,
    scratch: Path,
    out: Path | None = None,
    anchor: str | None = None,
    confidence: float = 0.95,
    count_answers: Progress = lambda label, count: None,
    judged_more: Advance = lambda count: None,
) -> Evaluation:
    """Answers, judgements and every figure.

    Raises:
        SteelyardError: a model, a set, or the judge is not what it should be; one line says which and why.
    """
    out = out_folder(out)
    answered = answer_all(targets, sets, options, cache, scratch=scratch, progress=count_answers)
    models = [target.label for target in targets]
    pairs = pairs_of(answered.responses, models) if len(models) > 1 else []
    misses = cache.misses
    judged = judge_all(choice, answered.responses, pairs, cache, judged_more, confidence)
    labels = judged.by_response
    document: dict[str, Any] = {
        "kind": "evaluation",
        "version": VERSION,
        "verdict": "",
        "judge": {**judged.facts, **judged.quality, "asked_now": cache.misses - misses},
        "models": [_model(target, answered, sum(len(prompt_set.prompts) for prompt_set in sets)) for target in targets],
        "prompts": [_set(prompt_set) for prompt_set in sets],
        "sampling": {"temperature": options.temperature, "max_tokens": options.max_tokens, "seed": options.seed},
        **evaluate_responses(answered.responses, labels, models, confidence),
        "arena": None,
        "notes": judged.notes + _notes(answered, sets),
    }
    if pairs:
        by_prompt = {response.prompt_id: response.set for response in answered.responses}
        document["arena"] = tournament(
            judged.comparisons,
            labels,
            models,
            by_prompt,
            anchor=anchor,
            confidence=confidence,
            ordered=choice.kind in (LLM, PEOPLE),
        )
    document["verdict"] = verdict_of(document)
    return Evaluation(document, answered.responses, judged)


def write_files(evaluation: Evaluation, out: Path) -> list[Path]:
    """``responses.parquet``, ``judgements.parquet``, ``evaluation.json`` and ``report.html``, each whole or not at all.

    Raises:
        DataError: one cannot be written.
    """
    from serving.report.pages.evaluation import write_evaluation_page

    try:
        write_responses(evaluation.responses, out / "responses.parquet")
        write_judgements(evaluation.judged.labels, evaluation.judged.comparisons, out / "judgements.parquet")
        partial = out / "evaluation.json.partial"
        partial.write_text(json.dumps(evaluation.document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, out / "evaluation.json")
    except OSError as error:
        raise DataError(f"--out {out}: the results cannot be written ({error.strerror or error})") from error
    page = write_evaluation_page(
        evaluation.document, evaluation.responses, evaluation.judged.labels, out / "report.html"
    )
    return [out / "responses.parquet", out / "judgements.parquet", out / "evaluation.json", page]


def _model(target: Target, answered: Answered, prompts: int) -> dict[str, Any]:
    reasons = answered.unanswered[target.label]
    answers = sum(response.model == target.label for response in answered.responses)
    return {
        **target.document(),
        "digest": answered.digests[target.label],
        "answers": answers,
        "asked_now": answered.asked[target.label],
        "unanswered": prompts - answers,
        "unanswered_reasons": dict(reasons.most_common(5)),
    }


def _set(prompt_set: PromptSet) -> dict[str, Any]:
    return {
        "name": prompt_set.name,
        "source": Path(prompt_set.source).name if Path(prompt_set.source).is_absolute() else prompt_set.source,
        "prompts": len(prompt_set.prompts),
        "available": prompt_set.available,
        "bad_rows": prompt_set.bad_rows,
    }


def _notes(answered: Answered, sets: Sequence[PromptSet]) -> list[str]:
    notes = []
    for label, reasons in answered.unanswered.items():
        if reasons:
            reason, _ = reasons.most_common(1)[0]
            notes.append(f"{label} has no answer to {sum(reasons.values())} prompts, which are left out ({reason})")
    notes += [
        f"{prompt_set.bad_rows} rows of {prompt_set.source} cannot be read and are left out"
        for prompt_set in sets
        if prompt_set.bad_rows
    ]
    return notes
