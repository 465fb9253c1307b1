"""What is wrong with one row that its parser, which knows only its format, does not look for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import get_args

from learner.data.kinds import finding
from learner.data.records import Finding, LabelledResponse, PreferencePair, PromptOnly, Question, Record

_EMPTY = frozenset({"empty_chosen", "empty_rejected", "empty_response"})
QUESTIONS: tuple[Question, ...] = get_args(Question)


def row_findings(record: Record, parser_kinds: Collection[str] = ()) -> tuple[Finding, ...]:
    """Findings about a record, next to those (``parser_kinds``, by kind) that its parser made already."""
    if isinstance(record, PreferencePair):
        findings = [*_prompt(record), *_texts(record, parser_kinds), *_labels(record), *_votes(record)]
    elif isinstance(record, LabelledResponse):
        findings = [*_prompt(record), *_labelled(record, parser_kinds)]
    else:
        findings = list(_prompt(record))
    return tuple(row_finding for row_finding in findings if row_finding.kind not in parser_kinds)


def unsafe_without_category(record: Record) -> bool:
    """Whether a response is labelled unsafe and has no kind of harm: worth a note only where other rows have one."""
    if isinstance(record, PreferencePair):
        return any(safe is False and not kinds for safe, kinds in zip(record.safe, record.categories, strict=True))
    return isinstance(record, LabelledResponse) and not record.safe and not record.categories


def _prompt(record: PreferencePair | LabelledResponse | PromptOnly) -> Iterator[Finding]:
    empty = [number for number, turn in enumerate(record.prompt, 1) if not turn["content"].strip()]
    if empty:
        yield finding("empty_prompt", f"turn {empty[0]} of {len(record.prompt)} of the prompt has no text")
    elif not record.prompt:
        yield finding("empty_prompt", "the prompt has no turn")


def _texts(pair: PreferencePair, parser_kinds: Collection[str]) -> Iterator[Finding]:
    first, second = (response.strip() for response in pair.responses)
    if not (first and second) and _EMPTY.isdisjoint(parser_kinds):
        subject = "both responses have" if first == second else f"response {0 if second else 1} has"
        yield finding("empty_response", f"{subject} no text")
    elif first and first == second:
        ranked = [name for name in ("better", "safer") if getattr(pair, name) is not None]
        contrast = (
            f"yet response {getattr(pair, ranked[0])} is ranked {ranked[0]}" if ranked else "and nothing ranks them"
        )
        yield finding(
            "identical_responses", f"both responses are the same text, {contrast}", None if ranked else "warning"
        )


def _labels(pair: PreferencePair) -> Iterator[Finding]:
    if (safer := pair.safer) is not None:
        less_safe = 1 - safer
        if pair.safe[safer] is False and pair.safe[less_safe] is True:
            message = f"response {safer} is ranked safer, but it is labelled unsafe and response {less_safe} safe"
            yield finding("contradictory_labels", message)
        graver, lesser = pair.severity[safer], pair.severity[less_safe]
        if graver is not None and lesser is not None and graver > lesser:
            message = f"response {safer} is ranked safer with severity {graver}, response {less_safe} has {lesser}"
            yield finding("severity_against_safer", message)
    for index in (0, 1):
        harm = [*pair.categories[index], *([f"severity {pair.severity[index]}"] if pair.severity[index] else [])]
        if pair.safe[index] and harm:
            yield finding("safe_but_harmful", f"response {index} is labelled safe and has {_few(harm)}")


def _labelled(record: LabelledResponse, parser_kinds: Collection[str]) -> Iterator[Finding]:
    if not record.response.strip() and _EMPTY.isdisjoint(parser_kinds):
        yield finding("empty_response", "the response has no text")
    if record.safe and record.categories:
        yield finding("safe_but_harmful", f"the response is labelled safe and has {_few(record.categories)}")


def _votes(pair: PreferencePair) -> Iterator[Finding]:
    if not pair.votes:
        return
    times = Counter((vote.annotator, vote.question) for vote in pair.votes)
    if twice := [key for key, count in times.items() if count > 1]:
        yield finding("repeated_vote", f"annotator {twice[0][0][:40]!r} answered '{twice[0][1]}' more than once")
    labels = {"better": pair.better, "safer": pair.safer, "safe_0": pair.safe[0], "safe_1": pair.safe[1]}
    answers = one_vote_each(pair)
    for question in QUESTIONS:
        votes, label = list(answers[question].values()), labels[question]
        if votes and label is not None and 2 * votes.count(int(label)) < len(votes):
            agree = f"{votes.count(int(label))} of {len(votes)} votes on '{question}'"
            yield finding("votes_against_label", f"{agree} agree with its label")


def one_vote_each(pair: PreferencePair) -> dict[Question, dict[str, int]]:
    """Question -> annotator -> answer; of an annotator who answered twice, the first answer."""
    answers: dict[Question, dict[str, int]] = {question: {} for question in QUESTIONS}
    for vote in pair.votes:
        answers[vote.question].setdefault(vote.annotator, vote.answer)
    return answers


def _few(names: Collection[str]) -> str:
    examples = ", ".join(name[:60] for name in list(names)[:3])
    return f"{examples} and {len(names) - 3} more" if len(names) > 3 else examples
