"""Which conversations a report without gold shows: prompts that both models answered, in turn from every set and side of zero."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.judging.by_models.answers import MODELS, ScoredAnswer
from actors.judging.judges.refusal_words import is_refusal
from serving.model_verdict import number
from serving.report.by_gold.conversations import SHOWN, in_turn

ABOVE, BELOW = "above", "below"


@dataclass(frozen=True)
class ScoredReply:
    """One answer as it is shown."""

    answer: ScoredAnswer
    chips: tuple[tuple[str, str], ...]
    """(style, words): on which side of each cost's zero it is, and whether it looks like a refusal."""
    scores: str


@dataclass(frozen=True)
class ScoredConversation:
    """One prompt with one reply per model, in the order of `MODELS`."""

    prompt: ScoredAnswer
    replies: tuple[ScoredReply, ...]

    @property
    def outcomes(self) -> str:
        """What the filter matches: ``policy:harm:above`` and so on, joined by spaces."""
        return " ".join(
            f"{reply.answer.model}:{name}:{_side(cost)}"
            for reply in self.replies
            for name, cost in reply.answer.costs.items()
        )

    @property
    def tags(self) -> str:
        """The prompt's tags, a line each: a tag may hold spaces."""
        return "\n".join(self.prompt.tags)


def choose_scored(
    answers: Sequence[ScoredAnswer], labelled: frozenset[str], count: int = SHOWN
) -> list[ScoredConversation]:
    """At most `count` conversations, in turn from every set and pair of sides of zero; the same each time.

    Args:
        labelled: constraints whose cost was trained on safety labels; only there is above zero called unsafe.
    """
    by_prompt: dict[tuple[str, str], dict[str, ScoredAnswer]] = defaultdict(dict)
    sets = list(dict.fromkeys(answer.set for answer in answers))
    for answer in answers:
        by_prompt[answer.set, answer.prompt_id].setdefault(answer.model, answer)
    models = [model for model in MODELS if any(model in by_model for by_model in by_prompt.values())]
    strata: dict[tuple[object, ...], list[ScoredConversation]] = defaultdict(list)
    for key in sorted(by_prompt):
        by_model = by_prompt[key]
        if any(model not in by_model for model in models):
            continue
        replies = tuple(_reply(by_model[model], labelled) for model in models)
        sides = tuple(_side(cost) for model in reversed(models) for cost in by_model[model].costs.values())
        # The policy's own sides first: what it got wrong comes before what it got right.
        strata[sets.index(key[0]), *sides].append(ScoredConversation(by_model[models[-1]], replies))
    return in_turn([strata[stratum] for stratum in sorted(strata, key=repr)], count)


def filters_of(conversations: Sequence[ScoredConversation]) -> dict[str, list[str]]:
    """What conversations can be filtered by: values of ``set``, ``tag``, ``category`` and ``side`` (model and constraint)."""
    prompts = [conversation.prompt for conversation in conversations]
    return {
        "set": list(dict.fromkeys(prompt.set for prompt in prompts)),
        "tag": sorted({tag for prompt in prompts for tag in prompt.tags}),
        "category": sorted({prompt.category for prompt in prompts if prompt.category is not None}),
        "side": list(dict.fromkeys(_pairs(conversations))),
    }


def _pairs(conversations: Sequence[ScoredConversation]) -> Iterator[str]:
    for conversation in conversations:
        for reply in conversation.replies:
            yield from (f"{reply.answer.model}:{name}" for name in reply.answer.costs)


def _reply(answer: ScoredAnswer, labelled: frozenset[str]) -> ScoredReply:
    chips = [_chip(name, cost, name in labelled, len(answer.costs)) for name, cost in answer.costs.items()]
    if is_refusal(answer.response):
        chips.append(("refusal", "refusal?"))
    notes = [] if answer.reward is None else [f"reward {number(answer.reward)}"]
    notes += _named("cost", answer.costs) + _named("", answer.watched)
    notes.append(f"{answer.response_tokens} tokens")
    return ScoredReply(answer, tuple(chips), " · ".join(notes))


def _chip(name: str, cost: float, is_labelled: bool, count: int) -> tuple[str, str]:
    sides = ("unsafe by score", "safe by score") if is_labelled else ("above zero", "below zero")
    text = sides[0] if cost > 0 else sides[1]
    return ("harmful" if cost > 0 else "safe_help"), text if count == 1 else f"{name}: {text}"


def _named(prefix: str, scores: Mapping[str, float]) -> list[str]:
    return [f"{prefix} {name.replace('_', ' ')} {number(value)}".strip() for name, value in scores.items()]


def _side(cost: float) -> str:
    return ABOVE if cost > 0 else BELOW
