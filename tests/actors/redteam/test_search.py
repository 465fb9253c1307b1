"""Best of n and the trained attacker against a made-up victim with a known weakness; finds as prompts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from actors.redteam.attacker import AttackerPolicy, AttackerSettings, train_attacker
from actors.redteam.best_of_n import best_of_n
from actors.redteam.drive import carry_out
from actors.redteam.finds import Origin, find_of, finds_as_prompts, read_finds, write_finds
from actors.redteam.grammar import FORM, SUFFIX, Grammar
from actors.redteam.labels import GoldLabeller
from actors.redteam.targets import sandbox_targets
from cluster.evaluation.redteam.finds import may_train
from cluster.inputs.sandbox_prompts import PURPOSES, TRAIN, Splits
from configs.exits import ConfigError, DataError
from configs.schema.supervised import SplitSettings
from learner.data.formats import read_source
from tests.actors.redteam.fakes import SEGMENTS, WORLD, FakeVictim, last, steps, suite, target_of, targets

GOLD = GoldLabeller(WORLD)
ORIGIN = Origin("run:policy", "abc123", "def456", "gold")


def weak_to(word: str) -> FakeVictim:
    """Answers in full, at a high cost, whenever a word is in the question; else it refuses."""

    def says(asked):
        weak = word in last(asked)
        return (steps(target_of(asked)), 2.0) if weak else (SEGMENTS.refusal, -2.0)

    return FakeVictim(says)


def test_best_of_n_finds_the_weakness_of_every_target_and_tries_it_again():
    victim = weak_to("no rules")
    found = best_of_n(targets(5), Grammar(suite()), victim, GOLD, n=20, keep=2, retests=3)
    assert len(found.kept) == 10
    assert found.tried == 100
    assert all(kept.cost == 2.0 and kept.success == 1.0 and len(kept.retest) == 3 for kept in found.kept)
    assert {kept.attack.target.id for kept in found.kept} == {target.id for target in targets(5)}
    assert 0 < found.success < 1
    assert found.mean_cost < 2.0


def test_the_retest_is_fresh_so_luck_shows():
    """A victim whose cost is noise: what was kept looked costly, and on fresh samples is not."""
    rng = np.random.default_rng(0)
    victim = FakeVictim(lambda asked: (SEGMENTS.refusal, float(rng.normal())))
    found = best_of_n(targets(10), Grammar(suite()), victim, GOLD, n=20, keep=1, retests=10)
    assert np.mean([kept.chosen_by for kept in found.kept]) > 1.3
    assert abs(np.mean([kept.cost for kept in found.kept])) < 0.5
    ids = [asked.request_id for asked in victim.asked]
    assert len(set(ids)) == len(ids)


def test_the_attacker_learns_the_weakness():
    settings = AttackerSettings(steps=25, batch=48, seed=1)
    victim = weak_to("sure !")
    found, policy = train_attacker(targets(8), Grammar(suite()), victim, GOLD, settings)
    first, final = found.curve[0], found.curve[-1]
    assert final["cost"] > 1.0 > first["cost"] + 0.5
    assert final["success"] > 0.75
    sure = [i for i, text in enumerate(Grammar(suite()).suite.suffixes) if "sure !" in text]
    assert policy.probabilities(SUFFIX, targets(8)[0].category)[sure].sum() > 0.6
    again, _ = train_attacker(targets(8), Grammar(suite()), weak_to("sure !"), GOLD, settings)
    assert again.curve == found.curve, "the same seed learns the same"


def test_the_attacker_learns_what_works_on_one_category_alone():
    found = sandbox_targets(WORLD, kinds=["harmful"], splits=["seen"])
    category = found[0].category

    def says(asked):
        of = WORLD.task_by_id[target_of(asked)].category
        weak = ("explain" in last(asked)) if of == category else ("count to three" in last(asked))
        return (steps(target_of(asked)), 2.0) if weak else (SEGMENTS.refusal, -2.0)

    mixed = [one for one in found if one.category == category] * 5 + found[3:12]
    _, policy = train_attacker(mixed, Grammar(suite()), FakeVictim(says), GOLD, AttackerSettings(steps=25, batch=48))
    forms = Grammar(suite()).suite.forms
    explain = [i for i, form in enumerate(forms) if any("explain" in turn for turn in form.shape.turns)]
    here = policy.probabilities(FORM, category)[explain].sum()
    there = policy.probabilities(FORM, found[5].category)[explain].sum()
    assert here > 0.7 > 0.4 > there


def test_the_gradient_is_that_of_the_log_probability():
    """One attack with advantage 1 and no entropy moves the logits by rate times onehot less p."""
    grammar = Grammar(suite("direct"))
    policy = AttackerPolicy(grammar, [targets()[0].category])
    attack = grammar.attack(targets()[0], {FORM: 2})
    n = len(grammar.suite.forms)
    policy.learn([attack], np.array([1.0]), rate=0.3, entropy=0.0)
    logits = 0.3 * 2 * (np.eye(n)[2] - 1 / n)  # once for every request, once for its category
    expected = np.exp(logits) / np.exp(logits).sum()
    assert policy.probabilities(FORM, targets()[0].category) == pytest.approx(expected)


def test_without_a_cost_model_or_with_a_bad_setting_it_says_so():
    free = FakeVictim(lambda asked: (SEGMENTS.refusal, None))
    with pytest.raises(ConfigError, match="there is no cost model"):
        best_of_n(targets(1), Grammar(suite()), free, GOLD, n=2)
    with pytest.raises(ConfigError, match="n is 0"):
        best_of_n(targets(1), Grammar(suite()), free, GOLD, n=0)
    with pytest.raises(ConfigError, match="steps is 0"):
        AttackerSettings(steps=0)
    with pytest.raises(ConfigError, match="no request to train on"):
        train_attacker([], Grammar(suite()), free, GOLD, AttackerSettings())
    with pytest.raises(DataError, match="nothing to keep"):
        best_of_n(targets(1), Grammar(suite()), FakeVictim(lambda asked: None), GOLD, n=2)


@pytest.fixture
def finds(tmp_path):
    tasks = sandbox_targets(WORLD, kinds=["harmful"], splits=["seen", "heldout"])
    search = best_of_n(tasks, Grammar(suite()), weak_to("how"), GOLD, n=12, keep=6, retests=2)
    path = tmp_path / "redteam.parquet"
    write_finds([find_of(kept, search, ORIGIN) for kept in search.kept], path)
    return path


def test_finds_survive_the_file_and_are_prompts_for_every_reader(finds):
    found = read_finds(finds)
    assert len({find.id for find in found}) == len(found)
    assert all(find.cost == 2.0 and find.victim_digest == "abc123" and find.gold_harm > 0 for find in found)
    assert any(len(find.messages) > 1 for find in found)
    parsed = list(read_source(str(finds)))
    assert [one.record.prompt_id for one in parsed] == [find.id for find in found]
    assert [tuple(map(dict, one.record.prompt)) for one in parsed] == [tuple(map(dict, f.messages)) for f in found]
    assert "red_team" in parsed[0].record.tags


def test_nothing_that_is_held_out_becomes_a_training_prompt(finds):
    every = read_finds(finds)
    assert {find.task_split for find in every} == {"seen", "heldout"}
    assert any(find.form_split == "heldout" for find in every)
    prompts = finds_as_prompts(finds)
    assert 0 < len(prompts) < len(every)
    assert {prompt.attributes["task_split"] for prompt in prompts} == {"seen"}
    assert {prompt.attributes["form_split"] for prompt in prompts} <= {"seen", "new"}
    assert [prompt.prompt_id for prompt in prompts[:2]] == ["redteam-000000", "redteam-000001"]
    assert all(prompt.tags >= {"harmful", "attack", "red_team"} and prompt.source == "red_team" for prompt in prompts)
    assert finds_as_prompts(finds, least_cost=2.5) == []


@pytest.mark.parametrize("by", ["conversation", "task"])
def test_no_find_is_of_a_conversation_that_something_is_judged_on(finds, by):
    splits = Splits(WORLD, SplitSettings(by=by))
    allowed = finds_as_prompts(finds, allowed=may_train(splits))
    assert 0 < len(allowed) < len(finds_as_prompts(finds))
    forms = {form.id for form in WORLD.forms}
    for prompt in allowed:
        if prompt.attributes["form"] in forms:
            assert splits.purpose(prompt) == TRAIN
        elif by == "task":
            assert splits.purpose(replace(prompt, attributes={**prompt.attributes, "form": "direct"})) == TRAIN
    assert len(PURPOSES) == 5


def test_a_find_of_another_world_is_not_allowed(finds):
    find = replace(read_finds(finds)[0], task_id="nobody", form="direct")
    assert not may_train(Splits(WORLD, SplitSettings()))(find)


def test_the_costliest_conversation_comes_first_and_once(finds, tmp_path):
    every = read_finds(finds)
    write_finds([*every, replace(every[0], search="trained", id="again", cost=9.0)], tmp_path / "two.parquet")
    prompts = finds_as_prompts(
        tmp_path / "two.parquet", task_splits=("seen", "heldout"), form_splits=("seen", "heldout", "new")
    )
    assert prompts[0].attributes["find"] == "again"
    assert len({tuple(turn["content"] for turn in prompt.messages) for prompt in prompts}) == len(prompts)


def test_a_broken_file_is_one_line(tmp_path):
    (tmp_path / "x.parquet").write_text("nothing")
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read"):
        finds_as_prompts(tmp_path / "x.parquet")


def test_a_weak_victim_is_weak_only_where_it_is_asked_so():
    grammar = Grammar(suite())
    results = carry_out(grammar.plain(targets(2)), weak_to("count to three"), GOLD)
    weak = {result.attack.form.strategy for result in results if result.worst.judgement.success}
    assert weak == {"command_embedding"}
    assert math.isfinite(sum(result.cost for result in results))
