"""Simulated annotators: people who see helpfulness and harm through noise, a bias and, in mixed mode, a private taste.

Every answer depends on (seed, id of the pair or response) only, so that labels survive reordering, batching and restarts.

In decoupled mode a question sheet has four questions (is response 0 safe, is response 1 safe, which helps more, which
is safer) and each gets ``votes`` votes. In mixed mode there is one question (which is better overall). No annotator is
asked there whether a response is safe, so ``is_response_i_safe`` is None and no category is given: deriving a safety
label from the one ranking would invent information that the arm did not pay for. ``questions_asked`` counts votes,
so that arms compare at equal labelling cost.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from actors.crowd.gold import Gold, GoldScorer
from actors.crowd.world import World

Mode = Literal["decoupled", "mixed"]
Question = Literal["safety_0", "safety_1", "helpfulness", "harmlessness", "overall"]


@dataclass(frozen=True)
class CrowdSettings:
    """Who is asked, how often and how noisily.

    ``temperature`` is the Bradley-Terry temperature in gold units; ``bias_scale`` the spread, in the same units, of an
    annotator's leaning towards the first response; ``safety_error_rate`` the chance that a safety label is wrong;
    ``mixed_weight_range`` the range of an annotator's weight on helpfulness in mixed mode.
    """

    annotators: int = 5
    votes: int = 3
    temperature: float = 1.0 / 3.0
    bias_scale: float = 0.05
    safety_error_rate: float = 0.02
    mode: Mode = "decoupled"
    mixed_weight_range: tuple[float, float] = (0.2, 0.8)
    guideline_version: str = "1"

    def __post_init__(self) -> None:
        low, high = self.mixed_weight_range
        if self.votes < 1 or self.votes % 2 == 0:
            raise ValueError(f"votes is {self.votes}; give an odd number, or a majority may not exist")
        if self.annotators < self.votes:
            raise ValueError(
                f"{self.annotators} annotators cannot give {self.votes} votes; no annotator is asked twice"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise ValueError(f"temperature is {self.temperature}; give a number above 0 (small is nearly noiseless)")
        if not (math.isfinite(self.bias_scale) and self.bias_scale >= 0.0):
            raise ValueError(f"bias_scale is {self.bias_scale}; give a number of 0 or more")
        if not 0.0 <= self.safety_error_rate < 0.5:
            raise ValueError(
                f"safety_error_rate is {self.safety_error_rate}; give 0 to below 0.5, where labels are noise"
            )
        if self.mode not in ("decoupled", "mixed"):
            raise ValueError(f"mode is {self.mode!r}; use decoupled or mixed")
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"mixed_weight_range is {self.mixed_weight_range}; give 0 <= low <= high <= 1")


@dataclass(frozen=True)
class PairToLabel:
    """Two responses to one prompt about one task; ``finished_i`` is False where the length limit cut."""

    pair_id: str
    task_id: str
    response_0: str
    response_1: str
    finished_0: bool = True
    finished_1: bool = True


@dataclass(frozen=True)
class Vote:
    """One annotator's answer to one question: ``choice`` (0 or 1) of a ranking, or a safety label."""

    annotator_id: str
    question: Question
    choice: int | None = None
    is_safe: bool | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairLabel:
    """The majority's answers; ids are 0 or 1. ``votes`` are as cast, before the logical order was imposed.

    The crowd always ranks; a judge or a person may leave a ranking open (None).
    """

    pair_id: str
    better_response_id: int | None
    safer_response_id: int | None
    is_response_0_safe: bool | None
    is_response_1_safe: bool | None
    response_0_categories: tuple[str, ...]
    response_1_categories: tuple[str, ...]
    votes: tuple[Vote, ...]
    questions_asked: int
    mode: Mode
    guideline_version: str


@dataclass(frozen=True)
class Annotator:
    """One person: leanings towards the first response, in gold units, and the weight on helpfulness in mixed mode."""

    annotator_id: str
    helpfulness_bias: float
    harmlessness_bias: float
    helpfulness_weight: float


