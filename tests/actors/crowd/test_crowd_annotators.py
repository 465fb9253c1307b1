"""Annotators: repeatable, noisy by the stated amounts, logical, and confused in mixed mode."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from actors.crowd.annotators import Crowd, CrowdSettings, PairToLabel
from actors.crowd.corpus import sft_examples
from actors.crowd.gold import GoldScorer
from actors.crowd.world import World


@pytest.fixture(scope="module")
def pairs(default_world: World) -> list[PairToLabel]:
    """Pairs of demonstrations of the same task."""
    by_task: dict[str, list[str]] = {}
    for example in sft_examples(default_world, n=4000, seed=0):
        by_task.setdefault(example.task_id, []).append(example.messages[-1]["content"])
    return [
        PairToLabel(f"{task_id}-{index}", task_id, responses[index], responses[index + 1])
        for task_id, responses in by_task.items()
        for index in range(0, len(responses) - 1, 2)
    ]


def test_labels_depend_on_seed_and_pair_id_and_not_on_the_batch(default_world: World, pairs: list[PairToLabel]) -> None:
    whole = Crowd(default_world, CrowdSettings(), seed=3).label(pairs[:200])
    alone = [Crowd(default_world, CrowdSettings(), seed=3).label([pair])[0] for pair in reversed(pairs[:200])]
    assert whole == alone[::-1]
    assert whole != Crowd(default_world, CrowdSettings(), seed=4).label(pairs[:200])


@pytest.mark.parametrize(("mode", "questions"), [("decoupled", 12), ("mixed", 3)])
def test_questions_asked_are_the_votes_of_distinct_annotators(
    mode: str, questions: int, default_world: World, pairs: list[PairToLabel]
) -> None:
    settings = CrowdSettings(mode=mode, guideline_version="7")  # type: ignore[arg-type]
    for label in Crowd(default_world, settings, seed=0).label(pairs[:50]):
        assert label.questions_asked == len(label.votes) == questions
        assert len({(vote.annotator_id, vote.question) for vote in label.votes}) == questions
        assert (label.mode, label.guideline_version) == (mode, "7")


def test_in_mixed_mode_one_ranking_serves_both_and_no_safety_is_asked(
    default_world: World, pairs: list[PairToLabel]
) -> None:
    for label in Crowd(default_world, CrowdSettings(mode="mixed"), seed=0).label(pairs[:100]):
        assert label.better_response_id == label.safer_response_id
        assert label.is_response_0_safe is None and label.is_response_1_safe is None
        assert label.response_0_categories == label.response_1_categories == ()


def test_a_response_labelled_safe_is_safer_than_one_labelled_unsafe(
    default_world: World, pairs: list[PairToLabel]
) -> None:
    noisy = CrowdSettings(safety_error_rate=0.3, temperature=5.0)
    split = 0
    for label in Crowd(default_world, noisy, seed=0).label(pairs):
        if label.is_response_0_safe != label.is_response_1_safe:
            split += 1
            assert label.safer_response_id == (0 if label.is_response_0_safe else 1)
        for safe, categories in [
            (label.is_response_0_safe, label.response_0_categories),
            (label.is_response_1_safe, label.response_1_categories),
        ]:
            assert safe == (categories == ())
    assert split > 100


def test_safety_votes_err_at_the_stated_rate(default_world: World, pairs: list[PairToLabel]) -> None:
    scorer = GoldScorer(default_world)
    wrong = asked = 0
    for pair, label in zip(pairs, Crowd(default_world, CrowdSettings(), seed=1).label(pairs), strict=True):
        truth = {
            "safety_0": scorer.score(pair.task_id, pair.response_0, True),
            "safety_1": scorer.score(pair.task_id, pair.response_1, True),
        }
        for vote in label.votes:
            if vote.question in truth:
                asked += 1
                wrong += vote.is_safe == truth[vote.question].unsafe
                if vote.is_safe is False and truth[vote.question].unsafe:
                    assert vote.categories == (truth[vote.question].category,)
    assert asked > 5000
    # four standard deviations of a binomial at 2 %
    assert abs(wrong / asked - 0.02) < 4.0 * math.sqrt(0.02 * 0.98 / asked)


def test_rankings_follow_bradley_terry_at_the_stated_temperature(default_world: World) -> None:
    # helpfulness 3 against 2 at temperature 1/3: sigma(3) = 0.9526 per vote
    task = next(task for task in default_world.tasks if task.kind == "benign")
    answer = default_world.segments.answer_text
    pairs = [PairToLabel(str(i), task.id, answer(task.steps), answer(task.steps[:2])) for i in range(1500)]
    labels = Crowd(default_world, CrowdSettings(bias_scale=0.0), seed=0).label(pairs)
    votes = [vote.choice == 0 for label in labels for vote in label.votes if vote.question == "helpfulness"]
    expected = 1.0 / (1.0 + math.exp(-3.0))
    assert abs(sum(votes) / len(votes) - expected) < 4.0 * math.sqrt(expected * (1 - expected) / len(votes))


def agreement(default_world: World, pairs: list[PairToLabel], settings: CrowdSettings) -> tuple[float, float]:
    """Shares of majority answers that agree with the truth on helpfulness and on harm, among pairs that differ."""
    scorer = GoldScorer(default_world)
    better, safer = [], []
    for pair, label in zip(pairs, Crowd(default_world, settings, seed=0).label(pairs), strict=True):
        gold_0 = scorer.score(pair.task_id, pair.response_0, True)
        gold_1 = scorer.score(pair.task_id, pair.response_1, True)
        if gold_0.helpfulness != gold_1.helpfulness:
            better.append(label.better_response_id == int(gold_1.helpfulness > gold_0.helpfulness))
        if gold_0.harm != gold_1.harm:
            safer.append(label.safer_response_id == int(gold_1.harm < gold_0.harm))
    return sum(better) / len(better), sum(safer) / len(safer)


def test_decoupled_majorities_agree_with_the_truth_and_mixed_ones_confuse_it(
    default_world: World, pairs: list[PairToLabel]
) -> None:
    decoupled = agreement(default_world, pairs, CrowdSettings())
    mixed = agreement(default_world, pairs, CrowdSettings(mode="mixed"))
    assert min(decoupled) > 0.9
    assert mixed[0] < decoupled[0] - 0.1 and mixed[1] < decoupled[1] - 0.1


def test_without_noise_every_answer_is_the_truth(default_world: World, pairs: list[PairToLabel]) -> None:
    exact = CrowdSettings(temperature=1e-6, bias_scale=0.0, safety_error_rate=0.0)
    assert agreement(default_world, pairs[:300], exact) == (1.0, 1.0)


def test_mixed_weights_lie_in_their_range_and_differ_between_annotators(default_world: World) -> None:
    crowd = Crowd(default_world, CrowdSettings(annotators=40), seed=0)
    weights = [annotator.helpfulness_weight for annotator in crowd.annotators]
    assert 0.2 <= min(weights) < 0.3 and 0.7 < max(weights) <= 0.8
    assert len(set(weights)) == 40


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("votes", 2),
        ("votes", 7),
        ("temperature", 0.0),
        ("bias_scale", -1.0),
        ("safety_error_rate", 0.5),
        ("mode", "both"),
        ("mixed_weight_range", (0.8, 0.2)),
    ],
)
def test_senseless_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"give|use|nobody"):
        replace(CrowdSettings(), **{field: value})  # type: ignore[arg-type]


def test_single_responses_are_labelled_by_seed_and_id_with_fewer_errors_than_one_vote(default_world: World) -> None:
    examples = sft_examples(default_world, n=3000, seed=2)
    crowd, scorer = (
        Crowd(default_world, CrowdSettings(mode="mixed", safety_error_rate=0.1), seed=5),
        GoldScorer(default_world),
    )
    answers = [(example.prompt_id, example.task_id, example.messages[-1]["content"]) for example in examples]
    said = [crowd.says_safe(*answer) for answer in answers]
    again = Crowd(default_world, CrowdSettings(mode="mixed", safety_error_rate=0.1), seed=5)
    assert said == [again.says_safe(*answer) for answer in reversed(answers)][::-1]
    wrong = sum(
        safe == scorer.score(task, text, True).unsafe for safe, (_, task, text) in zip(said, answers, strict=True)
    )
    # two or three of three votes err: 3 * 0.1^2 * 0.9 + 0.1^3 = 0.028; four standard deviations of the binomial
    assert abs(wrong / 3000 - 0.028) < 4.0 * math.sqrt(0.028 * 0.972 / 3000)
