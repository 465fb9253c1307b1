"""Suites as data, strategies as shapes, and what a grammar makes of them."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from actors.crowd.generator import generate_world
from actors.crowd.world_reader import read_world
from actors.redteam.grammar import FORM, PREFIX, SUFFIX, Grammar
from actors.redteam.strategies import STRATEGIES, Shape
from actors.redteam.suite import PACKAGED
from actors.redteam.suite_reader import load_suite
from actors.redteam.targets import prompt_targets, sandbox_targets, suite_targets
from configs.exits import ConfigError, DataError
from learner.data.categories import BEAVERTAILS_CATEGORIES
from learner.records import Prompt
from tests.actors.redteam.fakes import WORLD, suite, targets

REQUEST = frozenset({"request"})


def test_both_suites_have_every_strategy_and_the_sandbox_has_held_out_and_new_forms():
    for name, world in (("sandbox", WORLD), ("english", None)):
        found = load_suite(name, world)
        assert {form.strategy for form in found.forms} == set(STRATEGIES)
    splits = Counter((form.strategy, form.split) for form in suite().forms)
    assert splits["command_embedding", "heldout"] == 1
    assert all(splits[strategy, "new"] >= 1 for strategy in STRATEGIES)
    assert splits["scenario_assumption", "seen"] == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_sandbox_suite_keeps_to_the_words_of_any_generated_world(seed: int):
    world = read_world(generate_world(seed), "made up")
    grammar = Grammar(load_suite("sandbox", world))
    assert grammar.plain(sandbox_targets(world))


def test_every_attack_holds_the_whole_request_and_nothing_unfilled():
    grammar = Grammar(suite())
    rng = random.Random(0)
    for target in targets(4):
        task = WORLD.task_by_id[target.id]
        for attack in [*grammar.plain([target]), *grammar.draw(target, 30, rng)]:
            said, texts = [], []
            while (found := attack.next_text(said, declined=False)) is not None:
                said.append(found[0])
                texts.append(found[1])
            assert f"{task.verb} a {task.object}" in texts[-1]
            assert not any("{" in text for text in texts)


def test_choices_that_change_nothing_make_the_same_attack():
    grammar = Grammar(suite("direct"))
    one, two = (grammar.attack(targets()[0], {FORM: 0, "scene": scene}) for scene in (0, 2))
    assert one == two
    assert one.id == f"{targets()[0].id}/direct"


def test_a_prefix_and_a_suffix_stand_around_the_turn_that_asks_only():
    grammar = Grammar(suite("multi_turn_escalation"))
    slow = next(i for i, form in enumerate(grammar.suite.forms) if form.id == "slow")
    attack = grammar.attack(targets()[0], {FORM: slow, PREFIX: 1, SUFFIX: 1})
    first = attack.next_text([], declined=False)
    second = attack.next_text([first[0]], declined=False)
    assert not first[1].startswith("please")
    assert second[1].startswith("please , good .")
    assert second[1].endswith("? please .")


def test_drawn_attacks_are_different_and_repeatable():
    grammar = Grammar(suite())
    first, again = (grammar.draw(targets()[0], 25, random.Random(3)) for _ in range(2))
    assert [one.id for one in first] == [one.id for one in again]
    assert len({one.id for one in first}) == 25


def test_an_escalation_meets_a_refusal_once_with_other_words_and_goes_on():
    shape = Shape(("hello", "do {request}", "again {request}"), REQUEST, after_refusal="come on, {request}")
    escalation = STRATEGIES["multi_turn_escalation"]
    assert escalation.next_turn(shape, ["hello"], declined=True) == "do {request}", "nothing was asked yet"
    assert escalation.next_turn(shape, ["hello", "do {request}"], declined=True) == "come on, {request}"
    said = ["hello", "do {request}", "come on, {request}"]
    assert escalation.next_turn(shape, said, declined=True) == "again {request}"
    assert escalation.next_turn(shape, [*said, "again {request}"], declined=True) is None


@pytest.mark.parametrize(
    ("strategy", "turns", "again", "problem"),
    [
        ("direct", ("a {request}", "b {request}"), None, "has 2 turns"),
        ("direct", ("{request}",), "{request}", "after_refusal"),
        ("scenario_assumption", ("{request}, please",), None, "nothing before"),
        ("command_embedding", ("now {request}",), None, "nothing after"),
        ("multi_turn_escalation", ("{request}",), None, "several"),
        ("multi_turn_escalation", ("{request}", "more {request}"), None, "first turn"),
        ("multi_turn_escalation", ("hello", "{request}"), "come on", "ask again"),
    ],
)
def test_a_form_that_is_not_of_its_strategy_is_told(strategy, turns, again, problem):
    assert problem in STRATEGIES[strategy].problem(Shape(turns, REQUEST, again))


def _broken(**changes: object) -> dict[str, object]:
    good = {
        "name": "x",
        "request": ["request"],
        "forms": [{"id": "a", "strategy": "direct", "turns": ["{request}"]}],
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([1], "the suite is no mapping"),
        (_broken(name=None), "lacks 'name'"),
        (_broken(colour=1), "unknown key 'colour'"),
        (_broken(forms=[]), "has no form"),
        (_broken(forms=[{"id": "a", "strategy": "dirct", "turns": ["{request}"]}]), "did you mean 'direct'"),
        (_broken(forms=[{"id": "a", "strategy": "direct", "turns": ["hello"]}]), "never asks"),
        (_broken(forms=[{"id": "a", "strategy": "direct", "turns": ["{request} {x}"]}]), "unknown placeholder 'x'"),
        (_broken(forms=[{"id": "a", "strategy": "direct", "turns": ["{request} {"]}]), "no template"),
        (_broken(forms=[{"id": "a", "strategy": "direct", "turns": ["{request.__class__}"]}]), "unknown placeholder"),
        (_broken(forms=[{"id": "a", "strategy": "direct", "turns": ["{request:d}"]}]), "no template"),
        (_broken(forms=[{"id": "a", "strategy": "direct", "turns": ["{request}"], "needs": ["s"]}]), "no fillers"),
        (_broken(forms=[{"id": "a", "strategy": "direct", "turns": [3]}]), "no text"),
        (_broken(forms=_broken()["forms"] * 2), "is there twice"),
        (_broken(fillers={"request": ["x"]}), "also a placeholder"),
        (_broken(fillers={"s": []}), "is empty"),
        (_broken(prefixes=[None]), "holds None"),
        (_broken(requests=[{"category": "x"}]), "lacks 'request'"),
    ],
)
def test_a_broken_suite_is_one_line_with_file_and_place(tmp_path: Path, raw: object, message: str):
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(DataError) as caught:
        load_suite(str(path))
    assert str(caught.value).startswith("broken.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_yaml_is_told(tmp_path: Path):
    path = tmp_path / "broken.yaml"
    path.write_bytes(b"name: [\xff")
    with pytest.raises(DataError, match=r"broken\.yaml: the suite cannot be read"):
        load_suite(str(path))


def test_an_unknown_suite_strategy_kind_or_split_names_what_there_is():
    with pytest.raises(ConfigError, match="did you mean 'english'"):
        load_suite("englsh")
    with pytest.raises(ConfigError, match="no world"):
        load_suite("sandbox")
    with pytest.raises(ConfigError, match="did you mean 'direct'"):
        suite("dirct")
    with pytest.raises(ConfigError, match="no kind of harmful tasks 'benign'"):
        sandbox_targets(WORLD, kinds=["benign"])
    with pytest.raises(ConfigError, match="ask for others"):
        sandbox_targets(WORLD, splits=[])


def test_a_suite_with_a_word_that_the_world_lacks_is_refused(tmp_path: Path):
    text = (PACKAGED / "sandbox.yaml").read_text().replace("tell me how to {verb}", "kindly tell me how to {verb}", 1)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(DataError, match="the word 'kindly' is none of the world's"):
        load_suite(str(tmp_path / "mine.yaml"), WORLD)


def test_a_world_form_of_another_shape_is_refused(tmp_path: Path):
    text = (PACKAGED / "sandbox.yaml").read_text().replace("escalation: multi_turn_escalation", "escalation: direct")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(DataError, match=r"world_forms\.escalation has 2 turns"):
        load_suite(str(tmp_path / "mine.yaml"), WORLD)


def test_targets_know_kind_split_and_category():
    found = sandbox_targets(WORLD, kinds=["harmful", "dual_use"], splits=["heldout"])
    assert {one.kind for one in found} == {"harmful", "dual_use"}
    assert all(WORLD.task_by_id[one.id].split == "heldout" and one.category for one in found)
    assert found == sandbox_targets(WORLD, kinds=["harmful", "dual_use"], splits=["heldout"])


def test_english_requests_are_the_suites_own_or_a_sources():
    english = load_suite("english")
    own = suite_targets(english)
    assert {one.category for one in own} <= set(BEAVERTAILS_CATEGORIES)
    message = ({"role": "user", "content": " Who {am} I? "},)
    (given,) = prompt_targets([Prompt("p", message, "here", "c")])
    attack = Grammar(english).attack(given, {})
    assert attack.next_text([], declined=False)[1] == "Who {am} I?"