class Crowd:
    """The annotators of one world. ``label`` has no state: any order, any batch, the same answers."""

    def __init__(self, world: World, settings: CrowdSettings, seed: int) -> None:
        self.settings = settings
        self._seed = seed
        self._scorer = GoldScorer(world)
        self._categories = tuple(world.categories.values())
        self.annotators = tuple(self._hire(index) for index in range(settings.annotators))

    def label(self, pairs: Sequence[PairToLabel]) -> list[PairLabel]:
        """One label per pair, in the same order. Raises KeyError on a task the world does not have."""
        return [self._label(pair) for pair in pairs]

    def says_safe(self, response_id: str, task_id: str, response: str, finished: bool = True) -> bool:
        """The majority's safety label of one response by itself; each of ``votes`` annotators errs independently.

        A question of its own, so a crowd in mixed mode can be asked too. Raises KeyError as `label`.
        """
        gold = self._scorer.score(task_id, response, finished)
        rng = random.Random(f"response/{self._seed}/{response_id}")
        voters = rng.sample(self.annotators, self.settings.votes)
        return _is_safe([self._safety_vote(person, "safety_0", gold, rng) for person in voters])

    def _hire(self, index: int) -> Annotator:
        rng = random.Random(f"annotator/{self._seed}/{index}")
        scale = self.settings.bias_scale
        weight = rng.uniform(*self.settings.mixed_weight_range)
        return Annotator(f"crowd-{index}", rng.gauss(0.0, scale), rng.gauss(0.0, scale), weight)

    def _label(self, pair: PairToLabel) -> PairLabel:
        gold_0 = self._scorer.score(pair.task_id, pair.response_0, pair.finished_0)
        gold_1 = self._scorer.score(pair.task_id, pair.response_1, pair.finished_1)
        rng = random.Random(f"pair/{self._seed}/{pair.pair_id}")
        voters = rng.sample(self.annotators, self.settings.votes)
        if self.settings.mode == "mixed":
            return self._mixed_label(pair.pair_id, gold_0, gold_1, voters, rng)
        return self._decoupled_label(pair.pair_id, gold_0, gold_1, voters, rng)

    def _mixed_label(
        self, pair_id: str, gold_0: Gold, gold_1: Gold, voters: Sequence[Annotator], rng: random.Random
    ) -> PairLabel:
        votes = []
        for person in voters:
            weight = person.helpfulness_weight
            gap = weight * (gold_0.helpfulness - gold_1.helpfulness) - (1.0 - weight) * (gold_0.harm - gold_1.harm)
            bias = weight * person.helpfulness_bias + (1.0 - weight) * person.harmlessness_bias
            votes.append(Vote(person.annotator_id, "overall", choice=self._choose(gap + bias, rng)))
        preferred = _majority(votes)
        return self._answer(pair_id, preferred, preferred, None, None, votes)

    def _decoupled_label(
        self, pair_id: str, gold_0: Gold, gold_1: Gold, voters: Sequence[Annotator], rng: random.Random
    ) -> PairLabel:
        safety_0 = [self._safety_vote(person, "safety_0", gold_0, rng) for person in voters]
        safety_1 = [self._safety_vote(person, "safety_1", gold_1, rng) for person in voters]
        better, safer = [], []
        for person in voters:
            gap = gold_0.helpfulness - gold_1.helpfulness + person.helpfulness_bias
            better.append(Vote(person.annotator_id, "helpfulness", choice=self._choose(gap, rng)))
        for person in voters:
            gap = gold_1.harm - gold_0.harm + person.harmlessness_bias
            safer.append(Vote(person.annotator_id, "harmlessness", choice=self._choose(gap, rng)))
        safe_0, safe_1 = _is_safe(safety_0), _is_safe(safety_1)
        # logical order: a response labelled safe ranks above one labelled unsafe, whatever the ranking's votes say
        safer_id = _majority(safer) if safe_0 == safe_1 else (0 if safe_0 else 1)
        votes = [*safety_0, *safety_1, *better, *safer]
        return self._answer(pair_id, _majority(better), safer_id, safety_0, safety_1, votes)

    def _answer(
        self,
        pair_id: str,
        better: int,
        safer: int,
        safety_0: Sequence[Vote] | None,
        safety_1: Sequence[Vote] | None,
        votes: Sequence[Vote],
    ) -> PairLabel:
        return PairLabel(
            pair_id=pair_id,
            better_response_id=better,
            safer_response_id=safer,
            is_response_0_safe=None if safety_0 is None else _is_safe(safety_0),
            is_response_1_safe=None if safety_1 is None else _is_safe(safety_1),
            response_0_categories=() if safety_0 is None else _agreed_categories(safety_0),
            response_1_categories=() if safety_1 is None else _agreed_categories(safety_1),
            votes=tuple(votes),
            questions_asked=len(votes),
            mode=self.settings.mode,
            guideline_version=self.settings.guideline_version,
        )

    def _choose(self, gap: float, rng: random.Random) -> int:
        """0 with Bradley-Terry probability sigma(gap / temperature), else 1; ``gap`` favours response 0."""
        # tanh form: exp would overflow at small temperatures
        probability = 0.5 * (1.0 + math.tanh(0.5 * gap / self.settings.temperature))
        return 0 if rng.random() < probability else 1

    def _safety_vote(self, person: Annotator, question: Question, gold: Gold, rng: random.Random) -> Vote:
        mistaken = rng.random() < self.settings.safety_error_rate
        imagined = rng.choice(self._categories)
        if gold.unsafe == mistaken:
            return Vote(person.annotator_id, question, is_safe=True)
        category = gold.category if gold.category is not None else imagined
        return Vote(person.annotator_id, question, is_safe=False, categories=(category,))


def _majority(votes: Sequence[Vote]) -> int:
    return int(2 * sum(vote.choice == 1 for vote in votes) > len(votes))


def _is_safe(votes: Sequence[Vote]) -> bool:
    return 2 * sum(bool(vote.is_safe) for vote in votes) > len(votes)


def _agreed_categories(votes: Sequence[Vote]) -> tuple[str, ...]:
    """The categories that most unsafe votes name, none where the majority says safe."""
    if _is_safe(votes):
        return ()
    counts = Counter(category for vote in votes for category in vote.categories)
    return tuple(sorted(category for category, count in counts.items() if count == max(counts.values())))
