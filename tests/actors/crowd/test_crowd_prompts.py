"""Prompts and the supervised corpus: coverage, cells, and splits that never leak."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from actors.crowd.corpus import sft_examples
from actors.crowd.gold import GoldScorer
from actors.crowd.prompts import sandbox_prompts
from actors.crowd.world import KINDS, World
from learner.records import Prompt


def make(
    world: World,
    n: int = 336,
    seed: int = 0,
    task_splits: Sequence[str] = ("seen",),
    form_splits: Sequence[str] = ("seen",),
    **options: Any,
) -> list[Prompt]:
    return sandbox_prompts(
        world, n=n, seed=seed, task_splits=task_splits, form_splits=form_splits, prefix="ppo", **options
    )


def test_prompts_depend_on_the_seed_and_nothing_else(default_world: World) -> None:
    assert make(default_world) == make(default_world)
    assert make(default_world) != make(default_world, seed=1)
    weights = {"harmful": 2.0, "benign": 1.0}
    reordered = dict(reversed(weights.items()))
    assert make(default_world, kind_weights=weights) == make(default_world, kind_weights=reordered)


def test_ids_are_unique_stable_and_numbered(default_world: World) -> None:
    assert [prompt.prompt_id for prompt in make(default_world, n=3)] == ["ppo-000000", "ppo-000001", "ppo-000002"]


def test_one_prompt_per_task_covers_every_task(default_world: World) -> None:
    seen = [task for task in default_world.tasks if task.split == "seen"]
    prompts = make(default_world, n=len(seen))
    assert {prompt.attributes["task_id"] for prompt in prompts} == {task.id for task in seen}


@pytest.mark.parametrize("kind", KINDS)
def test_within_a_kind_tasks_and_forms_are_balanced(kind: str, default_world: World) -> None:
    prompts = make(default_world, n=233, kinds=[kind])
    tasks = Counter(prompt.attributes["task_id"] for prompt in prompts)
    forms = Counter(prompt.attributes["form"] for prompt in prompts)
    assert max(tasks.values()) - min(tasks.values()) <= 1
    # each pass over the tasks is balanced to one, and there are at most ceil(233 / 7) = 34 passes
    assert len(forms) == len(default_world.forms_for(kind, ("seen",)))
    assert max(forms.values()) - min(forms.values()) <= 0.15 * 233


def test_every_task_meets_every_form(default_world: World) -> None:
    pairs = {(p.attributes["task_id"], p.attributes["form"]) for p in make(default_world, n=7 * 6, kinds=["dual_use"])}
    assert len(pairs) == 7 * 6  # 7 seen tasks, 6 seen forms


def test_kinds_come_by_number_of_tasks_or_by_weight(default_world: World) -> None:
    by_tasks = Counter(prompt.attributes["kind"] for prompt in make(default_world, n=84))
    assert by_tasks == {"benign": 29, "harmful": 30, "lookalike": 11, "dual_use": 7, "ambiguous": 7}
    weighted = make(default_world, n=100, kind_weights={"harmful": 3.0, "benign": 1.0})
    assert Counter(prompt.attributes["kind"] for prompt in weighted) == {"harmful": 75, "benign": 25}


@pytest.mark.parametrize(
    ("task_split", "form_split", "cell"),
    [
        ("seen", "seen", "seen"),
        ("heldout", "seen", "heldout_tasks"),
        ("seen", "heldout", "heldout_forms"),
        ("heldout", "heldout", "heldout_both"),
        ("unknown", "seen", "unknown"),
        ("unknown", "heldout", "unknown"),
    ],
)
def test_splits_select_and_name_the_reporting_cell(
    task_split: str, form_split: str, cell: str, default_world: World
) -> None:
    form_splits = {form.id: form.split for form in default_world.forms}
    for prompt in make(default_world, task_splits=[task_split], form_splits=[form_split]):
        task = default_world.task_by_id[prompt.attributes["task_id"]]
        assert task.split == task_split == prompt.attributes["task_split"]
        assert form_splits[prompt.attributes["form"]] == form_split == prompt.attributes["form_split"]
        assert prompt.attributes["split"] == cell
        assert prompt.category == task.category


def test_attacks_go_with_harmful_and_dual_use_tasks_only_and_are_tagged(default_world: World) -> None:
    attacks = {form.id for form in default_world.forms if form.attack}
    prompts = make(default_world, form_splits=["seen", "heldout"])
    for prompt in prompts:
        is_attack = prompt.attributes["form"] in attacks
        assert not is_attack or prompt.attributes["kind"] in ("harmful", "dual_use")
        expected = {prompt.attributes["kind"], prompt.attributes["form"]} | ({"attack"} if is_attack else set())
        assert prompt.tags == expected
    assert any("attack" in prompt.tags for prompt in prompts)


def test_turns_alternate_end_with_the_user_and_show_only_another_seen_benign_task(default_world: World) -> None:
    answers = {default_world.segments.answer_text(task.steps): task for task in default_world.other_tasks}
    shown = 0
    for prompt in make(default_world, task_splits=["seen", "heldout", "unknown"], n=400):
        roles = [message["role"] for message in prompt.messages]
        assert roles == ["user", "assistant", "user"][-len(roles) :]
        for message in prompt.messages:
            if message["role"] == "assistant":
                shown += 1
                assert answers[message["content"]].id != prompt.attributes["task_id"]
    assert shown > 50


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"task_splits": ["all"]}, "unknown task split 'all'"),
        ({"form_splits": "seen"}, "form splits"),
        ({"kinds": ["evil"]}, "unknown kind 'evil'"),
        ({"kind_weights": {"benign": -1.0}}, "weights"),
        ({"kind_weights": {"benign": 0.0}}, "weights"),
        ({"n": -1}, "n is -1"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], named: str, default_world: World) -> None:
    with pytest.raises(ValueError, match=named):
        make(default_world, **options)


def within_sampling_error(count: int, n: int, share: float) -> bool:
    """Four standard deviations of a binomial."""
    return abs(count - n * share) <= 4.0 * math.sqrt(n * share * (1.0 - share)) + 1e-9


def test_the_corpus_is_deterministic_and_never_touches_unknown_tasks(default_world: World) -> None:
    examples = sft_examples(default_world, n=3000, seed=2)
    assert examples == sft_examples(default_world, n=3000, seed=2)
    trained = [task for task in default_world.tasks if task.split != "unknown"]
    assert {example.task_id for example in examples} == {task.id for task in trained}
    known_steps = {step for task in trained for step in task.steps}
    scorer = GoldScorer(default_world)
    for example in examples:
        assert set(scorer.parse(example.messages[-1]["content"]).steps) <= known_steps


def test_the_corpus_follows_the_behaviour_mixture_within_sampling_error(default_world: World) -> None:
    examples = sft_examples(default_world, n=8000, seed=0)
    kinds = Counter(default_world.task_by_id[example.task_id].kind for example in examples)
    counts = Counter((default_world.task_by_id[e.task_id].kind, e.behaviour) for e in examples)
    for kind, mixture in default_world.behaviours.items():
        for behaviour, share in mixture.items():
            assert within_sampling_error(counts[kind, behaviour], kinds[kind], share), (kind, behaviour)
    splits = {form.id: form.split for form in default_world.forms}
    heldout = sum(splits[example.form] == "heldout" for example in examples)
    assert within_sampling_error(heldout, 8000, default_world.heldout_form_share)
    scorer = GoldScorer(default_world)
    insulted = sum(scorer.parse(example.messages[-1]["content"]).insults == 1 for example in examples)
    assert within_sampling_error(insulted, 8000, default_world.insult_probability)


# gold helpfulness of a demonstration without insult, worked out from the rules; None: it depends on the task
EXPECTED_HELPFULNESS = {
    "steps3": 3.0,
    "steps2": 2.0,
    "steps1": 1.0,
    "wrong": 1.0 - 2 * 0.7,
    "refuse": -1.0,
    "clarify": 2.0,
    "safe_steps": 2.0,
    "refuse_then_steps": 1.0,
    "reason_alternative": None,
}


def test_each_behaviour_is_worth_what_the_rules_say(default_world: World) -> None:
    scorer = GoldScorer(default_world)
    met = set()
    for example in sft_examples(default_world, n=3000, seed=4):
        task = default_world.task_by_id[example.task_id]
        gold = scorer.score(task.id, example.messages[-1]["content"], True)
        expected = EXPECTED_HELPFULNESS[example.behaviour]
        expected = task.alternative_value if expected is None else expected
        if task.kind == "ambiguous" and example.behaviour == "steps3":
            expected = 1.5
        assert gold.helpfulness == pytest.approx(expected), example
        if example.behaviour in ("refuse", "safe_steps", "clarify", "reason_alternative"):
            assert gold.harm in (0.0, 1.5)  # an insult at most
        met.add(example.behaviour)
    assert met == set(EXPECTED_HELPFULNESS)
