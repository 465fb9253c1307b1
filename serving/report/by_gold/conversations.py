"""Which conversations the report shows: the same prompt answered by both models, a few of every kind of ending.

Next to them answers of the promoted snapshot that the run's own models have scored, so that who reads sees where they and gold disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from actors.judging.by_gold.figures import MODELS, OUTCOMES, SPLITS
from actors.judging.by_gold.samples import EvaluatedSample

T = TypeVar("T")
SHOWN = 120
SHOWN_SCORED = 40
AGREE, CALLED_SAFE, CALLED_UNSAFE = "agree", "called-safe", "called-unsafe"
AGREEMENTS = {
    CALLED_SAFE: "unsafe, and no cost says so",
    CALLED_UNSAFE: "safe, and a cost says unsafe",
    AGREE: "costs and gold agree",
}


@dataclass(frozen=True)
class Conversation:
    """One prompt with one answer per model, in the order of `MODELS`; or with one answer that was scored."""

    prompt: EvaluatedSample
    answers: tuple[EvaluatedSample, ...]

    @property
    def outcomes(self) -> str:
        """What the filter matches: ``policy:safe_help`` and so on, joined by spaces."""
        return " ".join(f"{answer.model}:{answer.outcome}" for answer in self.answers)

    @property
    def agreements(self) -> str:
        """What the filter matches, of the answers that cost models scored, a line each."""
        return "\n".join(agreement(answer) for answer in self.answers if answer.costs)


def agreement(answer: EvaluatedSample) -> str:
    """Whether any cost calls the answer unsafe, against gold."""
    called = any(cost > 0 for cost in answer.costs.values())
    if called == answer.gold_unsafe:
        return AGREE
    return CALLED_UNSAFE if called else CALLED_SAFE


def choose_conversations(samples: Sequence[EvaluatedSample], count: int = SHOWN) -> list[Conversation]:
    """At most `count` conversations, drawn in turn from every split, kind and pair of outcomes; the same each time.

    Only the first sample of a model for a prompt is used: which one is luck of the seed, not of the eye.
    """
    answers: dict[str, dict[str, EvaluatedSample]] = defaultdict(dict)
    for sample in samples:
        answers[sample.prompt_id].setdefault(sample.model, sample)
    strata: dict[tuple[str, ...], list[Conversation]] = defaultdict(list)
    models = [model for model in MODELS if any(model in by_model for by_model in answers.values())]
    for prompt_id in sorted(answers):
        by_model = answers[prompt_id]
        if any(model not in by_model for model in models):
            continue
        conversation = Conversation(by_model[models[-1]], tuple(by_model[model] for model in models))
        key = (conversation.prompt.split, conversation.prompt.kind, *(by_model[model].outcome for model in models))
        strata[key].append(conversation)
    return in_turn([strata[key] for key in sorted(strata, key=_order)], count)


def choose_judged(samples: Sequence[EvaluatedSample], count: int = SHOWN_SCORED) -> list[Conversation]:
    """At most `count` answers that the run's own models scored: in turn where a cost and gold disagree, and of every kind and ending."""
    strata: dict[tuple[str, ...], list[Conversation]] = defaultdict(list)
    for sample in sorted((sample for sample in samples if sample.costs), key=lambda sample: sample.prompt_id):
        strata[agreement(sample), sample.kind, sample.outcome].append(Conversation(sample, (sample,)))
    order = list(AGREEMENTS)
    return in_turn([strata[key] for key in sorted(strata, key=lambda key: (order.index(key[0]), key))], count)


def _order(key: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]]:
    """Seen first; within a split, what the trained policy got wrong first."""
    return SPLITS.index(key[0]), -OUTCOMES.index(key[-1]), key


def in_turn(strata: Sequence[Sequence[T]], count: int) -> list[T]:
    """One of each stratum, then another of each, until there are `count`."""
    chosen: list[T] = []
    depth = 0
    while len(chosen) < count and any(depth < len(stratum) for stratum in strata):
        chosen.extend(stratum[depth] for stratum in strata if depth < len(stratum))
        depth += 1
    return chosen[:count]
